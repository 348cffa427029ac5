"""Posted documents: however the bytes arrive, the same lines; a line over the limit costs no memory and harms no other."""

import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.domain.documents import Incoming, Rejected
from indexer.domain.incoming import DocumentBounds
from model.errors import InvalidJson, TooLarge
from model.types import Limits
from service.api.document_bodies import Bounds, _lines, document_or_rejection, documents_in, each_line

BOUNDS = Bounds(
    DocumentBounds(Limits(), max_metadata_bytes=1000, max_metadata_depth=8),
    max_documents=5,
    max_line_bytes=100,
    max_values=1_000_000,
)


async def chunks(data: bytes, cuts: list[int]) -> AsyncIterator[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(edges):
        yield data[start:end]


@given(
    lines=st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"."))),
    cuts=st.lists(st.integers(0, 500)),
    limit=st.integers(0, 20),
    end=st.booleans(),
)
async def test_lines_however_they_arrive(lines: list[bytes], cuts: list[int], limit: int, end: bool) -> None:
    data = b"\n".join(lines) + (b"\n" if end else b"")
    got = [line async for lines in _lines(chunks(data, cuts), limit) for line in lines]
    assert got == [None if len(line) > limit else line for line in data.removesuffix(b"\n").split(b"\n") if data]


async def test_positions_and_reasons() -> None:
    lines = [
        b'{"id": "a", "text": "x"}',
        b"",
        b"nonsense",
        b'{"text": "' + b"x" * 200 + b'"}',
        b'{"id": "b"}',
        b'{"text": "y"}',
    ]
    items = [item async for item in each_line(chunks(b"\n".join(lines), [7, 60]), BOUNDS)]
    assert [item.position for item in items] == [0, 2, 3, 4, 5], "of the line: the blank one is counted"
    assert [type(item) for item in items] == [Incoming, Rejected, Rejected, Rejected, Incoming]
    assert [item.code for item in items if isinstance(item, Rejected)] == [
        "invalid_json",
        "too_large",
        "invalid_input",
    ]


async def test_bad_lines_end_no_stream() -> None:
    data = b"x\n" * 100 + b'{"text": "y"}'
    items = [item async for item in each_line(chunks(data, []), BOUNDS)]
    assert [type(item) for item in items] == [Rejected] * 100 + [Incoming]


GOOD, ODD = b'{"id": "a", "text": "x"}', b'{"id": "n", "text": "y", "metadata": {"area": NaN}}'


@pytest.mark.parametrize(
    "body",
    [
        ODD,
        b"[%s, %s]" % (GOOD, ODD),
        b"[%s" % ODD,
        b"[%s,]" % ODD,
        b"[%s]}" % ODD,
        b'{"documents": [%s]' % ODD,
        b'{"documents": [%s], "more": 1}' % ODD,
        b"[%s] and more" % ODD,
        b"[%s %s]" % (ODD, GOOD),
        b"[NaN%s]" % (b"[" * 100_000),
        b"[%s]" % b",".join([ODD] * 7),  # over what a call may hold
        b"[%s\xff]" % ODD,
    ],
)
def test_a_body_that_cannot_be_told_apart_is_refused_whole(body: bytes) -> None:
    with pytest.raises(InvalidJson, match="the body is not JSON"):
        documents_in(body, BOUNDS)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_any_json_is_a_document_or_a_rejection(value: Any) -> None:
    item = document_or_rejection(3, value, BOUNDS.document)
    assert item.position == 3
    assert isinstance(item, Incoming) or item.detail


async def test_a_byte_order_mark_is_no_part_of_a_document() -> None:
    assert documents_in(b"\xef\xbb\xbf[1]", BOUNDS) == [1]
    items = [item async for item in each_line(chunks(b"\xef\xbb\xbf" + GOOD, []), BOUNDS)]
    assert [type(item) for item in items] == [Incoming]


def test_more_values_than_may_be_built() -> None:
    bounds = replace(BOUNDS, max_values=5)
    with pytest.raises(TooLarge, match="limit is 5"):
        documents_in(b"[1,2,3,4,5,6]", bounds)


async def test_what_is_deep_or_has_many_fields_is_rejected_alone() -> None:
    deep = b"[" * 1000 + b"]" * 1000
    many = orjson.dumps({str(number): 0 for number in range(50_000)})
    lines = [GOOD, b'{"text": ' + deep + b"}", many, b'{"image": ' + many + b"}", b'{"id": ' + deep + b"}", GOOD]
    items = [item async for item in each_line(chunks(b"\n".join(lines), []), replace(BOUNDS, max_line_bytes=2**20))]
    assert [type(item) for item in items] == [Incoming, *[Rejected] * 4, Incoming]
    assert all(len(item.detail) < 300 for item in items if isinstance(item, Rejected))


async def test_a_line_in_many_pieces_is_read_in_linear_time() -> None:
    pieces = 20_000

    async def drip() -> AsyncIterator[bytes]:
        for _ in range(pieces):
            yield b" " * 1_000

    began = time.perf_counter()
    items = [item async for item in each_line(drip(), replace(BOUNDS, max_line_bytes=pieces * 1_000))]
    assert items == []
    assert time.perf_counter() - began < 2
