"""JSON that is read strictly, with whole numbers that are exact whatever their size."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.records.strict_json import loads

numbers = st.integers() | st.integers(2**62, 2**70) | st.integers(-(2**70), -(2**62)) | st.floats(allow_nan=False)


@given(st.recursive(numbers | st.text() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_it_reads_what_json_means(value: object) -> None:
    try:
        text = json.dumps(value, allow_nan=False).encode()
    except ValueError:  # infinity
        return
    assert loads(text) == value


@pytest.mark.parametrize("number", [2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**300])
@pytest.mark.parametrize("before", [0, 2**20 - 30, 2**20 - 1, 2**20])
def test_a_large_number_wherever_it_stands(number: int, before: int) -> None:
    assert loads(b" " * before + b"[%d]" % number) == [number]


def test_digits_inside_texts_change_nothing() -> None:
    assert loads(b'{"a": "123456789012345678901234567890", "b": 1.5}') == {
        "a": "123456789012345678901234567890",
        "b": 1.5,
    }


@pytest.mark.parametrize(
    "text",
    [
        b"NaN",
        b"[1,]",
        b'"\\ud800"',
        b"[00000000000000000000001]",
        b"1e400",
        b"1" * 5_000,
        b"[" * 300 + b"1" * 20 + b"]" * 300,
    ],
)
def test_what_is_not_json(text: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        loads(text)


def test_a_byte_order_mark_is_skipped() -> None:
    assert loads(b"\xef\xbb\xbf[18446744073709551616]") == [2**64]
