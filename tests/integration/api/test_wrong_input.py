"""What wrong input gets: a problem that says what, which value and the limit; the others unharmed; the next good request answered."""

import base64
import itertools
import json
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from PIL import Image

GOOD = {"role": "query", "inputs": [{"text": "good"}]}
SEARCH = {"collection": "flags", "query": {"text": "red"}}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def is_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert {"type", "title", "status", "detail", "code", "request_id"} <= set(problem)
    assert problem["status"] == status
    assert problem["code"] == code, problem
    assert problem["request_id"] == response.headers["x-request-id"]
    return problem


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims a size and is tiny itself."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def images(make_image: Callable[..., bytes]) -> dict[str, tuple[bytes, str]]:
    """Name, file, and the code it gets."""
    good = make_image(size=(64, 64))
    return {
        "corrupt": (good[:40] + b"\0" * 20 + good[60:], "invalid_input"),
        "truncated": (good[:-40], "invalid_input"),
        "zero bytes": (b"", "invalid_input"),
        "bomb": (bomb(30_000, 30_000), "too_large"),
        "large": (bomb(8_000, 8_000), "too_large"),
        "html": (b"<!doctype html><title>404</title>", "invalid_input"),
        "1x1": (make_image(size=(1, 1)), "ok"),
        "cmyk": (make_image((0, 0, 0, 0), mode="CMYK", kind="JPEG"), "ok"),
        "animated": (make_image(kind="GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")]), "ok"),
        "first frame": (make_image(kind="GIF"), "ok"),
        "good": (good, "ok"),
    }


@pytest.fixture(autouse=True)
async def still_well(served: Any) -> AsyncIterator[None]:
    """After every test here: the next good request works and readiness stays true."""
    await served.load({"id": "fr", "text": "blue white red", "metadata": {"area": 1.0}})
    yield
    response = await served.client.post("/encode", json=GOOD)
    assert "embedding" in response.json()["results"][0]
    assert [hit["id"] for hit in (await served.search("red"))["hits"]][:1] == ["fr"]
    assert (await served.client.get("/readyz")).status_code == 200


async def test_odd_images_on_encode(served: Any, make_image: Callable[..., bytes]) -> None:
    cases = images(make_image)
    body = {"role": "document", "inputs": [{"image": {"base64": b64(data)}} for data, _ in cases.values()]}
    results = (await served.client.post("/encode", json=body)).json()["results"]
    got = {
        name: result["error"]["code"] if "error" in result else "ok"
        for name, result in zip(cases, results, strict=True)
    }
    assert got == {name: code for name, (_, code) in cases.items()}
    result = dict(zip(cases, results, strict=True))
    assert result["animated"] == result["first frame"]
    assert result["bomb"]["error"]["detail"] == "image has 900000000 px, limit is 50000000"
    assert result["large"]["error"]["detail"] == "image has 64000000 px (8000 x 8000), limit is 50000000"


async def test_odd_images_on_documents(served: Any, make_image: Callable[..., bytes]) -> None:
    cases = images(make_image)
    answer = await served.load(*({"id": name, "image": {"base64": b64(data)}} for name, (data, _) in cases.items()))
    rejected = {one["id"]: one["code"] for one in answer["rejected"]}
    failed = {one["id"]: one["error"]["code"] for one in answer["results"] if one["status"] == "failed"}
    indexed = {one["id"] for one in answer["results"] if one["status"] == "indexed"}
    assert rejected | failed == {name: code for name, (_, code) in cases.items() if code != "ok"}
    assert indexed == {name for name, (_, code) in cases.items() if code == "ok"}
    assert {"html", "zero bytes"} <= set(rejected)  # said at once, before anything is decoded


async def test_odd_images_on_search(served: Any, make_image: Callable[..., bytes]) -> None:
    for name, (data, code) in images(make_image).items():
        body = {"collection": "flags", "query": {"text": "red", "image": {"base64": b64(data)}}}
        response = await served.client.post("/search", json=body)
        if code == "ok":
            assert response.status_code == 200, name
        else:
            problem = is_problem(response, 413 if code == "too_large" else 400, code)
            assert b64(data)[:40] not in response.text or not data
            assert problem["errors"][0]["field"] == "image"


async def test_a_megabyte_of_text(served: Any) -> None:
    response = await served.client.post("/search", json={"collection": "flags", "query": {"text": "x" * 2**20}})
    problem = is_problem(response, 413, "too_large")
    assert "1048576 characters, limit is 100000" in problem["detail"]
    assert problem["errors"] == [{"field": "text", "value": 1048576, "limit": 100000}]
    assert len(response.content) < 1000


async def test_a_megabyte_of_text_beside_others(served: Any) -> None:
    long = "x" * 2**20
    body = {"role": "query", "inputs": [{"text": "good"}, {"text": long}]}
    good, refused = (await served.client.post("/encode", json=body)).json()["results"]
    assert good["embedding"]
    detail = "text has 1048576 characters, limit is 100000"
    assert refused == {"error": {"code": "too_large", "detail": detail}}
    answer = await served.load({"id": "long", "text": long}, {"id": "good", "text": "x"})
    assert answer["rejected"] == [{"position": 0, "id": "long", "code": "too_large", "detail": detail}]
    assert [(one["id"], one["status"]) for one in answer["results"]] == [("good", "indexed")]


@pytest.mark.parametrize("query", [{}, {"text": ""}, {"text": None, "image": None}])
async def test_neither_text_nor_image(served: Any, query: dict[str, Any]) -> None:
    response = await served.client.post("/search", json={"collection": "flags", "query": query})
    assert "give text, image, document_id or positive" in is_problem(response, 422, "invalid_request")["detail"]


async def test_blank_text(served: Any) -> None:
    response = await served.client.post("/search", json={"collection": "flags", "query": {"text": " \n "}})
    is_problem(response, 400, "invalid_input")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_numbers_that_are_none(served: Any, number: str) -> None:
    """Python's own JSON parser would let them through."""
    headers = {"content-type": "application/json"}
    condition = f'{{"field": "area", "gte": {number}}}'
    search = f'{{"collection": "flags", "query": {{"text": "red"}}, "filter": {condition}}}'
    response = await served.client.post("/search", content=search, headers=headers)
    problem = is_problem(response, 400, "invalid_json")
    assert number.lstrip("-") in problem["detail"]
    assert number.lstrip("-") in problem["errors"][0]["value"]
    documents = f'[{{"id": "n", "text": "red", "metadata": {{"area": {number}}}}}, {{"id": "good", "text": "x"}}]'
    path = "/collections/flags/documents?wait=true"
    is_problem(await served.client.post(path, content=documents, headers=headers), 400, "invalid_json")
    lines = documents.strip("[]").replace("}, {", "}\n{")
    ndjson = {"content-type": "application/x-ndjson"}
    answer = (await served.client.post(path, content=lines, headers=ndjson)).json()
    (rejected,) = answer["rejected"]
    assert (rejected["position"], rejected["code"]) == (0, "invalid_json")
    assert number.lstrip("-") in rejected["detail"]
    assert [(one["id"], one["status"]) for one in answer["results"]] == [("good", "indexed")]


async def test_filters_that_are_none(served: Any) -> None:
    for condition in ({}, {"field": "area"}, {"field": 5, "equals": 1}, {"field": "area", "gte": "x"}, {"all": 5}):
        response = await served.client.post("/search", json={**SEARCH, "filter": condition})
        assert is_problem(response, 400, "invalid_input")["detail"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/search", {**SEARCH, "collection": "none"}),
        ("GET", "/collections/none", None),
        ("DELETE", "/collections/none", None),
        ("POST", "/collections/none/documents", [{"text": "red"}]),
        ("POST", "/collections/none/documents/delete", {"ids": ["a"]}),
        ("GET", "/collections/none/documents/a", None),
        ("GET", "/collections/none/documents/a/image", None),
        ("GET", "/collections/flags/documents/none", None),
        ("POST", "/search", {"collection": "flags", "query": {"document_id": "none"}}),
        ("GET", "/jobs/none", None),
        ("GET", "/jobs/none/failures", None),
        ("GET", "/jobs/..%2fnone%2f", None),
    ],
)
async def test_what_is_not_there(served: Any, method: str, path: str, body: Any) -> None:
    response = await served.client.request(method, path, json=body)
    detail = is_problem(response, 404, "not_found")["detail"]
    assert "none" in detail
    assert "\\x1f" not in detail


async def test_routes_that_are_not_there(served: Any) -> None:
    is_problem(await served.client.get("/nowhere"), 404, "not_found")
    for path in ("/no%2Fwhere", "/no%1Fwhere", "/no%0Awhere", "/no%C2%85where"):
        detail = is_problem(await served.client.get(path), 404, "not_found")["detail"]
        assert detail == f"GET {path}: Not Found"
    response = await served.client.get("/search")
    is_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "POST"


async def test_unknown_fields_and_wrong_types_are_named(served: Any) -> None:
    for change, field in (({"mode": "text"}, "mode"), ({"limit": "10"}, "limit"), ({"query": {"txt": 1}}, "query.txt")):
        response = await served.client.post("/search", json={**SEARCH, **change})
        problem = is_problem(response, 422, "invalid_request")
        assert field in [one["field"] for one in problem["errors"]]
    problem = is_problem(await served.client.put("/collections/flags", json={"shards": 3}), 422, "invalid_request")
    assert problem["errors"] == [{"field": "shards", "value": 3, "limit": "no such field"}]


@pytest.mark.parametrize("name", ["..%2fetc", ".hidden", "a b", "x" * 101, "ü"])
async def test_bad_collection_names(served: Any, name: str) -> None:
    problem = is_problem(await served.client.put(f"/collections/{name}"), 422, "invalid_request")
    (error,) = problem["errors"]
    limit = "must be 1 to 63 of a-z, 0-9, _ and -, the first of them a letter or digit"
    assert (error["field"], error["value"][:100], error["limit"]) == ("name", unquote(name)[:100], limit)


async def test_10_001_documents(served: Any) -> None:
    documents = [{"id": str(number), "text": "red"} for number in range(10_001)]
    response = await served.client.post("/collections/flags/documents", json=documents)
    problem = is_problem(response, 413, "too_large")
    assert problem["errors"] == [{"field": "documents", "value": 10_001, "limit": 10_000}]
    assert (await served.client.get("/collections/flags")).json()["documents"] == 1


async def test_too_many_inputs_and_searches(served: Any) -> None:
    response = await served.client.post("/encode", json={"role": "query", "inputs": [{"text": "a"}] * 257})
    assert "limit is 256" in is_problem(response, 413, "too_large")["detail"]
    response = await served.client.post("/search/batch", json={"searches": [SEARCH] * 65})
    assert "limit is 64" in is_problem(response, 413, "too_large")["detail"]


@pytest.mark.parametrize("content", [b"", b"{", b"nonsense", b"\xff\xfe", b"[" * 2000, b'"\\ud800"'])
async def test_bodies_that_are_no_json(served: Any, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    for path in ("/search", "/encode", "/v1/embeddings", "/search/batch", "/collections/flags/documents"):
        response = await served.client.post(path, content=content, headers=headers)
        # The mark of UTF-16 is answered as another encoding than UTF-8.
        expected = (415,) if content == b"\xff\xfe" else (400, 422)
        assert response.status_code in expected, (path, response.text)
        is_problem(response, response.status_code, response.json()["code"])


CALLS = json.loads((Path(__file__).parents[3] / "docs" / "openapi.json").read_text())["paths"]
WITH_BODY = [(method, path) for path, calls in CALLS.items() for method, call in calls.items() if "requestBody" in call]


async def test_another_content_type(served: Any) -> None:
    """Those that a web page may send to any address without its browser asking there first, and none."""
    kinds = ("text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None)
    for (method, path), kind in itertools.product(WITH_BODY, kinds):
        headers = {} if kind is None else {"content-type": kind}
        url = path.format(name="flags", id="se")
        response = await served.client.request(method, url, content=b'[{"text": "red"}]', headers=headers)
        assert "application/json" in is_problem(response, 415, "unsupported_media_type")["detail"], (method, path, kind)
    assert {"/search", "/collections/{name}/documents", "/encode"} <= {path for _, path in WITH_BODY}


@pytest.mark.parametrize("body", [5, None, "x", {}, {"documents": 5}, {"docs": []}, {"documents": [], "more": 1}])
async def test_documents_of_another_shape(served: Any, body: Any) -> None:
    headers = {"content-type": "application/json"}
    response = await served.client.post("/collections/flags/documents", content=json.dumps(body), headers=headers)
    is_problem(response, 400, "invalid_input")


async def test_a_bad_url_is_forbidden(served: Any) -> None:
    for host in ("127.0.0.1", "[::1]", "169.254.169.254", "localhost"):
        body = {"collection": "flags", "query": {"image": {"url": f"http://{host}/secret.png?sig=secret"}}}
        problem = is_problem(await served.client.post("/search", json=body), 403, "forbidden")
        assert problem["errors"] == [{"field": "image", "value": host.strip("[]"), "limit": "a public address"}]
        assert "secret" not in str(problem)


async def test_request_ids(served: Any) -> None:
    ours = await served.client.get("/nowhere", headers={"x-request-id": "mine-1"})
    assert ours.json()["request_id"] == "mine-1"
    for bad in ("a b", "x" * 200, "<script>"):
        response = await served.client.get("/nowhere", headers={"x-request-id": bad})
        assert response.headers["x-request-id"] != bad


async def test_whatever_raises_is_answered_without_saying_what(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_args: Any) -> None:
        raise RuntimeError("password=hunter2")

    with monkeypatch.context() as patch:
        patch.setattr(type(served.parts.catalog), "encoder", broken)
        response = await served.client.post("/search", json=SEARCH)
        is_problem(response, 500, "internal")
    assert "hunter2" not in response.text
