"""`ret2 load` reads every format of the imports, and says of each failure where it stands."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest
from typer.testing import CliRunner

from service.cli import load as load_command
from service.cli import main
from service.client.types import Loaded


class FakeClient:
    """Takes everything."""

    taken: list[dict[str, Any]]

    def __init__(self, *_: Any, **__: Any) -> None:
        FakeClient.taken = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def create_collection(self, name: str) -> Any:
        assert name == "c"
        return SimpleNamespace(fingerprint="of the model")

    def load(self, _name: str, documents: Iterable[dict[str, Any]], *, on_progress: Callable[[int], None]) -> Loaded:
        FakeClient.taken += documents
        on_progress(len(FakeClient.taken))
        return Loaded(sent=len(FakeClient.taken), indexed=len(FakeClient.taken), skipped=0, rejected=(), failures=())


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(load_command, "Client", FakeClient)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(main.app, ["load", *map(str, arguments), "-c", "c"])


def test_a_tar_a_gz_and_a_csv_in_one_command(load: Callable[..., Any], tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        info = tarfile.TarInfo("7.txt")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"a cat"))
    (tmp_path / "docs.jsonl.gz").write_bytes(gzip.compress(b'{"id": "a", "text": "x"}\n{oops\n'))
    (tmp_path / "docs.csv").write_text("id,text\nb,y\n")
    result = load(tmp_path / "docs.csv", tmp_path / "shard.tar", tmp_path / "docs.jsonl.gz")
    assert result.exit_code == 1
    assert "docs.jsonl.gz line 2 is not JSON" in result.stdout
    assert FakeClient.taken[-1] == {"id": "a", "text": "x"}
    assert any(each.get("text") == "a cat" for each in FakeClient.taken)


def test_a_mapping_and_a_format(load: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"caption": "a cat", "n": 1}) + "\n")
    assert load(path, "--mapping", '{"text": "caption"}').exit_code == 0
    assert FakeClient.taken == [{"text": "a cat"}]
    path.write_text(json.dumps({"did": "9:1", "txt": "a dog"}) + "\n")
    assert load(path, "--format", "mbeir").exit_code == 0
    assert FakeClient.taken == [{"id": "9:1", "text": "A dog."}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "xml"], "format is 'xml', allowed are jsonl, csv"),
        (["--mapping", "{"], "--mapping is not JSON"),
        (["--mapping", '{"txt": "x"}'], "mapping.txt is unknown"),
    ],
)
def test_wrong_arguments_are_one_line(
    load: Callable[..., Any], tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "x.jsonl").write_text("{}\n")
    result = load(tmp_path / "x.jsonl", *arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"ret2: {message}")


def test_what_documents_have_not_is_said_at_the_end(load: Callable[..., Any], tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for kind in ("front.jpg", "back.jpg", "txt"):
            info = tarfile.TarInfo(f"7.{kind}")
            info.size = 5
            archive.addfile(info, io.BytesIO(b"a cat"))
    result = load(tmp_path / "shard.tar")
    assert result.exit_code == 0
    assert (
        "left out once: a picture (.jpg) of a sample that its document does not use (shard.tar sample 1)"
        in result.stdout
    )
