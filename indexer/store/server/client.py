"""The client of qdrant-client, with a search that returns ids and scores alone.

Over gRPC the client makes several objects of each hit: a thousand hits take it longer than the server needs to find
them. Hybrid search ranks two thousand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qdrant_client import AsyncQdrantClient
from qdrant_client import grpc as wire
from qdrant_client import models as q
from qdrant_client.async_qdrant_remote import AsyncQdrantRemote
from qdrant_client.conversions.conversion import RestToGrpc

from indexer.store.criteria import Ranked


class Client(AsyncQdrantClient):
    """`AsyncQdrantClient` and `query_scores`."""

    async def query_scores(self, collection_name: str, request: Mapping[str, Any], limit: int) -> Ranked:
        """Return point ids and scores. `request` has the other arguments of `query_points`."""
        if not (isinstance(self._client, AsyncQdrantRemote) and self._client._prefer_grpc) or "prefetch" in request:
            answer = await self.query_points(
                collection_name, **request, with_payload=False, with_vectors=False, limit=limit
            )
            return [(str(point.id), point.score) for point in answer.points]
        timeout_s = request.get("timeout") or self._client._timeout
        hits = await self.grpc_points.Query(_to_wire(collection_name, request, limit), timeout=timeout_s)
        return [(hit.id.uuid, hit.score) for hit in hits.result]


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
