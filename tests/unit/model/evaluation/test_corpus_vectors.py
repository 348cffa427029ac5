from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.errors import InvalidInput
from model.evaluation import corpus_vectors
from model.evaluation.benchmark_files import Entry
from model.evaluation.corpus_vectors import Corpus, Embedded, Embedder, Faults
from model.images.decoding import decode_image
from model.types import Float32, Input, Limits, ModelInfo, Prepared, Role

E = 6


class FakeModel:
    """Embeds text by its characters and an image by its colour; counts what was encoded, and can stop."""

    info = ModelInfo("fake", "fingerprint", E, 100, 8)

    def __init__(self) -> None:
        self.encoded: list[Prepared] = []
        self.stop_after = 10**9

    def prepare(self, item: Input, role: Role, limits: Limits) -> Prepared:
        pixels = None
        if item.image is not None:
            pixels = np.asarray(decode_image(item.image, limits), np.float32)[0, 0]
        tokens = np.array([ord(char) for char in item.text or ""], np.int64) if item.text else None
        return Prepared(role, tokens, pixels, 1)

    def encode(self, batch: Sequence[Prepared]) -> Float32:
        if len(self.encoded) + len(batch) > self.stop_after:
            raise RuntimeError("power cut")
        self.encoded += batch
        rows = np.full((len(batch), E), 0.01, np.float32)
        for row, item in zip(rows, batch, strict=True):
            for token in [] if item.tokens is None else item.tokens:
                row[token % 3] += token
            if item.pixels is not None:
                row[3:] += item.pixels
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def texts(n: int) -> list[Entry]:
    return [Entry(f"d{place}", f"text {place}", None) for place in range(n)]


def embed(embedder: Embedder, entries: Sequence[Entry], role: Role = Role.DOCUMENT) -> Embedded:
    return embedder.embed(lambda: iter(entries), role, "some")


def picture(path: Path, colour: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(file, "PNG")
    path.write_bytes(file.getvalue())
    return path


def test_rows_come_in_order_whatever_the_batch(tmp_path: Path) -> None:
    entries = texts(11)
    whole, batches = (embed(Embedder(FakeModel(), [tmp_path], batch=batch), entries) for batch in (100, 3))
    assert whole.ids == batches.ids == [entry.id for entry in entries]
    np.testing.assert_array_equal(whole.vectors, batches.vectors)
    assert len(np.unique(whole.vectors, axis=0)) > 5


def test_images_are_read_from_the_first_root_that_has_them(tmp_path: Path) -> None:
    picture(tmp_path / "second/a/red.png", "red")
    roots = [tmp_path / "first", tmp_path / "second"]
    found = embed(Embedder(FakeModel(), roots), [Entry("d", None, "a/red.png"), Entry("e", "text", "a/red.png")])
    assert found.faults.images == 0
    assert found.vectors[0].argmax() == 3
    assert found.vectors[1][3] > 0.1 < found.vectors[1][:3].max()


def test_missing_and_broken_images_are_counted_and_the_text_stays(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    entries = [Entry("a", "text", "gone.png"), Entry("b", "text", "broken.png"), Entry("c", None, "gone.png")]
    found = embed(Embedder(FakeModel(), [tmp_path]), [*entries, Entry("d", None, None), Entry("e", "text", None)])
    assert (found.faults.images, found.faults.empty) == (3, 2)
    assert "a: gone.png: no such file in" in found.faults.examples[0]
    assert "b: broken.png: image cannot be read" in found.faults.examples[1]
    np.testing.assert_array_equal(found.vectors[0], found.vectors[4])
    assert found.vectors.any(axis=1).tolist() == [True, True, False, False, True]


def test_strict_ends_at_the_first_missing_image(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"a: gone\.png: no such file"):
        embed(Embedder(FakeModel(), [tmp_path], strict=True), [Entry("a", "text", "gone.png")])


def test_a_wrong_row_is_found_before_anything_is_encoded(tmp_path: Path) -> None:
    model = FakeModel()

    def entries():
        yield from texts(5)
        raise InvalidInput("file line 6")

    with pytest.raises(InvalidInput, match="line 6"):
        Embedder(model, [tmp_path], batch=1).embed(entries, Role.DOCUMENT, "some")
    assert model.encoded == []


def test_a_broken_off_run_goes_on_where_it_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_vectors, "_SAVE_EVERY_ROWS", 4)
    entries = [Entry("gone", "t", "gone.png"), *texts(19)]
    expected = embed(Embedder(FakeModel(), [tmp_path]), entries).vectors
    cut = FakeModel()
    cut.stop_after = 13
    with pytest.raises(RuntimeError, match="power cut"):
        embed(Embedder(cut, [tmp_path], batch=2, cache=tmp_path / "cache"), entries)
    again = FakeModel()
    found = embed(Embedder(again, [tmp_path], batch=2, cache=tmp_path / "cache"), entries)
    assert len(again.encoded) == 20 - 12
    assert found.vectors.dtype == np.float16
    np.testing.assert_allclose(found.vectors, expected, atol=1e-3)
    assert found.faults.images == 1  # from the first run's note
    third = FakeModel()
    embed(Embedder(third, [tmp_path], cache=tmp_path / "cache"), entries)
    assert third.encoded == []


@pytest.mark.parametrize("change", ["model", "text", "role"])
def test_kept_embeddings_are_for_the_same_model_rows_and_role(tmp_path: Path, change: str) -> None:
    cache = tmp_path / "cache"
    embed(Embedder(FakeModel(), [tmp_path], cache=cache), texts(3))
    model = FakeModel()
    if change == "model":
        model.info = ModelInfo("fake", "another fingerprint", E, 100, 8)
    entries = [*texts(2), Entry("d2", "another text", None)] if change == "text" else texts(3)
    embed(Embedder(model, [tmp_path], cache=cache), entries, Role.QUERY if change == "role" else Role.DOCUMENT)
    assert len(model.encoded) == 3


def test_a_note_without_its_file_is_not_believed(tmp_path: Path) -> None:
    embed(Embedder(FakeModel(), [tmp_path], cache=tmp_path / "cache"), texts(3))
    [file] = (tmp_path / "cache").glob("*.npy")
    assert json.loads(file.with_suffix(".json").read_text())["done"] == 3
    file.unlink()
    again = FakeModel()
    embed(Embedder(again, [tmp_path], cache=tmp_path / "cache"), texts(3))
    assert len(again.encoded) == 3


def test_only_two_batches_are_prepared_ahead(tmp_path: Path) -> None:
    model, taken, most = FakeModel(), 0, 0

    def entries():
        nonlocal taken
        for entry in texts(30):
            taken += 1
            yield entry

    encode = model.encode

    def counting(batch: Sequence[Prepared]) -> Float32:
        nonlocal most
        most = max(most, taken - 30 - len(model.encoded))  # 30: the first reading, which only checks
        return encode(batch)

    model.encode = counting  # type: ignore[method-assign]
    Embedder(model, [tmp_path], batch=3).embed(entries, Role.DOCUMENT, "some")
    assert most == 6


def corpus_of(*parts: Float32, ids: Sequence[Sequence[str]] | None = None) -> Corpus:
    names = ids or [[f"{number}-{row}" for row in range(len(part))] for number, part in enumerate(parts)]
    return Corpus([Embedded(list(one), part, Faults()) for one, part in zip(names, parts, strict=True)])


def test_search_is_exact_over_chunks_and_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_vectors, "_CHUNK_ROWS", 7)
    monkeypatch.setattr(corpus_vectors, "_BLOCK_ROWS", 4)
    generator = np.random.default_rng(0)
    queries, one, two = (generator.standard_normal((n, E)).astype(np.float32) for n in (10, 23, 40))
    expected = np.argsort(-(queries @ np.concatenate([one, two]).T), axis=1)[:, :12]
    assert corpus_of(one, two).best(queries, 12) == expected.tolist()


def test_what_has_no_vector_is_not_found_and_finds_nothing() -> None:
    candidates = np.array([[1, 0], [0, 0], [-1, 0]], np.float32)
    assert corpus_of(candidates).best(np.array([[1, 0], [0, 0]], np.float32), 3) == [[0, 2], []]


def test_a_candidate_of_two_files_is_in_the_union_once() -> None:
    one = two = np.array([[1, 0], [0.5, 0]], np.float32)
    corpus = corpus_of(one, two, ids=[["a", "b"], ["a", "c"]])
    assert len(corpus) == 3
    [places] = corpus.best(np.array([[1, 0]], np.float32), 10)
    assert sorted(corpus.ids[place] for place in places) == ["a", "b", "c"]
