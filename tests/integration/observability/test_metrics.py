"""What /metrics says after real work, its bounds on labels, and the `Server-Timing` of answers."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ledger_steps import replace_operation

from model import codec
from model.errors import DependencyUnavailable
from model.types import Input, Role

Serve = Callable[..., Awaitable[Any]]


async def scraped(served: Any) -> dict[str, float]:
    """Each sample by its line up to the value."""
    response = await served.client.get("/metrics")
    assert response.status_code == 200
    lines = (line for line in response.text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


async def test_after_searches_and_documents(served: Any) -> None:
    await served.load({"id": "a", "text": "red"}, {"id": "b", "text": "blue"}, {"id": "", "text": "none"})
    await served.load({"id": "a", "text": "red"})
    await served.client.delete("/collections/flags/documents/a", params={"wait": True})
    await served.search("red")
    found = await scraped(served)
    assert found['ret2_documents_total{result="indexed"}'] == 2
    assert found['ret2_documents_total{result="skipped"}'] == 1
    assert found['ret2_documents_total{result="deleted"}'] == 1
    assert found['ret2_rejected_documents_total{code="invalid_input"}'] == 1
    assert found['ret2_jobs{state="succeeded"}'] == 3
    assert found['ret2_jobs{state="failed"}'] == 0
    assert found["ret2_pending_documents"] == found["ret2_oldest_pending_seconds"] == 0
    assert found['ret2_model_info{dimensions="64",fingerprint="fake-fingerprint",name="fake",state="ready"}'] == 1
    for lane in ("search", "bulk"):
        assert found[f'ret2_queue_wait_seconds_count{{lane="{lane}"}}'] >= 1
        for name in ("ret2_batch_fill_ratio", "ret2_forward_seconds", "ret2_batch_cost"):
            assert found[f'{name}_count{{lane="{lane}",model="fake"}}'] >= 1
    for operation in ("create", "upsert", "fetch", "search", "delete"):
        assert found[f'ret2_store_seconds_count{{operation="{operation}"}}'] >= 1, operation
    assert found["ret2_ledger_seconds_count"] > 5
    assert found["ret2_ledger_errors_total"] == 0
    assert found['ret2_requests_total{method="POST",route="/search",status="200"}'] == 1


async def test_waiting_documents_have_an_age(served: Any, runtime: Any) -> None:
    await served.client.put("/collections/flags")
    runtime.gate.clear()
    await served.client.post("/collections/flags/documents", json=[{"id": "a", "text": "red"}])
    await runtime.busy_with("red")
    found = await scraped(served)
    assert found["ret2_pending_documents"] == 1
    assert found["ret2_oldest_pending_seconds"] > 0
    assert found['ret2_jobs{state="queued"}'] + found['ret2_jobs{state="running"}'] == 1
    runtime.gate.set()


async def test_what_does_not_answer_is_counted_and_hides_nothing(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of the ledger itself: /metrics answers while its database does not."""
    await served.load({"id": "a", "text": "red"})

    def away(*_: Any, **__: Any) -> None:
        raise DependencyUnavailable("away")

    async def no_search(*_: Any, **__: Any) -> None:
        away()

    with monkeypatch.context() as broken:
        broken.setattr(served.parts.store, "_call", no_search)
        response = await served.client.post("/search", json={"collection": "flags", "query": {"text": "red"}})
        assert response.status_code == 503
    with monkeypatch.context() as broken:
        replace_operation(broken, served.parts.ledger.jobs, "overview", away)
        found = await scraped(served)
    assert found['ret2_store_errors_total{operation="search"}'] == 1
    assert found["ret2_ledger_errors_total"] >= 1


async def test_a_batch_that_waits_is_a_retry(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    await served.client.put("/collections/flags")
    points = type(served.parts.store.points("flags"))
    upsert, tries = points.upsert, 0

    async def once(self: Any, *arguments: Any) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise DependencyUnavailable("away")
        await upsert(self, *arguments)

    monkeypatch.setattr(points, "upsert", once)
    await served.load({"id": "a", "text": "red"})
    assert (await scraped(served))['ret2_batch_retries_total{cause="waiting"}'] == 1


async def test_labels_are_bounded(served: Any) -> None:
    """Whatever callers think of."""
    for number in range(20):
        await served.client.request(f"VERB{number}", "/search")
        await served.client.get(f"/nowhere/{number}")
        await served.client.get(f"/collections/name-{number}/documents/{number}")
        await served.client.get(f"/jobs/{number}")
    found = [name for name in await scraped(served) if name.startswith("ret2_requests_total")]
    labels = {name: set(re.findall(rf'{name}="([^"]*)"', " ".join(found))) for name in ("route", "method")}
    assert labels["route"] == {
        "other", "/jobs/{id}", "/collections/{name}/documents/{id}", *({"/search"} & labels["route"]),
    }  # fmt: skip
    assert labels["method"] == {"GET", "other"}


# --- Server-Timing


def stages(response: Any) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"(\w+);dur=([\d.]+)", response.headers["server-timing"])}


async def test_answers_say_where_their_time_went(served: Any, runtime: Any) -> None:
    await served.load({"id": "a", "text": "red"})
    search = {"collection": "flags", "query": {"text": "red"}}
    one = await served.client.post("/search", json=search)
    assert set(stages(one)) == {"decode", "queue", "encode", "store", "total"}
    assert stages(one)["encode"] == pytest.approx(one.json()["timings"]["encode_ms"])
    assert stages(one)["total"] >= one.json()["timings"]["total_ms"]
    many = await served.client.post("/search/batch", json={"searches": [search, {}]})
    assert set(stages(many)) == {"decode", "queue", "encode", "store", "total"}
    body = {"role": "query", "inputs": [{"text": "red"}, {"text": " "}]}
    packed = codec.pack_call([Input("red")], Role.QUERY, "search")
    for answer in (
        await served.client.post("/encode", json=body),
        await served.client.post("/encode", content=packed, headers={"content-type": codec.MEDIA_TYPE}),
        await served.client.post("/v1/embeddings", json={"input": "red"}),
    ):
        assert answer.status_code == 200
        assert set(stages(answer)) == {"decode", "queue", "encode", "total"}
    assert "server-timing" not in (await served.client.get("/collections")).headers
    runtime.gate.clear()
    held = asyncio.ensure_future(served.client.post("/encode", json={**body, "inputs": [{"text": "slow"}]}))
    await runtime.busy_with("slow")
    await asyncio.sleep(0.02)
    runtime.gate.set()
    assert stages(await held)["encode"] >= 20
