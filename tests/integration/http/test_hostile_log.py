"""Whatever callers send, a line of the log is one JSON object, and holds no text, metadata or path of theirs."""

import io
import json
import logging
import random
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from service.observability.logs import configure_logs

EVIL = (
    '%0a{"event":"audit"}', "%0d%0aX: y", "%1b[31m", "%00", "%e2%80%a8", "%ff%fe", "a" * 8_000, "%5c%22%7d",
    "%7b%22level%22", "%c2%85", "%E2%80%AE",
)  # fmt: skip
CALLS = (
    ("GET", "/collections/{}"), ("GET", "/collections/flags/documents/{}"), ("DELETE", "/collections/{}"), ("GET", "/jobs/{}"),
    ("POST", "/jobs/{}/cancel"), ("GET", "/{}"), ("PUT", "/aliases/{}"), ("GET", "/ui/{}"), ("GET", "/v1/models/{}"),
)  # fmt: skip


@pytest.fixture
def json_log() -> Iterator[io.StringIO]:
    root, before = logging.getLogger(), structlog.get_config()
    handlers = root.handlers
    configure_logs("info", "json")
    stream = io.StringIO()
    (handler,) = root.handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(stream)
    yield stream
    root.handlers = handlers
    structlog.configure(**before)


async def test_every_line_is_one_object(json_log: io.StringIO, served: Any) -> None:
    await served.client.put("/collections/flags")
    draws = random.Random(3)
    noise = ["".join(f"%{draws.randrange(256):02x}" for _ in range(draws.randrange(1, 60))) for _ in range(60)]
    for part in (*EVIL, *noise):
        for method, path in CALLS if part in EVIL else CALLS[:3]:
            headers = {"x-request-id": part, "user-agent": part, "traceparent": f"00-{part}"}
            await served.client.request(method, path.format(part), headers=headers)
    for odd in ('\n{"event":"audit"}', "\x1b[2J", "\u2028", "\u202e"):
        documents = [
            {"id": odd, "text": odd},
            {"text": f"secret-text{odd}", "metadata": {"secret-meta": odd}},
            {"id": "u", "image": {"url": f"http://127.0.0.1/secret-path{odd}"}},
        ]
        await served.client.post("/collections/flags/documents?wait=true", json=documents)
    log = json_log.getvalue()
    assert [line for line in log.split("\n") if line and not line.startswith("{")] == []
    lines = [json.loads(line) for line in log.split("\n") if line]
    assert len(lines) > 250
    assert {type(line) for line in lines} == {dict}
    assert not [word for word in ("secret-text", "secret-meta", "secret-path", "\x1b", "\u202e") if word in log]
    assert not [line for line in lines if line.get("event") == "audit" and "status" not in line]
    routes = {line["route"] for line in lines if line["event"] == "request"}
    assert len(routes) <= len(CALLS) + 3, "routes are templates, however many paths there are"
