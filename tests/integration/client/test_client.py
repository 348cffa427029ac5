"""The client and the commands against the real application over HTTP, with a model of a few lines behind it."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from threaded_server import serving
from typer.testing import CliRunner

from indexer.domain.jobs import JobState
from model.errors import Conflict, InvalidInput, NotFound
from model.evaluation.recall import Item
from model.types import Input
from service.cli import evaluation
from service.cli.main import app
from service.client.client import Client
from service.client.types import Search, SearchResult
from service.settings import Settings
from service.wiring import build


@pytest.fixture
def url(tmp_path: Path, runtime: Any) -> Iterator[str]:
    """A whole embedded service in a thread."""
    with serving(lambda: build(Settings(data_dir=tmp_path / "data", port=0), runtime)) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url) as client:
        yield client


def test_from_an_empty_service_to_a_hit(client: Client, make_image: Callable[..., bytes]) -> None:
    assert client.ready()
    assert client.info().default.dimensions == 64
    assert client.create_collection("c").documents == 0
    documents = [{"id": f"d/{n}", "text": f"word{n}", "metadata": {"n": n}} for n in range(20)]
    documents.append({"id": "picture", "image": make_image("blue")})
    seen: list[int] = []
    loaded = client.load("c", documents, on_progress=seen.append)
    assert (loaded.sent, loaded.indexed, loaded.rejected, loaded.failures, loaded.left) == (21, 21, (), (), 0)
    assert seen[-1] == 21
    (collection,) = client.collections()
    assert (collection.name, collection.documents, collection.compatible) == ("c", 21, True)

    result = client.search("c", "word7", limit=3)
    assert (result.hits[0].id, result.hits[0].metadata) == ("d/7", {"n": 7})
    assert result.hits[0].score == pytest.approx(1.0, abs=1e-3)
    assert result.timings.total_ms > 0
    assert client.search("c", image=make_image("blue")).hits[0].id == "picture"
    assert client.search("c", "word7", filter={"field": "n", "equals": 8}).hits[0].id == "d/8"
    assert client.document("c", "d/7").text == "word7"
    assert len({hit.id for hit in client.search_all("c", "word7", page=8)}) == 21
    assert client.search("c", positive=["d/7"], negative=[{"text": "word8"}], limit=30).hits[-1].id == "d/8"
    groups = client.search("c", "word7", group_by="n", limit=2, metadata_fields=False).groups
    assert (groups[0].value, groups[0].hits[0].metadata) == (7, {})

    assert client.change_collection("c", limit=4, indexes={"n": "number"}).indexes == {"n": "number"}
    assert len(client.search("c", "word7").hits) == 4
    client.set_alias("live", "c")
    assert client.search("live", "word7").hits[0].id == "d/7"
    assert (client.aliases(), client.collection("live").aliases) == ({"live": "c"}, ["live"])
    client.delete_alias("live")
    assert client.aliases() == {}
    client.wait_job(client.delete_documents("c", filter={"field": "n", "gte": 15}).id)
    assert client.collection("c").documents == 16
    client.wait_job(client.delete_documents("c", ["d/7"]).id)
    with pytest.raises(NotFound):
        client.document("c", "d/7")
    client.delete_collection("c")
    assert client.collections() == []


def test_one_bad_item_harms_only_itself(client: Client) -> None:
    client.create_collection("c")
    loaded = client.load(
        "c", [{"id": "a", "text": "x"}, {"id": "b"}, {"id": "d", "text": "y", "image": b"not an image"}]
    )
    assert loaded.indexed == 1
    assert {one.id for one in loaded.rejected} | {one.id for one in loaded.failures} == {"b", "d"}
    first, second = client.search_batch([Search("c", "x"), Search("none", "x")])
    assert isinstance(first, SearchResult)
    assert first.hits[0].id == "a"
    assert isinstance(second, NotFound)
    good, bad = client.encode([{"text": "x"}, {"text": ""}])
    assert isinstance(good, list)
    assert len(good) == 64
    assert isinstance(bad, InvalidInput)


def test_the_same_key_is_the_same_job(client: Client) -> None:
    client.create_collection("c")
    (first,) = client.post_documents("c", [{"id": "a", "text": "x"}], idempotency_key="k")
    (second,) = client.post_documents("c", [{"id": "a", "text": "x"}], idempotency_key="k")
    assert first.job is not None
    assert second.job is not None
    assert first.job.id == second.job.id
    with pytest.raises(Conflict):
        client.post_documents("c", [{"id": "a", "text": "y"}, {"id": "b", "text": "y"}], idempotency_key="k")
    assert client.wait_job(first.job.id).state is JobState.SUCCEEDED
    assert [job.id for job in client.jobs(collection="c")] == [first.job.id]


def test_the_commands_end_to_end(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RET2_URL", url)
    monkeypatch.setenv("COLUMNS", "200")

    def ret2(*arguments: Any) -> Any:
        return CliRunner().invoke(app, list(map(str, arguments)))

    file = tmp_path / "docs.jsonl"
    lines = [{"id": str(n), "text": f"word{n}"} for n in range(300)] + [{"id": "bad"}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    loaded = ret2("load", file, "-c", "c")
    assert loaded.exit_code == 1
    assert "300 indexed, 0 skipped, 1 failed" in loaded.stdout
    assert "docs.jsonl line 301: neither text nor image" in loaded.stdout
    assert "0 indexed, 300 skipped" in ret2("load", file, "-c", "c").stdout
    assert "word42" in ret2("search", "word42", "-c", "c", "-n", 1).stdout
    assert "300" in ret2("collections").stdout
    assert "succeeded" in ret2("jobs").stdout
    unknown = ret2("search", "x", "-c", "none")
    assert unknown.exit_code == 1
    assert "none" in unknown.stderr


def test_an_evaluation_searches_the_corpus_and_nothing_else(client: Client) -> None:
    def items(*numbers: int) -> list[Item]:
        return [Item(f"d{n}", "s", Input(f"word{n}")) for n in numbers]

    def fill(corpus: list[Item]) -> None:
        evaluation._fill(client, "atlas-eval-text", client.info().default.name, corpus, lambda _: None)

    fill(items(1, 2, 3))
    made = client.collection("atlas-eval-text").created_at
    fill(items(1, 2, 3))
    assert client.collection("atlas-eval-text").created_at == made  # complete: used as it is
    fill(items(2, 3, 4))
    assert {hit.id for hit in client.search("atlas-eval-text", "word1").hits} == {"d2", "d3", "d4"}
    with pytest.raises(InvalidInput, match="1 of 4 documents were not indexed; the first: "):
        fill([*items(2, 3, 4), Item("bad", "s", Input("x" * 10**7))])
