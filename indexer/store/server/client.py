"""The client of qdrant-client, with a search that returns ids and scores alone, and a write that makes no objects.

Over gRPC the client makes several objects of each hit: a thousand hits take it longer than the server needs to find
them. Hybrid search ranks two thousand. Of a point that is written it makes an object for each number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qdrant_client import AsyncQdrantClient
from qdrant_client import grpc as wire
from qdrant_client import models as q
from qdrant_client.async_qdrant_remote import AsyncQdrantRemote
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

from indexer.store.criteria import Ranked
from indexer.store.server.answers import read_unknown_fields
from indexer.store.server.writing import Written


class Client(AsyncQdrantClient):
    """`AsyncQdrantClient`, `query_scores` and `write_points`."""

    def __init__(self, *args: Any, **options: Any) -> None:
        read_unknown_fields()
        super().__init__(*args, **options)

    async def write_points(
        self, collection_name: str, points: Sequence[Written], ordering: q.WriteOrdering | None
    ) -> q.UpdateStatus:
        """Write points and wait until that is done, or until the server says that it is not."""
        if (remote := self._grpc) is None:
            structs = [point.struct() for point in points]
            return (await self.upsert(collection_name, structs, wait=True, ordering=ordering)).status
        order = None if ordering is None else RestToGrpc.convert_write_ordering(ordering)
        request = wire.UpsertPoints(collection_name=collection_name, wait=True, ordering=order)
        for point in points:
            point.write_to(request)
        answer = await remote.grpc_points.Upsert(request, timeout=remote._timeout)
        return GrpcToRest.convert_update_status(answer.result.status)

    async def query_scores(self, collection_name: str, request: Mapping[str, Any], limit: int) -> Ranked:
        """Return point ids and scores. `request` has the other arguments of `query_points`."""
        if (remote := self._grpc) is None or "prefetch" in request:
            answer = await self.query_points(
                collection_name, **request, with_payload=False, with_vectors=False, limit=limit
            )
            return [(str(point.id), point.score) for point in answer.points]
        timeout_s = request.get("timeout") or remote._timeout
        hits = await remote.grpc_points.Query(_to_wire(collection_name, request, limit), timeout=timeout_s)
        return [(hit.id.uuid, hit.score) for hit in hits.result]

    @property
    def _grpc(self) -> AsyncQdrantRemote | None:
        """The client's gRPC; None where it speaks REST, or is an engine of its own."""
        remote = self._client
        return remote if isinstance(remote, AsyncQdrantRemote) and remote._prefer_grpc else None


def _to_wire(collection_name: str, request: Mapping[str, Any], limit: int) -> wire.QueryPoints:
    filter_, params = request.get("query_filter"), request.get("search_params")
    consistency = request.get("consistency")
    return wire.QueryPoints(
        collection_name=collection_name,
        query=RestToGrpc.convert_query(q.NearestQuery(nearest=request["query"])),
        using=request.get("using"),
        filter=filter_ and RestToGrpc.convert_filter(filter_),
        params=params and RestToGrpc.convert_search_params(params),
        score_threshold=request.get("score_threshold"),
        read_consistency=consistency and RestToGrpc.convert_read_consistency(consistency),
        timeout=request.get("timeout"),
        limit=limit,
        with_payload=wire.WithPayloadSelector(enable=False),
        with_vectors=wire.WithVectorsSelector(enable=False),
    )
