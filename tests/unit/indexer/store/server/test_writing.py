"""Points as they are sent: over gRPC the same messages as the client makes, over REST the same JSON."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from qdrant_client import grpc as wire
from qdrant_client import models as q
from qdrant_client.conversions.conversion import RestToGrpc

from indexer.domain.points import Part, Point
from indexer.store.base import Layout
from indexer.store.server.writing import written
from model.errors import InvalidInput


def point(dimensions: int, parts: int = 1, latents: int = 0, text: str | None = "red boots, red") -> Point:
    draw = np.random.default_rng(dimensions)
    rows = draw.standard_normal((parts, dimensions)).astype(np.float32)
    several: dict[str, Any] = {}
    if parts > 1:
        several = {"parts": tuple(Part(n, n + 1) for n in range(parts)), "part_vectors": rows}
    if latents:
        several["latents"] = draw.standard_normal((latents, dimensions)).astype(np.float32)
    metadata = {"n": 2**53, "x": 0.1, "list": [None, True, {"deep": "\u00fc"}], "empty": {}, "none": []}
    return Point("d1", rows[0], text, None, metadata, "hash", ((0.25, 0.75),), **several)


CASES = [
    (point(4), Layout(4)),
    (point(4, text=None), Layout(4, parts=True)),
    (point(33, parts=3), Layout(33, parts=True)),
    (point(33, latents=2), Layout(33, latents=True, parts=True)),
    # Lengths whose encoding takes one, two and three bytes.
    (point(31), Layout(31)),
    (point(4095), Layout(4095)),
    (point(4096), Layout(4096)),
]


@pytest.mark.parametrize(("point", "layout"), CASES)
def test_both_transports_send_what_the_client_would(point: Point, layout: Layout) -> None:
    (sent,) = written([point], layout)
    struct = sent.struct()
    assert q.PointStruct.model_validate(struct.model_dump()) == struct
    request = wire.UpsertPoints()
    sent.write_to(request)
    assert list(request.points) == [RestToGrpc.convert_point_struct(struct)]


def test_of_one_document_the_last_is_sent() -> None:
    first, last = replace(point(4), text="first"), replace(point(4), text="last")
    assert [sent.payload["text"] for sent in written([first, last], Layout(4))] == ["last"]


@pytest.mark.parametrize("metadata", [{"x": float("nan")}, {"list": [None, {"deep": float("inf")}]}])
def test_numbers_that_are_none_are_refused_beside_fields_without_a_value(metadata: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="not a finite number"):
        written([replace(point(4, text=None), metadata=metadata)], Layout(4))
    assert written([replace(point(4, text=None), metadata={"list": [None, "null"]})], Layout(4))
