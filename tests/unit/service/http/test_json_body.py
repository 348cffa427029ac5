"""How much there is to build from a JSON body is known before it is built."""

import time

import orjson
import pytest

from model.errors import TooLarge
from service.http.json_body import check_counts, read_json
from service.schemas.base import InputIn
from service.schemas.validation import field_errors, invalid, shown


@pytest.mark.parametrize("body", [b"[" + b"0," * 100 + b"0]", b"[" * 102 + b"]" * 102, b"[" + b"{}," * 60 + b"{}]"])
def test_values_are_counted_before_they_are_built(body: bytes) -> None:
    with pytest.raises(TooLarge, match="limit is 100"):
        read_json(body, 100)
    assert read_json(body, 1_000) == orjson.loads(body)


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
