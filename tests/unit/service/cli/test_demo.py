"""What the demo takes for its own service, what it fills, and when it says that a hit is wrong."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from service_answers import answer

from model.errors import NotFound
from model.evaluation.atlas import Atlas
from service.cli import demo, demo_photographs
from service.client.types import Hit, Loaded, SearchResult
from service.data_lock import only_server_of, server_of

URL = "http://127.0.0.1:1"


class Service:
    """A collection that holds documents, and answers of which the first hit is right or not."""

    def __init__(
        self, *, documents: int | None = None, compatible: bool = True, first: list[str] | None = None
    ) -> None:
        self.documents, self.compatible, self.first = documents, compatible, iter(first or [])
        self.calls: list[str] = []

    def ready(self) -> bool:
        return True

    def collection(self, _name: str) -> Any:
        if self.documents is None:
            raise NotFound
        return SimpleNamespace(documents=self.documents, compatible=self.compatible)

    def delete_collection(self, name: str) -> None:
        self.calls.append(f"delete {name}")

    def create_collection(self, name: str, **settings: Any) -> None:
        self.calls.append(f"create {name}")
        self.settings = settings

    def load(self, name: str, documents: Iterable[Any], **_options: Any) -> Loaded:
        self.calls.append(f"load {name}")
        documents = self.loaded = list(documents)
        return Loaded(len(documents), len(documents), 0, (), ())

    def search(self, *_asked: Any, **_options: Any) -> SearchResult:
        return SearchResult.model_validate(answer(SearchResult, hits=[answer(Hit, id=next(self.first))]))

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return Atlas.read()


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO())


def running(note: Any, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    monkeypatch.setattr(demo, "Client", lambda *_, **__: Service())
    (data_dir / "demo.json").write_text(note if isinstance(note, str) else json.dumps(note))
    return demo._running(data_dir / "demo.json", data_dir)


def test_a_service_is_the_demos_own_only_while_it_has_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the address of a stale note another service may answer, ready as ours would be."""
    note = {"url": URL, "pid": os.getpid()}
    assert running(note, tmp_path, monkeypatch) is None
    with only_server_of(tmp_path):
        assert server_of(tmp_path) == os.getpid()
        assert running(note, tmp_path, monkeypatch) == URL
        for other in ({"url": URL, "pid": os.getpid() + 1}, {"url": URL}, {"pid": os.getpid()}, [], "{"):
            assert running(other, tmp_path, monkeypatch) is None
    assert server_of(tmp_path) is None
    assert running(note, tmp_path, monkeypatch) is None


def test_fill_loads_what_is_missing(atlas: Atlas, console: Console) -> None:
    whole = len(demo.atlas_documents(atlas))
    for service, calls in (
        (Service(), ["create atlas", "load atlas"]),
        (Service(documents=whole), []),
        (Service(documents=whole - 1), ["create atlas", "load atlas"]),
        (Service(documents=whole, compatible=False), ["delete atlas", "create atlas", "load atlas"]),
    ):
        demo.fill(service, atlas, console)  # type: ignore[arg-type]
        assert service.calls == calls


def test_the_photographs_are_those_of_the_folder(console: Console) -> None:
    for service, calls in (
        (Service(), ["create photographs", "load photographs"]),
        (Service(documents=8), ["create photographs", "load photographs"]),
        (Service(documents=8, compatible=False), ["delete photographs", "create photographs", "load photographs"]),
    ):
        demo_photographs.fill(service, console)  # type: ignore[arg-type]
        assert service.calls == calls
        assert service.settings["model"] == "everyday"
        assert len(service.loaded) == 8
        assert demo_photographs.RIGHT in {document["id"] for document in service.loaded}
    listed = (demo_photographs.FOLDER / "ATTRIBUTION.md").read_text()
    for file in demo_photographs.FOLDER.glob("*.jpg"):
        assert f"| `{file.name}` |" in listed, "its author and licence"
        assert file.stat().st_size <= 60_000


@pytest.mark.parametrize("wrong", [None, 2, 4])
def test_one_wrong_first_hit_is_a_failure(
    atlas: Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: int | None
) -> None:
    first = [*demo.EXAMPLE_DOCUMENTS, demo_photographs.RIGHT]
    if wrong is not None:
        first[wrong] = first[wrong - 1]
    service = Service(documents=len(demo.atlas_documents(atlas)), first=first)

    @contextmanager
    def started(*_: Any) -> Iterator[str]:
        yield URL

    monkeypatch.setattr(demo, "running_service", started)
    monkeypatch.setattr(demo, "Client", lambda *_, **__: service)
    monkeypatch.setattr(demo, "_measure", lambda *_: None)
    assert demo.run(once=True, port=1, data_dir=tmp_path) is (wrong is None)
