"""Merge patches, and the content hashes of patched documents."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.domain.documents import content_hash, stamped
from indexer.domain.patches import Patched, merged
from indexer.domain.points import Point
from model.errors import InvalidInput

# RFC 7396, appendix A, without the cases whose target is no object: metadata always are.
RFC = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ({"a": "foo"}, {"a": {"b": 1}}, {"a": {"b": 1}}),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), JSON, max_size=3)


@pytest.mark.parametrize(("target", "patch", "result"), RFC)
def test_the_examples_of_the_rfc(target: Any, patch: Any, result: Any) -> None:
    assert merged(target, patch) == result


@given(OBJECTS, OBJECTS)
def test_a_patch_that_was_applied_changes_nothing_when_it_is_applied_again(target: Any, patch: Any) -> None:
    once = merged(target, patch)
    assert merged(once, patch) == once


def point(text: str | None = "t", image: str | None = None, original: str | None = None, **metadata: Any) -> Point:
    content = content_hash(text, original or image, metadata)
    return Point("a", np.ones(2, np.float32), text, image, metadata, stamped(content, "model"))


def patched(before: Point, **patch: Any) -> Patched:
    return Patched.unchanged(before).apply(patch)


def test_the_content_is_that_of_the_same_document_posted_whole() -> None:
    assert patched(point(x=1), metadata={"x": 2}).content == content_hash("t", None, {"x": 2})
    assert patched(point(image="i", x=1), metadata={"x": 2}).content == content_hash("t", "i", {"x": 2})
    assert patched(point(image="i", x=1), text=None).content == content_hash(None, "i", {"x": 1})
    assert patched(point(image="small", original="i", x=1), image=None).content == content_hash("t", None, {"x": 1})


def test_of_a_thumbnail_the_content_is_another_one_with_each_change() -> None:
    """The document posted whole before the change must not pass for the one that stands."""
    before = point(image="small", original="i", x=1)
    contents = {patched(before, metadata={"x": x}).content for x in (2, 3)}
    assert len(contents) == 2
    assert content_hash("t", "i", {"x": 1}) not in contents
    assert not patched(before, metadata={"x": 1}).is_changed
    assert patched(before, metadata={"x": 2}).content not in (
        content_hash("t", "small", {"x": 2}),
        content_hash("t", "i", {"x": 2}),
    )


def test_numbers_and_booleans_that_python_takes_for_equal_are_changes() -> None:
    assert patched(point(x=1), metadata={"x": True}).is_changed
    assert patched(point(x=1), metadata={"x": 1.0}).is_changed
    assert not patched(point(x=1), metadata={"x": 1}).is_changed


def test_a_document_keeps_text_or_image() -> None:
    assert not patched(point(text="t"), image=None).is_reduced
    with pytest.raises(InvalidInput, match="delete the document instead"):
        patched(point(text="t"), text=None)
    with pytest.raises(InvalidInput, match="delete the document instead"):
        patched(point(text=None, image="i"), image=None)
