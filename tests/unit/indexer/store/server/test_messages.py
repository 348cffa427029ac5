"""Messages of gRPC: what is sent is what the client would send, and what is read is what it would read."""

from typing import Any

import numpy as np
import pytest
from qdrant_client import grpc as wire
from qdrant_client import models as q
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc, payload_to_grpc

from indexer.domain.documents import point_id
from indexer.store.base import Layout
from indexer.store.criteria import LateInteraction, Nearest, WordMatch
from indexer.store.server.messages import Record, payload_selector, query_message, vectors_selector
from indexer.store.server.ranking import as_json, asked
from indexer.store.vectors import unpacked

DRAW = np.random.default_rng(0)
ROWS = DRAW.standard_normal((3, 5)).astype(np.float32)
METADATA = {"n": 2**53, "x": 0.1, "list": [None, True, {"deep": "\u00fc"}], "empty": {}, "none": []}


def dense(row: Any) -> wire.VectorOutput:
    return wire.VectorOutput(dense=wire.DenseVector(data=row))


def rows(matrix: Any) -> wire.VectorOutput:
    return wire.VectorOutput(multi_dense=wire.MultiDenseVector(vectors=[wire.DenseVector(data=row) for row in matrix]))


@pytest.mark.parametrize(
    "vectors",
    [
        None,
        wire.VectorsOutput(vector=dense(ROWS[0])),
        wire.VectorsOutput(vector=rows(ROWS)),
        wire.VectorsOutput(vectors=wire.NamedVectorsOutput(vectors={"": rows(ROWS), "latents": rows(ROWS[:2])})),
        # A length whose encoding takes two bytes.
        wire.VectorsOutput(vector=dense(DRAW.standard_normal(384).astype(np.float32))),
    ],
)
@pytest.mark.parametrize("payload", [{}, METADATA])
def test_a_point_is_read_as_the_client_reads_it(vectors: wire.VectorsOutput | None, payload: dict[str, Any]) -> None:
    named = {"id": wire.PointId(uuid=point_id("d1")), "payload": payload_to_grpc(payload), "vectors": vectors}
    hit, point = wire.ScoredPoint(score=0.5, **named), wire.RetrievedPoint(**named)
    for record, read in (
        (Record.read(hit, hit.score), Record.of(GrpcToRest.convert_scored_point(hit))),
        (Record.read(point), Record.of(GrpcToRest.convert_retrieved_point(point))),
    ):
        assert (record.id, record.payload, record.score) == (read.id, read.payload, read.score)
        if vectors is None:
            assert record.vector is None
            continue
        stored, expected = unpacked(record.vector), unpacked(read.vector)
        np.testing.assert_array_equal(stored.vectors, expected.vectors)
        np.testing.assert_array_equal(stored.latents, expected.latents)


@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize(
    "criterion", [Nearest(ROWS[0]), WordMatch("red boots"), LateInteraction(ROWS[0], ROWS[1:], 40)]
)
def test_a_query_is_sent_as_the_client_would(criterion: Nearest | WordMatch | LateInteraction, parts: bool) -> None:
    condition = q.Filter(must=[q.FieldCondition(key="shelf", match=q.MatchValue(value="s"))])
    layout = Layout(5, latents=True, parts=parts)
    request, _ = asked(criterion, layout, "c", condition, q.SearchParams(hnsw_ef=7)) or ({}, 0)
    request |= {"score_threshold": 0.25, "consistency": q.ReadConsistencyType.QUORUM, "timeout": 3}
    sent = query_message("c", request, 11, True, ["latents"])
    expected = RestToGrpc.convert_query_request(
        q.QueryRequest(
            query=as_json(request["query"]),
            using=request.get("using"),
            prefetch=request.get("prefetch"),
            filter=request.get("query_filter"),
            params=request["search_params"],
            score_threshold=0.25,
            limit=11,
            with_payload=True,
            with_vector=["latents"],
        ),
        "c",
    )
    expected.read_consistency.CopyFrom(RestToGrpc.convert_read_consistency(q.ReadConsistencyType.QUORUM))
    expected.timeout = 3
    assert sent == expected


@pytest.mark.parametrize("selection", [True, False, ["document_id"], []])
def test_what_is_read_of_a_point_is_said_as_the_client_says_it(selection: bool | list[str]) -> None:
    assert payload_selector(selection) == RestToGrpc.convert_with_payload_interface(selection)
    assert vectors_selector(selection) == RestToGrpc.convert_with_vectors(selection)
