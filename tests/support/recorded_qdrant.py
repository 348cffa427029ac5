"""A Qdrant server on the wire (REST) that remembers what it was asked, without a socket."""

import json
from collections.abc import Callable
from typing import Any

import httpx


class Qdrant:
    """Answers as a server with the collections in `dimensions`; `asked` has every request as (method, path, query, body).

    `held` has how many points it says that a collection has, `thresholds` from where on one is indexed.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.dimensions: dict[str, int] = {}
        self.metadata: dict[str, Any] = {}
        # Of each collection, what it was made with.
        self.made: dict[str, Any] = {}
        self.schema: dict[str, Any] = {}
        # The indexes that were asked for, by collection and path.
        self.indexes: dict[str, dict[str, str]] = {}
        self.strict: dict[str, Any] | None = None
        self.points: list[Any] = []
        self.answer_query: Callable[[Any], list[Any]] | None = None
        self.status = "green"
        self.held: dict[str, int] = {}
        self.thresholds: dict[str, int] = {}
        self.refuse: httpx.Response | None = None
        self.refuse_writes: httpx.Response | None = None
        # The points that it finds by their ids.
        self.retrieved: list[Any] = []
        # Whether every object of an answer has a field that no client knows yet.
        self.newer = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        path = request.url.path.removeprefix("/collections")
        self.asked.append((request.method, path, dict(request.url.params), body))
        if self.refuse is not None:
            return self.refuse
        name = path.strip("/").split("/")[0]
        result: Any = True
        if path.endswith("/exists"):
            result = {"exists": name in self.dimensions}
        elif name and name not in self.dimensions and request.method != "PUT":
            return httpx.Response(404, json={"status": {"error": f"Not found: Collection `{name}` doesn't exist!"}})
        elif request.method == "GET" and path.count("/") == 1:
            result = self.info(name)
        elif request.method == "PATCH":
            if optimizers := body.get("optimizers_config"):
                self.thresholds[name] = optimizers["indexing_threshold"]
            self.metadata[name] |= body.get("metadata") or {}
        elif path.endswith("/count"):
            result = {"count": self.held.get(name, 0)}
        elif request.method == "PUT" and path.count("/") == 1:
            vectors = body["vectors"]
            self.dimensions[name] = vectors.get("", vectors)["size"]
            self.metadata[name], self.made[name] = body.get("metadata"), body
        elif path.endswith("/query"):
            result = {"points": self.points if self.answer_query is None else self.answer_query(body)}
        elif path.endswith("/scroll"):
            result = {"points": []}
        elif path.endswith("/points") and request.method == "POST":
            result = self.retrieved
        elif self.refuse_writes is not None and path.endswith(("/points", "/delete", "/batch")):
            return self.refuse_writes
        elif path.endswith("/batch"):
            result = [{"operation_id": 0, "status": "completed"}]
        elif path.endswith(("/points", "/delete", "/index")) or "/index/" in path:
            if path.endswith("/index"):
                self.indexes.setdefault(name, {})[body["field_name"]] = body["field_schema"]
            result = {"operation_id": 0, "status": "completed"}
        answer = {"result": result, "status": "ok", "time": 0}
        return httpx.Response(200, json=_with_newer_fields(answer) if self.newer else answer)

    def add(self, collection: str, dimensions: int) -> None:
        """Hold a collection as a deployment without prefix makes it."""
        name = f"ret2~~{collection}"
        self.dimensions[name] = dimensions
        self.metadata[name] = {"ret2": {"prefix": "", "collection": collection, "format": 2, "indexes": {}}}

    def info(self, name: str) -> dict[str, Any]:
        named = self.made.get(name, {}).get("vectors", {})
        params = {
            "vectors": named if "" in named else {"size": self.dimensions[name], "distance": "Cosine"},
            "sparse_vectors": {"words_simple": {"modifier": "idf"}},
            "replication_factor": self.made.get(name, {}).get("replication_factor", 1),
        }
        hnsw = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000}
        optimizers = {"deleted_threshold": 0.2, "vacuum_min_vector_number": 1000, "default_segment_number": 0}
        config = {
            "params": params,
            "metadata": self.metadata.get(name),
            "hnsw_config": hnsw,
            "strict_mode_config": self.strict,
            "quantization_config": self.made.get(name, {}).get("quantization_config"),
            "optimizer_config": {
                **optimizers,
                "flush_interval_sec": 5,
                "indexing_threshold": self.thresholds.get(name),
            },
        }
        return {
            "status": self.status,
            "optimizer_status": "ok",
            "segments_count": 1,
            "points_count": self.held.get(name, 0),
            "config": config,
            "payload_schema": self.schema,
        }

    def bodies(self, method: str, ending: str) -> list[Any]:
        return [body for m, path, _, body in self.asked if m == method and path.endswith(ending)]


# Objects whose keys are names, and those that are the caller's own.
_MAPS, _OWN = {"payload_schema", "sparse_vectors"}, {"metadata", "payload"}


def _with_newer_fields(answer: Any, key: str = "") -> Any:
    if isinstance(answer, list):
        return [_with_newer_fields(part) for part in answer]
    if not isinstance(answer, dict) or key in _OWN:
        return answer
    newer = {name: _with_newer_fields(value, name) for name, value in answer.items()}
    return newer if key in _MAPS else newer | {"newer": {"than": "the client"}}
