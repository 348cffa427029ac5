"""The wire: strict types, unknown fields named, and one bad item that leaves its request standing."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from indexer.domain.incoming import DocumentIn
from indexer.domain.inputs import ImageBase64
from indexer.domain.validation import field_errors, invalid
from model.errors import InvalidInput
from service.schemas.base import checked
from service.schemas.collections import CollectionIn
from service.schemas.encode import EncodeIn
from service.schemas.search import QueryIn, SearchIn

SEARCH: dict[str, Any] = {"collection": "flags", "query": {"text": "red"}}


def wrong(model: Any, value: object) -> list[dict[str, Any]]:
    with pytest.raises(ValidationError) as refused:
        model.model_validate(value)
    return field_errors(refused.value.errors(include_url=False))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": "all"}, "limit"),
        ({"limit": "10"}, "limit"),
        ({"limit": 1.5}, "limit"),
        ({"limit": True}, "limit"),
        ({"offset": -1}, "offset"),
        ({"mode": "text"}, "mode"),
        ({"rerank": {"oversampling": 0}}, "rerank.oversampling"),
        ({"metadata_fields": ["n"] * 257}, "metadata_fields"),
        ({"group_bye": "x"}, "group_bye"),
        ({"explained": True}, "explained"),
        ({"collection": "../etc"}, "collection"),
        ({"collection": ""}, "collection"),
        ({"score_threshold": float("nan")}, "score_threshold"),
        ({"query": {"txt": "red", "text": "a"}}, "query.txt"),
        ({"query": {"text": 5}}, "query.text"),
        ({"query": {"text": "a", "image": {"url": 5}}}, "query.image.url"),
        ({"query": {"text": "a", "image": {"path": "x"}}}, "query.image"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], field: str) -> None:
    errors = wrong(SearchIn, SEARCH | change)
    assert errors[0]["field"] == field
    assert set(errors[0]) == {"field", "value", "limit"}


def test_an_unknown_field_is_called_that() -> None:
    assert wrong(SearchIn, SEARCH | {"modus": "text"}) == [
        {"field": "modus", "value": "text", "limit": "no such field"}
    ]


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"text": ""},
        {"instruction": "find"},
        {"document_id": "a", "text": "b"},
        {"document_id": "a", "instruction": "b"},
    ],
)
def test_a_query_is_one_thing(query: dict[str, str]) -> None:
    wrong(QueryIn, query)


@pytest.mark.parametrize("bad", ["", "x" * 513, "a\nb", "a\x00", "a\x85b", 5])
def test_bad_document_ids(bad: object) -> None:
    assert wrong(DocumentIn, {"id": bad, "text": "a"})[0]["field"] == "id"


@pytest.mark.parametrize("good", ["x" * 512, "a/b", "ü 語 🏳️", "..", "a%2Fb"])
def test_good_document_ids(good: str) -> None:
    assert DocumentIn.model_validate({"id": good, "text": "a"}).id == good


def test_one_bad_item_leaves_the_others() -> None:
    body = EncodeIn.model_validate(
        {"role": "query", "inputs": [{"text": "good"}, {"txt": "bad"}, "bad", {}, {"text": "fine"}]}
    )
    items = [checked(item) for item in body.inputs]
    assert [isinstance(item, InvalidInput) for item in items] == [False, True, True, True, False]
    assert isinstance(items[1], InvalidInput)
    assert "txt: no such field" in items[1].detail


def test_values_are_shortened() -> None:
    errors = wrong(DocumentIn, {"text": "a", "id": "x" * 100_000})
    assert len(errors[0]["value"]) < 200
    assert "100000 characters" in errors[0]["value"]


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_whatever_comes_is_answered(value: object) -> None:
    """Any JSON is a document or an error with a readable detail, never another exception."""
    with contextlib.suppress(InvalidInput):
        try:
            DocumentIn.model_validate(value)
        except ValidationError as error:
            raise invalid(error) from error


@pytest.mark.parametrize("field", ["offset", "with_vector", "explain", "rerank", "metadata_fields", "consistency"])
def test_null_means_not_said(field: str) -> None:
    assert SearchIn.model_validate({**SEARCH, field: None}) == SearchIn.model_validate(SEARCH)


def test_unknown_fields_that_are_null_are_ignored_at_every_depth() -> None:
    body = {**SEARCH, "sort": None, "query": {"text": "red", "voice": None, "positive": None}}
    assert SearchIn.model_validate(body) == SearchIn.model_validate(SEARCH)
    image = {"url": None, "base64": "AAAA", "detail": None}
    assert ImageBase64(base64="AAAA") == DocumentIn.model_validate({"image": image, "metadata": None}).image


def test_a_required_field_that_is_null_is_missing() -> None:
    assert wrong(SearchIn, {"collection": None, "query": {"text": "red"}})[0]["limit"] == "Field required"


def test_null_takes_a_setting_of_a_collection_away() -> None:
    body = CollectionIn.model_validate({"limit": None, "indexes": None, "shards": None})
    assert body.model_fields_set == {"limit"}
