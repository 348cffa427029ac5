"""Every endpoint doing what it is for."""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson
import pytest
from fake_store import FakeStore

Serve = Callable[..., Awaitable[Any]]
Make = Callable[..., bytes]

FLAGS = [
    {"id": "fr", "text": "blue white red vertical", "metadata": {"region": "Europe", "area_km2": 551695}},
    {"id": "jp", "text": "white red circle", "metadata": {"region": "Asia", "area_km2": 377930}},
    {"id": "se", "text": "blue yellow cross", "metadata": {"region": "Europe", "area_km2": 450295}},
]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# --- search


async def test_the_nearest_document_comes_first(served: Any) -> None:
    await served.load(*FLAGS)
    answer = await served.search("yellow cross")
    assert answer["hits"][0] == {
        "id": "se",
        "score": pytest.approx(0.8, abs=0.3),
        "text": "blue yellow cross",
        "image_url": None,
        "thumbnail_url": None,
        "metadata": {"region": "Europe", "area_km2": 450295},
        "part": None,
    }
    assert set(answer["timings"]) == {"decode_ms", "queue_ms", "encode_ms", "store_ms", "total_ms"}
    assert all(value >= 0 for value in answer["timings"].values())


async def test_limit_offset_threshold_and_vector(served: Any) -> None:
    await served.load(*FLAGS)
    everything = (await served.search("white red", limit=10))["hits"]
    assert (await served.search("white red", limit=1))["hits"] == everything[:1]
    assert (await served.search("white red", limit=1, offset=1))["hits"] == everything[1:2]
    best = everything[0]["score"]
    assert (await served.search("white red", score_threshold=best - 1e-3))["hits"] == everything[:1]
    (hit,) = (await served.search("white red", limit=1, with_vector=True))["hits"]
    assert np.linalg.norm(hit["vector"]) == pytest.approx(1, abs=1e-5)


async def test_a_filter_narrows(served: Any) -> None:
    await served.load(*FLAGS)
    hits = (await served.search("blue white red vertical", filter={"field": "region", "equals": "Asia"}))["hits"]
    assert [hit["id"] for hit in hits] == ["jp"]


async def test_search_by_image_and_by_both(served: Any, make_image: Make) -> None:
    red, blue = make_image("red"), make_image("blue")
    await served.load(
        {"id": "red", "image": {"base64": b64(red)}},
        {"id": "blue", "image": f"data:image/png;base64,{b64(blue)}"},
        {"id": "blue and word", "text": "sea", "image": {"base64": b64(blue)}},
    )
    for query, first in (
        ({"image": {"base64": b64(red)}}, "red"),
        ({"image": {"base64": b64(blue)}}, "blue"),
        ({"image": {"base64": b64(blue)}, "text": "sea"}, "blue and word"),
    ):
        answer = (await served.client.post("/search", json={"collection": "flags", "query": query})).json()
        assert answer["hits"][0]["id"] == first
        assert answer["hits"][0]["score"] == pytest.approx(1, abs=1e-5)


async def test_search_by_document_leaves_it_out(served: Any) -> None:
    await served.load(*FLAGS)
    for body in ({"limit": 1}, {"limit": 1, "offset": 0}):
        response = await served.client.post(
            "/search", json={"collection": "flags", "query": {"document_id": "fr"}, **body}
        )
        assert [hit["id"] for hit in response.json()["hits"]] == ["jp"]
    everything = await served.client.post("/search", json={"collection": "flags", "query": {"document_id": "fr"}})
    assert [hit["id"] for hit in everything.json()["hits"]] == ["jp", "se"]
    second = await served.client.post(
        "/search", json={"collection": "flags", "query": {"document_id": "fr"}, "offset": 1}
    )
    assert second.json()["hits"] == everything.json()["hits"][1:]


async def test_instruction_goes_before_the_text(served: Any, runtime: Any) -> None:
    await served.client.put("/collections/flags", json={"instruction": "find the flag:"})
    await served.load(*FLAGS)
    await served.search("red")
    assert runtime.batches[-1] == ["find the flag: red"]
    for own, encoded in (("other", "other red"), ("", "red")):
        query = {"text": "red", "instruction": own}
        await served.client.post("/search", json={"collection": "flags", "query": query})
        assert runtime.batches[-1] == [encoded]


async def test_search_batch_answers_each(served: Any) -> None:
    await served.load(*FLAGS)
    searches = [
        {"collection": "flags", "query": {"text": "yellow cross"}},
        {"collection": "none", "query": {"text": "red"}},
        {"collection": "flags", "query": {"text": "red"}, "mode": "text"},
        {"collection": "flags", "query": {"text": "red"}, "filter": {"field": "region", "nearly": 1}},
        {"collection": "flags", "query": {"text": "red circle"}, "limit": 1},
    ]
    results = (await served.client.post("/search/batch", json={"searches": searches})).json()["results"]
    assert [result["error"]["code"] if "error" in result else result["hits"][0]["id"] for result in results] == [
        "se",
        "not_found",
        "invalid_input",
        "invalid_input",
        "jp",
    ]


# --- encode


async def test_encode(served: Any, runtime: Any, make_image: Make) -> None:
    inputs = [
        {"text": "red"},
        {"image": {"base64": b64(make_image())}},
        {"text": "red", "image": f"data:image/png;base64,{b64(make_image())}"},
    ]
    answer = (await served.client.post("/encode", json={"role": "query", "inputs": inputs})).json()
    assert (answer["model"], answer["dimensions"]) == ("fake", 64)
    for result in answer["results"]:
        assert np.linalg.norm(result["embedding"]) == pytest.approx(1, abs=1e-5)


async def test_encode_fails_item_by_item(served: Any, make_image: Make) -> None:
    good = make_image(size=(64, 64))
    inputs = [
        {"text": "good"},
        {},
        {"image": {"base64": "%%%"}},
        {"image": {"base64": b64(good[:-40])}},
        {"image": {"base64": b64(b"<html>no</html>")}},
        {"image": {"url": "http://127.0.0.1:9/x.png"}},
        {"text": 5},
        {"text": "x" * 100_001},
        {"image": {"base64": b64(good)}},
    ]
    response = await served.client.post("/encode", json={"role": "document", "inputs": inputs})
    assert response.status_code == 200
    codes = [result["error"]["code"] if "error" in result else "ok" for result in response.json()["results"]]
    bad = "invalid_input"
    assert codes == ["ok", bad, bad, bad, bad, "forbidden", bad, "too_large", "ok"]
    assert all(result["error"]["detail"] for result in response.json()["results"] if "error" in result)


async def test_openai_embeddings(served: Any, make_image: Make) -> None:
    image = f"data:image/png;base64,{b64(make_image())}"
    parts = [{"type": "text", "text": "red"}, {"type": "image_url", "image_url": {"url": image}}]
    for given, count in (("red", 1), (["red", "blue"], 2), (parts, 1), ([parts, "red", [parts[1]]], 3)):
        response = await served.client.post("/v1/embeddings", json={"model": "fake", "input": given})
        assert response.status_code == 200, response.text
        answer = response.json()
        assert answer["object"] == "list"
        assert answer["model"] == "fake"
        assert [datum["index"] for datum in answer["data"]] == list(range(count))
        assert answer["usage"]["total_tokens"] >= 3
    plain = (await served.client.post("/v1/embeddings", json={"input": "red"})).json()["data"][0]["embedding"]
    packed = await served.client.post(
        "/v1/embeddings", json={"input": "red", "encoding_format": "base64", "dimensions": 64}
    )
    unpacked = np.frombuffer(base64.b64decode(packed.json()["data"][0]["embedding"]), "<f4")
    assert unpacked == pytest.approx(plain)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"input": [1, 2, 3]}, 400, "token ids"),
        ({"input": [[1, 2], [3]]}, 400, "token ids"),
        ({"input": []}, 400, "empty list"),
        ({"input": ["red", ""]}, 400, "input[1]"),
        ({"input": "red", "dimensions": 32}, 400, "has 64"),
        ({"input": [{"type": "text", "text": "a"}, "b"]}, 400, "mixes"),
        ({"input": "red", "encoding_format": "int8"}, 422, "encoding_format"),
        ({}, 422, "input"),
    ],
)
async def test_openai_embeddings_refuse(served: Any, body: dict[str, Any], status: int, says: str) -> None:
    response = await served.client.post("/v1/embeddings", json=body)
    assert response.status_code == status, response.text
    assert says in response.json()["detail"]


# --- collections


async def test_embeddings_are_cut_where_the_model_is_made_for_it(
    serve: Serve, runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(runtime), "info", replace(runtime.info, shorter=(2, 4)))
    served = await serve()
    (model,) = (await served.client.get("/info")).json()["models"]
    assert model["shorter"] == [2, 4]

    async def embeddings(path: str, **body: Any) -> Any:
        answer = await served.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    whole = (await embeddings("/v1/embeddings", input=["red"]))["data"][0]["embedding"]
    assert len(whole) == model["dimensions"] > 4
    cut = np.array(whole[:4]) / np.linalg.norm(whole[:4])
    openai = await embeddings("/v1/embeddings", input=["red"], dimensions=4)
    assert openai["data"][0]["embedding"] == pytest.approx(cut.tolist(), abs=1e-6)
    cohere = await embeddings(
        "/v2/embed",
        model="fake",
        texts=["red"],
        input_type="search_document",
        embedding_types=["float"],
        output_dimension=4,
    )
    assert cohere["embeddings"]["float"][0] == pytest.approx(cut.tolist(), abs=1e-6)
    refused = await served.client.post("/v1/embeddings", json={"input": ["red"], "dimensions": 3})
    assert refused.status_code == 400
    assert f"model fake has 2, 4, {model['dimensions']} and no others" in refused.json()["detail"]


async def test_a_collection_says_what_is_built_for_it_and_what_that_waits_for(serve: Any) -> None:
    store = FakeStore()
    served = await serve(store=store)
    await served.client.put("/collections/flags", json={"indexes": {"n": "number"}})
    store.upkeep = ("(graph)", "(waits: room)")
    for answer in (
        (await served.client.get("/collections/flags")).json(),
        (await served.client.get("/collections")).json()["collections"][0],
    ):
        assert answer["indexing"] == ["(graph)", "(waits: room)"]


async def test_collections(served: Any) -> None:
    created = await served.client.put("/collections/flags", json={"instruction": "find:"})
    assert created.status_code == 201
    again = await served.client.put("/collections/flags", json={"instruction": "find:"})
    assert again.status_code == 200
    assert again.json() == created.json()
    assert created.json() | {"created_at": 0, "size_bytes": 0} == {
        "name": "flags",
        "documents": 0,
        "pending": 0,
        "failed": 0,
        "size_bytes": 0,
        "indexes": {},
        "indexing": [],
        "server": None,
        "aliases": [],
        "limit": None,
        "language": "simple",
        "latents": False,
        "parts": True,
        "passages": {"enabled": True, "overlap": 0, "tokens": None},
        "precision": [],
        "generation": 0,
        "model": "fake",
        "fingerprint": "fake-fingerprint",
        "dimensions": 64,
        "instruction": "find:",
        "created_at": 0,
        "compatible": True,
        "error": None,
    }
    await served.load(*FLAGS)
    assert (await served.client.get("/collections/flags")).json()["documents"] == 3
    listed = (await served.client.get("/collections")).json()["collections"]
    assert [one["name"] for one in listed] == ["flags"]
    assert (await served.client.delete("/collections/flags")).status_code == 204
    assert (await served.client.get("/collections/flags")).status_code == 404
    assert (await served.client.delete("/collections/flags")).status_code == 404


# --- documents


async def test_wait_says_what_became_of_each(served: Any, make_image: Make) -> None:
    truncated = make_image(size=(64, 64))[:-30]
    answer = await served.load({"id": "good", "text": "red"}, {"id": "bad", "image": {"base64": b64(truncated)}})
    assert answer["job"]["state"] == "succeeded_with_failures"
    assert (answer["job"]["accepted"], answer["job"]["indexed"], answer["job"]["failed"]) == (2, 1, 1)
    assert answer["results"][0] == {"id": "good", "status": "indexed"}
    assert answer["results"][1]["status"] == "failed"
    assert answer["results"][1]["error"]["code"] == "invalid_input"
    failures = (await served.client.get(f"/jobs/{answer['job']['id']}/failures")).json()["failures"]
    assert [(one["position"], one["id"]) for one in failures] == [(1, "bad")]


async def test_a_bad_document_is_rejected_and_the_others_are_not(served: Any) -> None:
    documents: list[Any] = [
        {"id": "a", "text": "red"},
        {"id": "b", "txt": "red"},
        {"id": 5, "text": "red"},
        "red",
        {"id": "c", "image": {"base64": b64(b"<html>")}},
        {"id": "d", "text": "x" * 100_001},
        {"id": "e", "text": "red", "metadata": {"k": "x" * 70_000}},
        {"id": "f", "text": "red", "metadata": {"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": 1}}}}}}}}},
        {"id": "g", "text": "red", "metadata": {"a": [{"b": {"c": {"d": {"e": {"f": {"g": {"h": {}}}}}}}}]}},
        {"text": "no id"},
    ]
    answer = await served.load(*documents)
    assert [(one["position"], one["id"], one["code"]) for one in answer["rejected"]] == [
        (1, "b", "invalid_input"),
        (2, None, "invalid_input"),
        (3, None, "invalid_input"),
        (4, "c", "invalid_input"),
        (5, "d", "too_large"),
        (6, "e", "too_large"),
        (8, "g", "too_large"),
    ]
    assert "unknown field 'txt'" in answer["rejected"][0]["detail"]
    assert "limit is 100000" in answer["rejected"][4]["detail"]
    assert answer["job"]["accepted"] == 3
    assert len(answer["results"]) == 3


async def test_without_wait_it_is_accepted(served: Any, runtime: Any) -> None:
    await served.client.put("/collections/flags")
    response = await served.client.post("/collections/flags/documents", json={"documents": FLAGS})
    assert response.status_code == 202
    job = response.json()["job"]
    assert (job["accepted"], job["collection"], job["kind"]) == (3, "flags", "documents")
    assert (await served.parts.progress.wait(job["id"], 10)).state == "succeeded"
    assert (await served.client.get(f"/jobs/{job['id']}")).json()["indexed"] == 3
    assert [one["id"] for one in (await served.client.get("/jobs", params={"collection": "flags"})).json()["jobs"]] == [
        job["id"]
    ]
    assert (await served.client.get("/jobs", params={"state": ["queued", "failed"]})).json()["jobs"] == []
    assert (await served.client.get("/jobs", params={"collection": "other"})).json()["jobs"] == []


async def test_wait_ends_with_the_time(serve: Serve, runtime: Any) -> None:
    served = await serve(wait_timeout_s=0.01)
    await served.client.put("/collections/flags")
    runtime.gate.clear()
    response = await served.client.post("/collections/flags/documents?wait=true", json=FLAGS)
    assert response.status_code == 202
    assert "results" not in response.json()


async def test_ndjson_as_a_stream(served: Any) -> None:
    await served.client.put("/collections/flags")

    async def stream() -> Any:
        for piece in (
            b'{"id": "a", "te',
            b'xt": "red"}\n\n{"id": "b"',
            b"}\nnot json\n",
            b'{"id": "c", "text": NaN}\n',
            b'{"id": "d", "text": "blue"}',
        ):
            yield piece

    headers = {"content-type": "application/x-ndjson; charset=utf-8"}
    response = await served.client.post("/collections/flags/documents?wait=true", content=stream(), headers=headers)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert [result["id"] for result in answer["results"]] == ["a", "d"]
    assert [one["position"] for one in answer["rejected"]] == [2, 3, 4]
    assert answer["rejected_count"] == 3


async def test_results_of_a_long_stream_are_read_and_sent_in_pages(
    serve: Serve,
) -> None:
    served = await serve(index_batch_documents=2)
    served.parts.ledger.jobs.result_batches = 3
    await served.client.put("/collections/flags")
    lines = [{"id": f"d{number}", "text": "" if number == 4 else f"red {number}"} for number in range(20)]
    lines[7] |= {"image": {"url": "http://127.0.0.1:9/x.png"}}
    body = b"\n".join(map(orjson.dumps, lines))
    headers = {"content-type": "application/x-ndjson"}
    path = "/collections/flags/documents?wait=true"
    async with served.client.stream("POST", path, content=body, headers=headers) as response:
        assert response.status_code == 200
        answer = orjson.loads(await response.aread())
    assert answer["rejected_count"] == 1
    assert answer["job"]["state"] == "succeeded_with_failures"
    assert [one["id"] for one in answer["results"]] == [one["id"] for one in lines if one["text"]]
    assert [one["id"] for one in answer["results"] if one["status"] != "indexed"] == ["d7"]
    pages = [page async for page in served.parts.ledger.jobs.results(answer["job"]["id"])]
    assert [len(page) for page in pages] == [6, 6, 6, 1]


async def test_of_many_rejected_lines_the_first_are_listed(serve: Serve) -> None:
    served = await serve(max_documents_per_call=2)
    await served.client.put("/collections/flags")
    body = b"bad\n" * 5 + b'{"id": "a", "text": "red"}\n'
    headers = {"content-type": "application/x-ndjson"}
    response = await served.client.post("/collections/flags/documents", content=body, headers=headers)
    answer = response.json()
    assert ([one["position"] for one in answer["rejected"]], answer["rejected_count"]) == ([0, 1], 5)
    assert answer["job"]["accepted"] == 1


async def test_idempotency_key(served: Any) -> None:
    await served.client.put("/collections/flags")
    headers = {"idempotency-key": "once"}
    first, second = [
        await served.client.post("/collections/flags/documents", json=FLAGS, headers=headers) for _ in range(2)
    ]
    assert first.json()["job"]["id"] == second.json()["job"]["id"]
    other = await served.client.post("/collections/flags/documents", json=FLAGS[:1], headers=headers)
    assert other.status_code == 409
    assert len((await served.client.get("/jobs")).json()["jobs"]) == 1


async def test_idempotency_key_of_a_stream(served: Any) -> None:
    await served.client.put("/collections/flags")
    headers = {"idempotency-key": "once", "content-type": "application/x-ndjson"}

    async def post(*pieces: bytes) -> Any:
        async def stream() -> Any:
            for piece in pieces:
                yield piece

        return await served.client.post("/collections/flags/documents", content=stream(), headers=headers)

    first = await post(b'{"id": "a", "text": "red"}\n{"id": "b", "text": "blue"}\n')
    again = await post(b'{"id": "a", "text": "red"}\n{"id"', b': "b", "text": "blue"}\n')
    assert again.json()["job"]["id"] == first.json()["job"]["id"]
    other = await post(b'{"id": "a", "text": "red"}\n{"id": "c", "text": "blue"}\n')
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    assert [job["accepted"] for job in (await served.client.get("/jobs")).json()["jobs"]] == [2]


async def test_read_and_delete(served: Any) -> None:
    await served.load(*FLAGS)
    path = "/collections/flags/documents/fr"
    assert (await served.client.get(path)).json() == {**FLAGS[0], "image_url": None, "thumbnail_url": None}
    assert len((await served.client.get(path, params={"with_vector": True})).json()["vector"]) == 64
    deleted = await served.client.delete(path, params={"wait": True})
    assert deleted.status_code == 200
    assert deleted.json()["job"]["kind"] == "delete"
    assert (await served.client.get(path)).status_code == 404
    many = await served.client.post("/collections/flags/documents/delete?wait=true", json={"ids": ["jp", "never was"]})
    assert many.status_code == 200
    assert (await served.client.get("/collections/flags")).json()["documents"] == 1


@pytest.mark.parametrize("odd", ["a/b", "a/image", "100%", "a%2Fb", "ü 語", "?x=1#y", "a//b"])
async def test_ids_of_any_kind_in_paths(served: Any, odd: str) -> None:
    await served.load({"id": "a", "text": "trap"}, {"id": odd, "text": "red"})
    response = await served.client.get(f"/collections/flags/documents/{quote(odd, safe='')}")
    assert response.status_code == 200, response.text
    assert response.json()["id"] == odd


async def test_the_image_comes_back_as_it_was(served: Any, make_image: Make) -> None:
    for kind, content_type in (
        ("PNG", "image/png"),
        ("JPEG", "image/jpeg"),
        ("WEBP", "image/webp"),
        ("GIF", "image/gif"),
    ):
        data = make_image(kind=kind)
        await served.load({"id": "a/b", "image": {"base64": b64(data)}})
        document = (await served.client.get("/collections/flags/documents/a%2Fb")).json()
        response = await served.client.get(document["image_url"])
        assert response.content == data
        assert response.headers["content-type"] == content_type
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "immutable" in response.headers["cache-control"]
        again = await served.client.get(document["image_url"], headers={"if-none-match": response.headers["etag"]})
        assert again.status_code == 304
        assert again.content == b""
        plain = await served.client.get(document["image_url"].partition("?")[0])
        assert plain.headers["cache-control"] == "private, no-cache"


async def test_an_odd_image_is_a_download(served: Any, make_image: Make) -> None:
    await served.load({"id": "a", "image": {"base64": b64(make_image(kind="TIFF"))}}, {"id": "none", "text": "red"})
    response = await served.client.get("/collections/flags/documents/a/image")
    assert response.headers["content-type"] == "image/tiff"
    assert response.headers["content-disposition"] == "attachment"
    assert (await served.client.get("/collections/flags/documents/none/image")).status_code == 404


# --- operations


async def test_probes(served: Any) -> None:
    assert (await served.client.get("/livez")).json() == {
        "alive": True,
        "parts": {"encoder": True, "fetcher": True, "store": True, "worker": True},
    }
    ready = await served.client.get("/readyz")
    assert ready.status_code == 200
    assert set(ready.json()["checks"].values()) == {"ok"}
    served.parts.draining.set()
    assert (await served.client.get("/readyz")).status_code == 503
    assert (await served.client.get("/livez")).status_code == 200


async def test_a_model_that_fails_is_not_ready(served: Any, runtime: Any) -> None:
    runtime.on_forward = lambda _texts: 1 / 0
    response = await served.client.get("/readyz")
    assert response.status_code == 503
    assert "ZeroDivisionError" in response.json()["checks"]["encoder"]
    runtime.on_forward = lambda _texts: None
    assert (await served.client.get("/readyz")).status_code == 200


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_dead_model_thread_turns_livez(served: Any, runtime: Any) -> None:
    def die(_texts: list[str]) -> None:
        raise SystemExit

    runtime.on_forward = die
    response = await served.client.post("/encode", json={"role": "query", "inputs": [{"text": "red"}]})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    live = await served.client.get("/livez")
    assert live.status_code == 503
    assert live.json()["parts"] == {"encoder": False, "fetcher": True, "store": True, "worker": True}
    assert (await served.client.get("/readyz")).status_code == 503


async def test_a_stuck_forward_turns_livez(serve: Serve, runtime: Any) -> None:
    """After the setting's time, and as long as it is stuck."""
    served = await serve(stuck_after_s=0.3)
    assert (await served.client.get("/livez")).status_code == 200
    runtime.gate.clear()
    started = time.monotonic()
    call = asyncio.create_task(
        served.client.post("/encode", json={"role": "query", "inputs": [{"text": "never ends"}]})
    )
    await runtime.busy_with("never ends")
    statuses = [(await served.client.get("/livez")).status_code]
    async with asyncio.timeout(10):
        while statuses[-1] == 200:
            await asyncio.sleep(0.02)
            statuses.append((await served.client.get("/livez")).status_code)
    # On a busy machine the first answer may come late enough to be the last.
    assert time.monotonic() - started >= 0.3
    assert statuses[-1] == 503
    runtime.gate.set()
    assert (await call).status_code == 200
    assert (await served.client.get("/livez")).status_code == 200


async def test_metrics_and_info(served: Any) -> None:
    await served.load(*FLAGS)
    await served.search("red")
    text = (await served.client.get("/metrics")).text
    for line in (
        'ret2_requests_total{method="POST",route="/search",status="200"} 1.0',
        'ret2_encoded_inputs_total{lane="bulk",model="fake",outcome="ok"} 3.0',
        'ret2_queue_cost{lane="search"} 0.0',
        "ret2_pending_documents 0.0",
        "ret2_search_hits_sum 3.0",
    ):
        assert line in text, line
    info = (await served.client.get("/info")).json()
    assert info["models"][0]["name"] == "fake"
    assert info["limits"]["max_documents_per_call"] == 10_000


async def test_pages(served: Any) -> None:
    root = await served.client.get("/")
    assert root.headers["content-type"].startswith("text/html")
    assert "//" not in root.text.replace("<!doctype", "")  # no other host
    assert (await served.client.get("/docs")).status_code == 200


# --- waiting and leaving


async def test_overload_is_429_with_retry_after(serve: Serve, runtime: Any, wait_until: Any) -> None:
    served = await serve(max_search_queue_cost=10)
    await served.load(*FLAGS)
    runtime.gate.clear()
    plug = asyncio.create_task(served.search("plug"))
    await runtime.busy_with("plug")
    waiting = asyncio.create_task(served.search("1234567890"))
    await wait_until(lambda: served.parts.hosts[0].batcher._queue.held("search") == 10)
    for path, body in (
        ("/search", {"collection": "flags", "query": {"text": "red"}}),
        ("/encode", {"role": "query", "inputs": [{"text": "red"}]}),
        ("/v1/embeddings", {"input": "red", "input_type": "query"}),
        ("/search/batch", {"searches": [{"collection": "flags", "query": {"text": "red"}}] * 2}),
    ):
        response = await served.client.post(path, json=body)
        assert response.status_code == 429, path
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["code"] == "overloaded"
    assert (await served.client.get("/livez")).status_code == 200
    runtime.gate.set()
    await asyncio.gather(plug, waiting)
    await served.search("red")


async def test_a_search_that_takes_too_long_is_answered_and_costs_nothing_more(serve: Serve, runtime: Any) -> None:
    served = await serve(request_timeout_s=0.05)
    await served.load(*FLAGS)
    runtime.gate.clear()
    response = await served.client.post("/search", json={"collection": "flags", "query": {"text": "slow"}})
    assert (response.status_code, response.json()["code"]) == (504, "timed_out")
    assert "0.05 s" in response.json()["detail"]
    assert served.parts.hosts[0].batcher._queue.held("search") == 0


async def test_a_caller_who_hangs_up_is_not_encoded(serve: Serve, runtime: Any, wait_until: Any) -> None:
    """The connection closes while the input waits: it is dropped from the queue."""
    served = await serve()
    runtime.gate.clear()
    plug = asyncio.create_task(served.client.post("/encode", json={"role": "query", "inputs": [{"text": "plug"}]}))
    await runtime.busy_with("plug")
    messages = iter(
        [{"type": "http.request", "body": b'{"role": "query", "inputs": [{"text": "gone"}]}', "more_body": False}]
    )
    left = asyncio.Event()

    async def receive() -> Any:
        if (message := next(messages, None)) is not None:
            return message
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(_message: Any) -> None:
        pass

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/encode",
        "raw_path": b"/encode",
        "query_string": b"",
        "root_path": "",
    }
    headers = [(b"content-type", b"application/json")]
    app = served.client._transport.app
    call = asyncio.create_task(
        app({**scope, "headers": headers, "http_version": "1.1", "scheme": "http"}, receive, send)
    )
    await wait_until(lambda: served.parts.hosts[0].batcher._queue.held("search") > 0)
    left.set()
    await call
    runtime.gate.set()
    await plug
    await served.client.post("/encode", json={"role": "query", "inputs": [{"text": "next"}]})
    assert runtime.batches == [["plug"], ["next"]]
