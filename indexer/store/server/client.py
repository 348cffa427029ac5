"""The client of qdrant-client, with reads and writes of points that make none of its objects over gRPC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qdrant_client import AsyncQdrantClient
from qdrant_client import grpc as wire
from qdrant_client import models as q
from qdrant_client.async_qdrant_remote import AsyncQdrantRemote
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc

from indexer.store.criteria import Ranked
from indexer.store.server.messages import (
    Record,
    Selection,
    consistency_message,
    payload_selector,
    query_message,
    vectors_selector,
)
from indexer.store.server.ranking import as_json
from indexer.store.server.writing import Written


class Client(AsyncQdrantClient):
    """`AsyncQdrantClient`, and the calls for points."""

    async def get_collection(self, collection_name: str, **options: Any) -> q.CollectionInfo:
        """Read what a collection is, whatever fields a newer server has beside those that the client knows.

        The client's models for it serve for requests too and refuse unknown fields, so over REST one new setting would
        make every collection unreadable. gRPC leaves out what it does not know.
        """
        remote = self._client
        if not isinstance(remote, AsyncQdrantRemote) or remote._prefer_grpc:
            return await super().get_collection(collection_name, **options)
        answer: dict[str, Any] = await remote.http.client.request(
            type_=dict[str, Any],
            method="GET",
            url="/collections/{collection_name}",
            path_params={"collection_name": collection_name},
        )
        return q.CollectionInfo.model_validate(answer.get("result"), extra="ignore")

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
        if (remote := self._grpc) is None:
            return [(hit.id, hit.score) for hit in await self.query_records(collection_name, request, limit)]
        message = query_message(collection_name, request, limit, False, False)
        answer = await remote.grpc_points.Query(message, timeout=request.get("timeout") or remote._timeout)
        return [(hit.id.uuid, hit.score) for hit in answer.result]

    async def query_records(
        self,
        collection_name: str,
        request: Mapping[str, Any],
        limit: int,
        payload: Selection = False,
        vectors: Selection = False,
    ) -> list[Record]:
        """Return points with their scores. `request` has the other arguments of `query_points`."""
        if (remote := self._grpc) is None:
            query = {**request, "query": as_json(request["query"])}
            answer = await self.query_points(
                collection_name, **query, limit=limit, with_payload=payload, with_vectors=vectors
            )
            return [Record.of(point) for point in answer.points]
        message = query_message(collection_name, request, limit, payload, vectors)
        hits = await remote.grpc_points.Query(message, timeout=request.get("timeout") or remote._timeout)
        return [Record.read(hit, hit.score) for hit in hits.result]

    async def read_records(
        self,
        collection_name: str,
        ids: Sequence[str],
        payload: Selection = True,
        vectors: Selection = False,
        consistency: q.ReadConsistencyType | None = None,
    ) -> list[Record]:
        """Return the points of these ids that are there, in any order."""
        if (remote := self._grpc) is None:
            points = await self.retrieve(
                collection_name, list(ids), with_payload=payload, with_vectors=vectors, consistency=consistency
            )
            return [Record.of(point) for point in points]
        message = wire.GetPoints(
            collection_name=collection_name,
            ids=[wire.PointId(uuid=point) for point in ids],
            with_payload=payload_selector(payload),
            with_vectors=vectors_selector(vectors),
            read_consistency=consistency_message(consistency),
        )
        answer = await remote.grpc_points.Get(message, timeout=remote._timeout)
        return [Record.read(point) for point in answer.result]

    async def scroll_records(
        self,
        collection_name: str,
        condition: q.Filter | None,
        limit: int,
        after: str | None = None,
        payload: Selection = True,
        vectors: Selection = False,
        order_by: q.OrderBy | None = None,
    ) -> tuple[list[Record], str | None]:
        """Return the points from `after` on, in the order of their ids or of a field, and the id that follows them."""
        if (remote := self._grpc) is None:
            points, following = await self.scroll(
                collection_name,
                condition,
                limit,
                order_by,
                after,
                with_payload=payload,
                with_vectors=vectors,
            )
            return [Record.of(point) for point in points], None if following is None else str(following)
        message = wire.ScrollPoints(
            collection_name=collection_name,
            filter=condition and RestToGrpc.convert_filter(condition),
            offset=None if after is None else wire.PointId(uuid=after),
            limit=limit,
            with_payload=payload_selector(payload),
            with_vectors=vectors_selector(vectors),
            order_by=None if order_by is None else RestToGrpc.convert_order_by(order_by),
        )
        answer = await remote.grpc_points.Scroll(message, timeout=remote._timeout)
        following = answer.next_page_offset.uuid if answer.HasField("next_page_offset") else None
        return [Record.read(point) for point in answer.result], following

    @property
    def _grpc(self) -> AsyncQdrantRemote | None:
        """The client's gRPC; None where it speaks REST, or is an engine of its own."""
        remote = self._client
        return remote if isinstance(remote, AsyncQdrantRemote) and remote._prefer_grpc else None
