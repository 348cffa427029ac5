"""Points as they cross the pipe to Edge's process."""

from typing import Any

import numpy as np
import pytest

from indexer.domain.documents import point_id
from indexer.domain.points import Part, Point
from indexer.store.base import Layout
from indexer.store.bm25 import document_words
from indexer.store.edge.batch import dimensions_apart, engine_points, pack
from indexer.store.payload import payload_of
from indexer.store.vectors import DENSE, LATENTS, PARTS, words_name
from model.errors import InvalidInput

D = 3


def point(document_id: str, text: str | None = None, **more: Any) -> Point:
    vector = np.array([0, 3, 4], np.float32)
    return Point(document_id, vector, text, None, {"tags": ["x", None], "n": 2**60}, "h", **more)


def several(document_id: str) -> Point:
    rows = np.array([[2, 0, 0], [0, 0, 5]], np.float32)
    return point(document_id, "a b", parts=(Part(0, 1), Part(2, 3)), part_vectors=rows)


@pytest.mark.parametrize(("parts", "apart"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("latents", [False, True])
def test_points_become_what_the_engine_holds(parts: bool, apart: bool, latents: bool) -> None:
    layout = Layout(D, latents=latents, parts=parts, apart=apart)
    points = [point("a", "red red boat"), point("b"), point("c", "!"), *([several("d")] if parts else [])]
    if latents:
        rows = np.array([[0, 0, 2], [6, 0, 8]], np.float32)
        points = [point("a", "boat", latents=rows), point("b", latents=rows[:1])]
    batch = pack(points, layout)
    assert dimensions_apart(batch) == (D if apart and not latents else None)
    packed = engine_points(batch)
    assert [str(each.id) for each in packed] == [point_id(each.document_id) for each in points]
    for engine, posted in zip(packed, points, strict=True):
        assert engine.payload == payload_of(posted)
        vectors = engine.vector if isinstance(engine.vector, dict) else {DENSE: engine.vector}
        unit = posted.vectors / np.linalg.norm(posted.vectors, axis=1, keepdims=True)
        # The engine takes a single vector for a list of one.
        name = PARTS if apart and len(unit) > 1 else DENSE
        np.testing.assert_allclose(vectors.pop(name), unit if len(unit) > 1 else unit[0], atol=1e-7)
        if posted.latents is not None:
            lengths = np.linalg.norm(posted.latents, axis=1, keepdims=True)
            np.testing.assert_allclose(np.atleast_2d(vectors.pop(LATENTS)), posted.latents / lengths, atol=1e-7)
        words = document_words(posted.text or "", "simple")
        if words.ids:
            sparse = vectors.pop(words_name("simple"))
            assert sparse.indices == list(words.ids)
            np.testing.assert_allclose(sparse.values, words.weights, rtol=1e-6)
        assert vectors == {}


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize("bad", [[0, 0, 0], [np.nan, 0, 0], [1, 2], [np.inf, 0, 0]])
def test_the_point_with_an_impossible_vector_is_named(parts: bool, bad: list[float]) -> None:
    wrong = Point("wrong", np.array(bad, np.float32), None, None, {}, "")
    with pytest.raises(InvalidInput, match="of wrong has"):
        pack([point("a"), wrong, point("b")], Layout(D, parts=parts))


def test_parts_are_refused_by_a_collection_of_before() -> None:
    with pytest.raises(InvalidInput, match="d has 2 parts"):
        pack([point("a"), several("d")], Layout(D))


@pytest.mark.parametrize("value", [object(), {1, 2}, "\ud800", 2**70], ids=["object", "set", "surrogate", "71 bits"])
def test_a_value_that_cannot_be_packed_is_refused(value: object) -> None:
    wrong = Point("wrong", np.ones(D, np.float32), None, None, {"x": value}, "")
    with pytest.raises(InvalidInput, match="the store cannot hold this value"):
        pack([wrong], Layout(D))
