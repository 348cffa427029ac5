"""Posted documents: however the bytes arrive, the same lines; a line over the limit costs no memory and harms no other."""

import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.domain.documents import Incoming, Rejected
from model.errors import InvalidJson
from model.types import Limits
from service.api.document_bodies import Bounds, _depth, _lines, documents_in, each, each_line, incoming

BOUNDS = Bounds(Limits(), max_metadata_bytes=1000, max_metadata_depth=8, max_documents=5, max_line_bytes=100)


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
    got = [line async for line in _lines(chunks(data, cuts), limit)]
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


@pytest.mark.parametrize("body", [b"[%s ,\n%s]\n", b' {"documents": [%s,%s ] } '])
@pytest.mark.parametrize("odd", [ODD, b"NaN", b"[-Infinity]", b'{"text": "z", "metadata": {"area": 1e999}}'])
async def test_a_document_with_nan_is_rejected_alone(body: bytes, odd: bytes) -> None:
    for documents in ((GOOD, odd), (odd, GOOD)):
        items = [item async for item in each(documents_in(body % documents, BOUNDS), BOUNDS)]
        kinds = [Incoming if document == GOOD else Rejected for document in documents]
        assert [type(item) for item in items] == kinds
        (wrong,) = (item for item in items if isinstance(item, Rejected))
        assert (wrong.position, wrong.code) == (documents.index(odd), "invalid_json")
    if odd == ODD:
        assert wrong.detail.endswith("at character 46: NaN}}")


@pytest.mark.parametrize(
    "body",
    [
        ODD,
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
    item = incoming(3, value, BOUNDS)
    assert item.position == 3
    assert isinstance(item, Incoming) or item.detail


def test_depth() -> None:
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    assert _depth(deep) == 900
    assert _depth({"a": [1, {"b": 2}]}) == 3
    item = incoming(0, {"text": "x", "metadata": {"a": deep}}, BOUNDS)
    assert isinstance(item, Rejected)
    assert "901 deep, limit is 8" in item.detail


def test_metadata_bytes() -> None:
    item = incoming(0, json.loads(json.dumps({"id": "a", "text": "x", "metadata": {"a": "y" * 1000}})), BOUNDS)
    assert isinstance(item, Rejected)
    assert "limit is 1000" in item.detail
