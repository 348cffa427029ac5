"""The OpenAPI file against generated requests: no 5xx, and every answer is one that the description allows."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgpack
import pytest
import schemathesis
import uvicorn
from conftest import FakeRuntime
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.api.app import create_app
from service.assembly import build
from service.settings import Settings

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A whole embedded service in a thread, with a collection and a document for the generated names to meet."""
    servers: list[uvicorn.Server] = []
    folder: Path = tmp_path_factory.mktemp("contract")

    async def run() -> None:
        parts = build(Settings(data_dir=folder, request_timeout_s=10, wait_timeout_s=2), FakeRuntime())
        servers.append(uvicorn.Server(uvicorn.Config(create_app(parts), port=0, log_config=None, access_log=False)))
        await servers[0].serve()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    deadline = time.monotonic() + 30
    while not (servers and servers[0].started):
        assert thread.is_alive(), "the service did not start"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    url = f"http://127.0.0.1:{servers[0].servers[0].sockets[0].getsockname()[1]}"
    with httpx.Client(base_url=url, trust_env=False) as client:
        client.put("/collections/0")
        client.post("/collections/0/documents?wait=true", json=[{"id": "0", "text": "red"}]).raise_for_status()
    yield url
    servers[0].should_exit = True
    thread.join(30)
    assert not thread.is_alive()


@schemathesis.serializer("application/x-ndjson")
def one_line(_context: Any, value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


@schemathesis.serializer("application/msgpack")
def packed(_context: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else msgpack.packb({"role": "query", "inputs": [{"text": str(value)}]})


schema = schemathesis.openapi.from_path(Path(__file__).parents[2] / "docs" / "openapi.json")


@schema.parametrize()
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_any_request_gets_a_described_answer(case: Any, api: str) -> None:
    case.call_and_validate(base_url=api, checks=CHECKS)
