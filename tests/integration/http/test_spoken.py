"""HTTP as it is spoken: HEAD, caching, character sets, callers who leave; and bounds on answers."""

import asyncio
import gzip
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from starlette.requests import ClientDisconnect

from service.http.middleware.request_log import CLIENT_CLOSED


def post_scope(path: str) -> dict[str, Any]:
    """The ASGI scope of a JSON post, for callers that httpx cannot play."""
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"host", b"test")],
        "client": ("127.0.0.1", 1), "server": ("test", 80),
    }  # fmt: skip


def whole(body: bytes) -> Any:
    """`receive` of a caller who sends this body and stays."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": body}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError

    return receive


PATHS = ("/", "/livez", "/readyz", "/metrics", "/info", "/collections", "/collections/flags", "/jobs", "/openapi.json")


async def test_head_wherever_get_is(served: Any) -> None:
    await served.load({"id": "a", "text": "red"})
    for path in (*PATHS, "/collections/flags/documents/a"):
        got, head = await served.client.get(path), await served.client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        assert head.headers["content-type"] == got.headers["content-type"]
    assert (await served.client.head("/collections/none")).status_code == 404
    assert (await served.client.head("/search")).status_code == 405


async def test_json_is_not_stored_by_caches(served: Any) -> None:
    for path in ("/info", "/collections", "/none"):
        assert (await served.client.get(path)).headers["cache-control"] == "no-store", path


async def test_compressed_documents_and_a_byte_order_mark(served: Any) -> None:
    await served.client.put("/collections/flags")
    path = "/collections/flags/documents?wait=true"
    for kind, body in (
        ("application/json", orjson.dumps([{"id": "a", "text": "red"}])),
        ("application/x-ndjson", b'{"id": "b", "text": "red"}\n'),
    ):
        headers = {"content-type": kind, "content-encoding": "gzip"}
        answer = (await served.client.post(path, content=gzip.compress(body), headers=headers)).json()
        assert [result["status"] for result in answer["results"]] == ["indexed"], answer
        headers = {"content-type": kind}
        answer = (await served.client.post(path, content=b"\xef\xbb\xbf" + body, headers=headers)).json()
        assert [result["status"] for result in answer["results"]] == ["skipped"], answer
    search = b'\xef\xbb\xbf{"collection": "flags", "query": {"text": "red"}}'
    response = await served.client.post("/search", content=search, headers={"content-type": "application/json"})
    assert len(response.json()["hits"]) == 2
    for kind in ("application/json", "application/x-ndjson"):
        content = '{"id": "c", "text": "red"}'.encode("utf-16")
        refused = await served.client.post(path, content=content, headers={"content-type": kind})
        assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_media_type")
    headers = {"content-type": "application/json; charset=latin-1"}
    assert (await served.client.post("/search", content=search, headers=headers)).status_code == 415


async def test_a_caller_who_leaves_is_no_error(served: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Counted as 499, without a traceback."""
    await served.client.put("/collections/flags")
    app = served.client._transport.app
    calls = (
        ("/search", b'{"collection": "fl'),
        ("/search/batch", b"{"),
        ("/collections/flags/documents", b"["),
    )
    for path, start in calls:
        messages = [{"type": "http.request", "body": start, "more_body": True}, {"type": "http.disconnect"}]

        async def receive(left: list[dict[str, Any]] = messages) -> dict[str, Any]:
            return left.pop(0) if len(left) > 1 else left[0]

        async def send(message: dict[str, Any]) -> None:
            pass

        await app(post_scope(path), receive, send)
        template = path.replace("flags", "{name}")
        value = served.parts.metrics.registry.get_sample_value
        labels = {"route": template, "method": "POST", "status": str(CLIENT_CLOSED)}
        assert value("ret2_requests_total", labels) == 1, path
    assert "Traceback" not in capsys.readouterr().out
    assert issubclass(ClientDisconnect, Exception)


async def test_answers_are_bounded_in_bytes(serve: Any) -> None:
    """A search that would go over the limit is an error of its own; those beside it are answered."""
    served = await serve(max_answer_bytes=60_000)
    await served.load(*({"id": str(number), "text": "red " * 2_000} for number in range(10)))
    large, small = ({"collection": "flags", "query": {"text": "red"}, "limit": limit} for limit in (10, 1))
    refused = await served.client.post("/search", json=large)
    assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
    assert (await served.client.post("/search", json=small)).status_code == 200
    results = (await served.client.post("/search/batch", json={"searches": [small, large, small]})).json()["results"]
    assert [result.get("error", {}).get("code") for result in results] == [None, "too_large", None]
    many = (await served.client.post("/search/batch", json={"searches": [small] * 20})).json()["results"]
    assert {result.get("error", {}).get("code") for result in many} == {None, "too_large"}


async def test_all_answers_together_are_bounded_in_bytes(serve: Any) -> None:
    """What is written and not read yet leaves no room for another large answer; small ones are answered."""
    served = await serve(max_answer_bytes=400_000, max_answers_bytes=400_000, max_held_hits=1_000)
    await served.load(*({"id": str(number), "text": "red " * 2_000} for number in range(40)))
    large, small = ({"collection": "flags", "query": {"text": "red"}, "limit": limit} for limit in (40, 1))
    reads, began = asyncio.Event(), asyncio.Event()

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            began.set()
            await reads.wait()

    slow = asyncio.create_task(served.app(post_scope("/search"), whole(orjson.dumps(large)), send))
    await began.wait()
    refused = await served.client.post("/search", json=large)
    assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert (await served.client.post("/search", json=small)).status_code == 200
    results = (await served.client.post("/search/batch", json={"searches": [small, large]})).json()["results"]
    assert [result.get("error", {}).get("code") for result in results] == [None, "overloaded"]
    reads.set()
    await slow
    assert (await served.client.post("/search", json=large)).status_code == 200


async def test_searches_wait_for_room_for_their_hits(serve: Any) -> None:
    served = await serve(max_held_hits=1_000, max_search_hits=1_000)
    await served.load({"id": "a", "text": "red"})
    body = {"collection": "flags", "query": {"text": "red"}, "limit": 1_000, "timeout_s": 1}
    async with served.parts.hit_room.taken(1):
        refused = await served.client.post("/search", json=body)
    assert (refused.status_code, refused.json()["code"]) == (504, "timed_out")
    assert (await served.client.post("/search", json=body)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "message"),
    [
        ("GET", "/jobs?limt=5", "this call has no query parameter 'limt': did you mean 'limit'?"),
        ("GET", "/jobs/x/failures?offest=1", "this call has no query parameter 'offest': did you mean 'offset'?"),
        (
            "POST",
            "/collections/flags/documents?wiat=true",
            "this call has no query parameter 'wiat': did you mean 'wait'?",
        ),
        ("GET", "/collections?limit=5", "this call has no query parameter 'limit': it has none"),
        ("GET", "/collections/flags/documents/a?zzz", "this call has no query parameter 'zzz': it has with_vector"),
    ],
)
async def test_a_query_parameter_that_there_is_not(served: Any, method: str, path: str, message: str) -> None:
    await served.load({"id": "a", "text": "red"})
    response = await served.client.request(method, path, json=[] if method == "POST" else None)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
    assert response.json()["detail"] == message


async def test_pages_and_probes_may_be_asked_with_anything(served: Any) -> None:
    """The address of the page is its search, and load balancers add what they like to a probe."""
    for path in ("/?collection=flags&text=red", "/livez?t=1", "/readyz?t=1", "/metrics?t=1", "/docs?t=1"):
        assert (await served.client.get(path)).status_code == 200, path


@pytest.mark.parametrize(
    "path", ["/collections/", "/search/", "/v1/embeddings/", "/livez/", "/collections/flags/documents/"]
)
async def test_a_slash_at_the_end_is_a_problem_that_says_so(served: Any, path: str) -> None:
    """Not a redirect, which most clients do not follow with a POST and which names a host that a proxy may hide."""
    for method in ("GET", "POST"):
        response = await served.client.request(method, path)
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["detail"].endswith("leave out the slash at the end")


async def test_an_id_may_hold_anything_that_is_percent_encoded(served: Any) -> None:
    ids = ["a/b", "a%2Fb", "%", "a/image", "a?b#c", "é", "a;b", "a b", "a+b"]
    await served.load(*({"id": name, "text": "red"} for name in ids))
    for name in ids:
        path = f"/collections/flags/documents/{quote(name, safe='')}"
        assert (await served.client.get(path)).json()["id"] == name
        assert (await served.client.delete(f"{path}?wait=true")).status_code == 200
        assert (await served.client.get(path)).status_code == 404


async def test_methods_that_are_allowed_are_named(served: Any) -> None:
    response = await served.client.post("/jobs")
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")
