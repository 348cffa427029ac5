"""Problems: every class of ours has its answer, values are shortened, headers say when to come back."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from indexer.domain.incoming import DocumentIn
from indexer.domain.validation import field_errors, shown, summary
from model.errors import (
    Conflict,
    DependencyUnavailable,
    EncodeFailed,
    Forbidden,
    InProgress,
    InvalidInput,
    InvalidJson,
    NotFound,
    Overloaded,
    RateLimited,
    RetrievalError,
    TimedOut,
    TooLarge,
    Unauthorized,
    UnsupportedMediaType,
)
from service.encoder.routes import _at
from service.http.problems import not_json, problem_of


def answer(error: RetrievalError) -> tuple[dict[str, Any], dict[str, str]]:
    response = problem_of(error, "id-1")
    return orjson.loads(bytes(response.body)), dict(response.headers)


@pytest.mark.parametrize(
    "kind",
    [
        RetrievalError,
        InvalidInput,
        InvalidJson,
        UnsupportedMediaType,
        TooLarge,
        Unauthorized,
        Forbidden,
        NotFound,
        Conflict,
        InProgress,
        Overloaded,
        RateLimited,
        EncodeFailed,
        DependencyUnavailable,
        TimedOut,
    ],
)
def test_every_error_is_a_problem(kind: type[RetrievalError]) -> None:
    problem, headers = answer(kind())
    assert headers["content-type"] == "application/problem+json"
    assert (problem["status"], problem["code"], problem["request_id"]) == (kind.status, kind.code, "id-1")
    assert problem["detail"]
    assert problem["title"]
    assert ("retry-after" in headers) == kind.retryable


@pytest.mark.parametrize(
    ("after_s", "header"), [(0.01, "1"), (1.2, "2"), (30, "30"), (1e9, "60"), (float("inf"), "60")]
)
def test_retry_after_is_whole_seconds(after_s: float, header: str) -> None:
    assert answer(Overloaded(retry_after_s=after_s))[1]["retry-after"] == header


def test_what_which_value_and_the_limit() -> None:
    problem, _ = answer(TooLarge("too long", field="text", value=11, limit=10))
    assert problem["errors"] == [{"field": "text", "value": 11, "limit": 10}]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(), st.lists))
def test_any_value_can_be_shown(value: object) -> None:
    written = orjson.dumps(shown(value))
    assert len(written) < 1000


def test_bytes_are_counted_not_shown() -> None:
    assert shown(b"\x89PNG") == "4 bytes"


def test_paths_and_tags() -> None:
    errors = [{"type": "x", "loc": ("inputs", 3, "image", "<url>", "url"), "msg": "bad", "input": 1}]
    assert field_errors(errors) == [{"field": "inputs[3].image.url", "value": 1, "limit": "bad"}]


def test_an_error_that_several_share_is_named_for_one_caller_alone() -> None:
    shared = EncodeFailed("the model raised RuntimeError on this input")
    named = [_at(shared, f"input[{index}]") for index in (0, 3)]
    assert [one.detail for one in named] == [f"input[{index}]: {shared.detail}" for index in (0, 3)]
    assert [one.field for one in named] == ["input[0]", "input[3]"]
    assert shared.field is None


@pytest.mark.parametrize(
    ("body", "place"),
    [
        (b'{"area": NaN}', ", at character 9: NaN}"),
        ('{"ü": -Infinity, "and": "so on and on"}'.encode(), ', at character 7: Infinity, "and": "so'),
        (b'{"area": 1', ""),
        (b"", ""),
    ],
)
def test_where_json_ends_and_what_stands_there(body: bytes, place: str) -> None:
    with pytest.raises(orjson.JSONDecodeError) as caught:
        orjson.loads(body)
    assert not_json("the body", caught.value).detail == f"the body is not JSON: {caught.value.msg}{place}"


def test_our_own_words_and_patterns_in_words() -> None:
    with pytest.raises(ValidationError) as caught:
        DocumentIn.model_validate({"id": "a\nb"})
    assert field_errors(caught.value.errors(include_url=False)) == [
        {"field": "id", "value": "a\nb", "limit": "must be 1 to 512 characters, none of them a control character"}
    ]
    with pytest.raises(ValidationError) as caught:
        DocumentIn.model_validate({"id": "a"})
    (field,) = field_errors(caught.value.errors(include_url=False))
    assert field["limit"] == "neither text nor image: at least one is needed"
    assert summary([field]) == "neither text nor image: at least one is needed (got \"{'id': 'a'}\")"
