"""How much there is to build from a JSON body is known before it is built."""

import re
import threading
import time

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.domain.inputs import InputIn
from indexer.domain.validation import field_errors, invalid, shown
from model.errors import TooLarge, UnsupportedMediaType
from service.http.json_body import check_counts, read_apart, read_json


@pytest.mark.parametrize("body", [b"[" + b"0," * 100 + b"0]", b"[" * 102 + b"]" * 102, b"[" + b"{}," * 60 + b"{}]"])
def test_values_are_counted_before_they_are_built(body: bytes) -> None:
    with pytest.raises(TooLarge, match="limit is 100"):
        read_json(body, 100)
    assert read_json(body, 1_000) == orjson.loads(body)


@pytest.mark.parametrize(
    "body",
    [
        orjson.dumps({"text": "a, b [c] {d}, " * 1_000}),
        orjson.dumps({"text": 'a "quoted", \\ and escaped \\", word, ' * 1_000}),
        orjson.dumps({"text": "\\", "other": "," * 1_000}),
        orjson.dumps({"text": "x" * (2**20 - 12) + "," * 200, "other": "," * 200}),
        b'["' + b"," * 2**20 + b'", "' + b"," * 2**20 + b'"]',
        *[orjson.dumps(["x" * shift + '\\"' * 2**19, ","]) for shift in range(4)],
    ],
)
def test_commas_inside_texts_are_no_values(body: bytes) -> None:
    assert read_json(body, 10) == orjson.loads(body)


@given(
    st.recursive(
        st.text('a",[]{}\\') | st.integers(-5, 5), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_values_are_counted_exactly(value: object) -> None:
    """The count of a plain reader: the marks of a body whose texts are empty."""
    body = orjson.dumps(value)
    plain = re.sub(rb'"(?:[^"\\]|\\.)*"', b"", body)
    count = sum(plain.count(mark) for mark in (b",", b"[", b"{"))
    assert read_json(body, max(count, 1)) == value
    if count > 1:
        with pytest.raises(TooLarge):
            read_json(body, count - 1)


@pytest.mark.parametrize("piece", [b'"', b"\\", b'\\"', b",", b'",', b'"\\"', b'["",'])
def test_counting_takes_time_linear_in_the_body(piece: bytes) -> None:
    body = b"[" + b"," * 200_000 + piece * (2**24 // len(piece))
    began = time.process_time()
    with pytest.raises((TooLarge, orjson.JSONDecodeError)):
        read_json(body, 100_000)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_named(encoding: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="UTF-16 or UTF-32"):
        read_json('{"a": 1}'.encode(encoding), 10)


async def test_a_large_body_is_read_in_a_thread() -> None:
    here = threading.get_ident()
    assert await read_apart(lambda _: threading.get_ident(), b"x" * (2**20 - 1)) == here
    assert await read_apart(lambda _: threading.get_ident(), b"x" * 2**20) != here


def test_a_byte_order_mark_is_skipped() -> None:
    assert read_json(b'\xef\xbb\xbf{"a": 1}', 10) == {"a": 1}


def test_lists_are_counted_before_their_elements_are_read() -> None:
    check_counts({"inputs": [0, 0]}, {"inputs": 2})
    check_counts([0, 0, 0], {"inputs": 2})
    with pytest.raises(TooLarge, match="3 inputs in one call, limit is 2"):
        check_counts({"inputs": [0, 0, 0]}, {"inputs": 2})


def test_errors_of_a_body_are_read_up_to_a_quota() -> None:
    errors = ({"loc": (f"f{number}",), "type": "extra_forbidden", "input": 1} for number in range(10**9))
    assert len(field_errors(errors)) == 20


def test_an_item_with_thousands_of_errors_is_one_error() -> None:
    from pydantic import ValidationError

    with pytest.raises(ValidationError) as caught:
        InputIn.model_validate({f"f{number}": 1 for number in range(5_000)})
    error = invalid(caught.value)
    assert "5001 fields or values are wrong" in error.detail or "5000 fields or values are wrong" in error.detail


def test_what_is_echoed_is_short_whatever_it_is() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    large = {str(number): "x" * 100 for number in range(200_000)}
    began = time.perf_counter()
    for value in (deep, large, [large] * 3, ["x" * 10**7] * 1000, "x" * 10**7, "\ud800" * 500, {"a": deep}):
        text = shown(value)
        assert len(str(text)) <= 200
        orjson.dumps(text)
    assert time.perf_counter() - began < 1
