"""Qdrant's REST API over qdrant-client's local mode, as a process on loopback: a stand-in where there is no Qdrant server.

It proves our wire and our wiring: paths, bodies as JSON, the key, refusals. It proves nothing of Qdrant: what searches here is NumPy in
Python, an index is a line in a list, and all is lost at the end. Only what `indexer.store.server` asks is answered.

    python tests/support/qdrant_rest.py PORT API_KEY [CERTIFICATE]

CERTIFICATE is a PEM file with its key; then it speaks TLS.
"""

import hmac
import sys
import warnings
from typing import Annotated, Any

import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from qdrant_client import AsyncQdrantClient
from qdrant_client.http import models as q


class Answer(Response):
    """Made by the endpoints themselves: FastAPI would take hits apart in Python, which is slower than the search."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return to_json({"result": content, "status": "ok", "time": 0.0})


class Collections:
    """Each call is done in one piece of the one event loop: local mode is not thread-safe and waits for nothing."""

    def __init__(self) -> None:
        self._engine = AsyncQdrantClient(":memory:")
        self._indexes: dict[str, dict[str, q.PayloadIndexInfo]] = {}  # local mode keeps none,
        self._thresholds: dict[str, int] = {}  # nor what its optimizers are told,
        self._metadata: dict[str, dict[str, Any]] = {}  # nor a change of metadata

    def router(self, **options: Any) -> APIRouter:
        router = APIRouter(prefix="/collections", **options)
        for method, path, endpoint in (
            ("GET", "", self.names),
            ("GET", "/{name}/exists", self.exists),
            ("PUT", "/{name}", self.create),
            ("GET", "/{name}", self.describe),
            ("PATCH", "/{name}", self.change),
            ("DELETE", "/{name}", self.drop),
            ("PUT", "/{name}/index", self.index),
            ("DELETE", "/{name}/index/{field:path}", self.drop_index),
            ("PUT", "/{name}/points", self.upsert),
            ("POST", "/{name}/points/delete", self.delete),
            ("POST", "/{name}/points/batch", self.update),
            ("POST", "/{name}/points", self.retrieve),
            ("POST", "/{name}/points/query", self.query),
            ("POST", "/{name}/points/count", self.count),
            ("POST", "/{name}/points/scroll", self.scroll),
            ("POST", "/{name}/facet", self.facet),
        ):
            router.add_api_route(path, endpoint, methods=[method])
        return router

    # --- collections

    async def names(self) -> Answer:
        return Answer(await self._engine.get_collections())

    async def exists(self, name: str) -> Answer:
        return Answer(q.CollectionExistence(exists=name in self._indexes))

    async def create(self, name: str, body: q.CreateCollection) -> Answer:
        if name in self._indexes:
            raise HTTPException(409, f"Wrong input: Collection `{name}` already exists!")
        await self._engine.create_collection(name, body.vectors, body.sparse_vectors, metadata=body.metadata)
        self._indexes[name] = {}
        self._metadata[name] = dict(body.metadata or {})
        return Answer(True)

    async def describe(self, name: str) -> Answer:
        info = await self._engine.get_collection(name)
        info.payload_schema = self._of(name)
        info.config.metadata = self._metadata.get(name)
        info.config.optimizer_config.indexing_threshold = self._thresholds.get(name)
        return Answer(info)

    async def change(self, name: str, body: q.UpdateCollection) -> Answer:
        self._of(name)
        if body.optimizers_config is not None and body.optimizers_config.indexing_threshold is not None:
            self._thresholds[name] = body.optimizers_config.indexing_threshold
        self._metadata[name] |= body.metadata or {}
        return Answer(True)

    async def drop(self, name: str) -> Answer:
        self._thresholds.pop(name, None)
        self._metadata.pop(name, None)
        self._indexes.pop(name, None)
        return Answer(await self._engine.delete_collection(name))

    # --- payload indexes

    async def index(self, name: str, body: q.CreateFieldIndex) -> Answer:
        if not isinstance(body.field_schema, q.PayloadSchemaType):
            raise HTTPException(400, f"Wrong input: this stand-in knows no {body.field_schema!r}")
        self._of(name)[body.field_name] = q.PayloadIndexInfo(data_type=body.field_schema, points=0)
        return Answer(_done())

    async def drop_index(self, name: str, field: str) -> Answer:
        self._of(name).pop(field, None)
        return Answer(_done())

    # --- points

    async def upsert(self, name: str, body: q.PointsList) -> Answer:
        self._of(name)
        return Answer(await self._engine.upsert(name, body.points))

    async def delete(self, name: str, body: q.PointsSelector) -> Answer:
        self._of(name)
        return Answer(await self._engine.delete(name, body))

    async def update(self, name: str, body: q.UpdateOperations) -> Answer:
        return Answer(await self._engine.batch_update_points(name, body.operations))

    async def retrieve(self, name: str, body: q.PointRequest) -> Answer:
        self._of(name)
        return Answer(
            await self._engine.retrieve(name, body.ids, _or(body.with_payload, True), _or(body.with_vector, False))
        )

    async def query(self, name: str, body: q.QueryRequest) -> Answer:
        self._of(name)
        found = await self._engine.query_points(
            name,
            body.query,
            using=body.using,
            prefetch=body.prefetch,
            query_filter=body.filter,
            search_params=body.params,
            limit=_or(body.limit, 10),
            offset=body.offset,
            with_payload=_or(body.with_payload, False),
            with_vectors=_or(body.with_vector, False),
            score_threshold=body.score_threshold,
        )
        return Answer(found)

    async def count(self, name: str, body: q.CountRequest) -> Answer:
        self._of(name)
        return Answer(await self._engine.count(name, body.filter))

    async def scroll(self, name: str, body: q.ScrollRequest) -> Answer:
        self._of(name)
        points, following = await self._engine.scroll(
            name,
            body.filter,
            limit=_or(body.limit, 10),
            offset=body.offset,
            with_payload=_or(body.with_payload, True),
            with_vectors=_or(body.with_vector, False),
            order_by=body.order_by,
        )
        return Answer(q.ScrollResult(points=points, next_page_offset=following))

    async def facet(self, name: str, body: q.FacetRequest) -> Answer:
        self._of(name)
        return Answer(await self._engine.facet(name, body.key, body.filter, _or(body.limit, 10)))

    def _of(self, name: str) -> dict[str, q.PayloadIndexInfo]:
        if name not in self._indexes:
            raise HTTPException(404, f"Not found: Collection `{name}` doesn't exist!")
        return self._indexes[name]


def create_app(api_key: str) -> FastAPI:
    async def check(given: Annotated[str, Header(alias="api-key")] = "") -> None:
        if not hmac.compare_digest(given.encode(), api_key.encode()):
            raise HTTPException(401, "Must provide an API key or an Authorization bearer token")

    async def refused(_request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 400
        said = error.detail if isinstance(error, HTTPException) else f"Wrong input: {error}"
        return Response(to_json({"status": {"error": said}, "time": 0.0}), status, media_type="application/json")

    async def healthy() -> str:
        return "all shards are ready"

    app = FastAPI(exception_handlers=dict.fromkeys((HTTPException, RequestValidationError, ValueError), refused))
    app.include_router(Collections().router(dependencies=[Depends(check)]))

    async def root() -> q.VersionInfo:
        return q.VersionInfo(title="qdrant - vector search engine", version="1.19.0")

    for path in ("/readyz", "/healthz"):
        app.add_api_route(path, healthy)
    app.add_api_route("/", root)
    return app


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _done() -> q.UpdateResult:
    return q.UpdateResult(operation_id=0, status=q.UpdateStatus.COMPLETED)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message="Local mode")
    tls = {"ssl_certfile": sys.argv[3]} if len(sys.argv) > 3 else {}
    uvicorn.run(create_app(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", **tls)
