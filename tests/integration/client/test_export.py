"""`ret2 export` and `ret2 load`: what is exported comes back the same, without a model where it came with embeddings."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from threaded_server import serving
from typer.testing import CliRunner

from service.cli.main import app
from service.client.client import Client
from service.settings import Settings
from service.wiring import build

METADATA = {"price": 5.5, "nested": {"list": [1, "a", None]}, "nothing": None, "large": 2**60}


@pytest.fixture
def client(tmp_path: Path, runtime: Any) -> Iterator[Client]:
    with serving(lambda: build(Settings(data_dir=tmp_path / "data", port=0), runtime)) as url, Client(url) as client:
        yield client


@pytest.fixture
def ret2(client: Client, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("RET2_URL", client.url)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def filled(client: Client, make_image: Callable[..., bytes]) -> Client:
    client.create_collection("c")
    documents: list[dict[str, Any]] = [
        {"id": f"d/{n}", "text": f"word{n} \u2028 é", "metadata": {**METADATA, "n": n}} for n in range(30)
    ]
    documents += [{"id": "both", "text": "red", "image": make_image("red")}, {"id": "red", "image": make_image("red")}]
    client.load("c", documents).require_all()
    return client


def content(client: Client, collection: str) -> list[dict[str, Any]]:
    return [
        {"id": document.id, "text": document.text, "metadata": document.metadata}
        | {"digest": (document.image_url or "").partition("?")[2], "vector": document.vector}
        for document in client.scroll(collection, page=7, with_vector=True)
    ]


@pytest.mark.parametrize("name", ["shop.jsonl", "shop.parquet"])
def test_a_collection_goes_out_and_comes_back(
    filled: Client, ret2: Callable[..., Any], runtime: Any, tmp_path: Path, name: str
) -> None:
    exported = ret2("export", "c", tmp_path / name, "--vectors", "--images", tmp_path / "pictures")
    assert exported.exit_code == 0, exported.output
    assert "32 documents" in exported.stdout
    assert "left out" not in exported.stdout
    assert len(list((tmp_path / "pictures").iterdir())) == 1, "one picture of two documents"
    runtime.gate.clear()
    try:
        loaded = ret2("load", tmp_path / name, "-c", "again")
        assert loaded.exit_code == 0, loaded.output
        assert "32 indexed, 0 skipped, 0 failed" in loaded.stdout
    finally:
        runtime.gate.set()
    before, after = content(filled, "c"), content(filled, "again")
    for one, other in zip(before, after, strict=True):
        assert np.allclose(one.pop("vector"), other.pop("vector"), atol=1e-6)
        assert one == other
    assert "0 indexed, 32 skipped" in ret2("load", tmp_path / name, "-c", "c").stdout, "it is what was posted"


@pytest.mark.parametrize("name", ["long.jsonl", "long.parquet"])
def test_documents_of_several_parts_come_back_with_all_their_embeddings(
    client: Client, ret2: Callable[..., Any], runtime: Any, make_image: Callable[..., bytes], tmp_path: Path, name: str
) -> None:
    client.create_collection("c")
    pictures = [make_image(colour) for colour in ("red", "green", "blue")]
    documents: list[dict[str, Any]] = [
        {"id": "long", "text": "A sentence of some words stands here. " * 90, "image": pictures[0]},
        {"id": "several", "images": pictures},
        {"id": "both", "text": "Other words stand here. " * 90, "images": pictures},
        {"id": "short", "text": "short"},
    ]
    client.load("c", documents).require_all()
    exported = ret2("export", "c", tmp_path / name, "--vectors", "--images", tmp_path / "pictures")
    assert exported.exit_code == 0, exported.output
    assert "left out" not in exported.stdout
    runtime.gate.clear()
    try:
        loaded = ret2("load", tmp_path / name, "-c", "again")
        assert "4 indexed, 0 skipped, 0 failed" in loaded.stdout, loaded.output
    finally:
        runtime.gate.set()
    for document in documents:
        before, after = (client.get_documents(one, [document["id"]], with_vector=True)[0] for one in ("c", "again"))
        assert (before.parts is None) == (document["id"] == "short")
        for part, other in zip(before.parts or [], after.parts or [], strict=True):
            assert np.allclose(part.vector or [], other.vector or [], atol=1e-6)
            assert (part.start, part.end) == (other.start, other.end)
    assert "0 indexed, 4 skipped" in ret2("load", tmp_path / name, "-c", "c").stdout, "it is what was posted"
    # Cut otherwise there, so what came with a text of several passages is embedded again.
    client.create_collection("other", passages={"tokens": 500})
    assert "4 indexed" in ret2("load", tmp_path / name, "-c", "other").stdout
    (long,) = client.get_documents("other", ["long"], with_vector=True)
    assert len(long.parts or ()) > len(client.get_documents("c", ["long"])[0].parts or ())


def test_without_vectors_it_is_embedded_and_what_is_left_out_is_said(
    filled: Client, ret2: Callable[..., Any], tmp_path: Path
) -> None:
    exported = ret2("export", "c", tmp_path / "part.jsonl", "--filter", '{"any": [{"field": "n", "lt": 3}]}')
    assert "3 documents" in exported.stdout
    exported = ret2("export", "c", tmp_path / "all.jsonl")
    assert "left out of 2 documents: image: --images FOLDER exports it" in exported.stdout
    exported = ret2("export", "c", tmp_path / "vectors.jsonl", "--vectors")
    assert "left out of 2 documents: vector: it is of the image too" in exported.stdout
    loaded = ret2("load", tmp_path / "vectors.jsonl", "-c", "vectors")
    assert "31 indexed, 0 skipped, 1 failed" in loaded.stdout, "the one without text is nothing without its image"
    loaded = ret2("load", tmp_path / "part.jsonl", "-c", "part")
    assert "3 indexed" in loaded.stdout, loaded.output
    again = {document["id"]: document for document in content(filled, "part")}
    for document in content(filled, "c"):
        if document["id"] in again:
            assert np.allclose(document["vector"], again[document["id"]]["vector"], atol=1e-6)


def test_embeddings_of_another_model_are_not_used(filled: Client, ret2: Callable[..., Any], tmp_path: Path) -> None:
    ret2("export", "c", tmp_path / "all.jsonl", "--vectors", "--filter", '{"field": "n", "lt": 3}')
    records = [json.loads(line) for line in (tmp_path / "all.jsonl").read_bytes().splitlines()]
    for record in records:
        record["fingerprint"] = "of another model"
        record["vector"] = [1.0] * 3
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    loaded = ret2("load", tmp_path / "other.jsonl", "-c", "other")
    assert "3 documents came with embeddings of another model, and were embedded again" in loaded.stdout
    again = {document["id"]: document for document in content(filled, "other")}
    for document in content(filled, "c"):
        if document["id"] in again:
            assert np.allclose(document["vector"], again[document["id"]]["vector"], atol=1e-6)


def test_exports_that_cannot_be(filled: Client, ret2: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "there.jsonl").touch()
    for arguments, words in (
        (["c", tmp_path / "shop.csv"], "an export is .jsonl or .parquet"),
        (["c", tmp_path / "there.jsonl"], "is there already"),
        (["nothing", tmp_path / "new.jsonl"], "no collection 'nothing'"),
        (["c", tmp_path / "new.jsonl", "--images", tmp_path.parent], "is not below the folder"),
    ):
        refused = ret2("export", *arguments)
        assert refused.exit_code == 1
        assert words in refused.output.replace("\n", " ")
    assert not [*tmp_path.glob("*new*"), *tmp_path.glob(".*part")], "nothing is half done"


@pytest.mark.parametrize(
    ("vector", "words"),
    [
        ({"vector": [1.0]}, "vector and fingerprint go together"),
        ({"fingerprint": "f"}, "vector and fingerprint go together"),
        ({"vector": "no base64!", "fingerprint": "f"}, "not the base64 of float32 values"),
        ({"vector": "AAAA", "fingerprint": "f"}, "not the base64 of float32 values"),
        ({"vector": [0.0, 0.0], "fingerprint": "f"}, "empty or zero"),
        ({"vector": [1e300], "fingerprint": "f"}, "not finite"),
        ({"parts": [[0, 1], [2, 3]]}, "parts are those of vector"),
        ({"vector": [1.0, 2.0, 3.0], "fingerprint": "f", "parts": [[0, 1], [2, 3]]}, "no embeddings of 2 parts"),
        ({"vector": [1.0], "fingerprint": "f", "parts": [[0, 1]]}, "at least 2"),
        ({"vector": [1.0], "fingerprint": "f", "parts": [[-1, 2], [None, None]]}, "greater than or equal to 0"),
        ({"vector": [], "fingerprint": "f"}, "empty or zero"),
    ],
)
def test_a_wrong_embedding_is_refused(client: Client, vector: Any, words: str) -> None:
    client.create_collection("c")
    (posted,) = client.post_documents("c", [{"id": "a", "text": "a", **vector}])
    assert words in posted.rejected[0].detail
