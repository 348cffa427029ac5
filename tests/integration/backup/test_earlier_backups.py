"""Backups that earlier releases made: today's code restores each into an empty installation, searches there find what they found then,
and what had been accepted is done.

tests/golden/backup-VERSION…/ is `ret2 backup` of a few documents, with what was asked and answered in `answers.json`. Never change one.
MAKE_BACKUP=1 pytest tests/integration/backup/test_earlier_backups.py makes those of this release, where there are none yet.
"""

import base64
import io
import json
import os
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from qdrant_server import qdrant  # noqa: F401 - a fixture

from indexer.backup.backup import Installation, back_up, restore
from indexer.store.edge import snapshot
from service.settings import Settings
from service.wiring import stored

Serve = Callable[..., Awaitable[Any]]
GOLDEN = Path(__file__).parents[2] / "golden"
BACKUPS = sorted(path.name for path in GOLDEN.glob("backup-*"))
ANSWERS = "answers.json"


@pytest.mark.parametrize(
    ("name", "into"),
    [
        *((name, "an embedded index") for name in BACKUPS),
        *((name, "a server") for name in BACKUPS if name.endswith("portable")),
    ],
)
async def test_what_it_answered_it_still_answers(
    name: str, into: str, serve: Serve, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings: dict[str, Any] = {}
    if into == "a server":
        server = request.getfixturevalue("qdrant")
        settings = {"qdrant_url": server.url, "qdrant_api_key": server.api_key, "qdrant_prefer_grpc": False}
    folder = GOLDEN / name
    installation = stored(Settings(data_dir=tmp_path, **settings))
    await restore(folder, installation)
    await installation.store.close()
    installation.blobs.close()
    installation.ledger.close()

    served = await serve(**settings)
    then = json.loads((folder / ANSWERS).read_text())
    await finished(served.client, then["unfinished"])
    now = await answers(served.client, [each["ask"] for each in then["searches"]])
    for one, other in zip(now.pop("searches"), then.pop("searches"), strict=True):
        assert [hit["id"] for hit in one["hits"]] == [hit["id"] for hit in other["hits"]], other["ask"]
        assert [hit["score"] for hit in one["hits"]] == pytest.approx([hit["score"] for hit in other["hits"]], abs=1e-4)
    del then["unfinished"]
    assert now == then


@pytest.mark.parametrize("kind", ["", "-portable"])
async def test_this_release_has_its_own(kind: str, serve: Serve, runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = GOLDEN / f"backup-{version('ret2')}{kind}"
    monkeypatch.setattr(snapshot, "LEVEL", 9)  # a quarter of the size, in a repository for good
    if os.environ.get("MAKE_BACKUP") == "1" and not folder.exists():
        await make(folder, await serve(), runtime, portable=bool(kind))
    assert (folder / ANSWERS).exists(), "MAKE_BACKUP=1 pytest tests/integration/backup/test_earlier_backups.py"


async def answers(client: httpx.AsyncClient, asked: list[dict[str, Any]]) -> dict[str, Any]:
    """What it is asked and answers, but for times and addresses."""
    searches = []
    for ask in asked:
        answer = (await client.post("/search", json=ask)).raise_for_status().json()
        searches.append({"ask": ask, "hits": [{"id": hit["id"], "score": hit["score"]} for hit in answer["hits"]]})
    collection = (await client.get("/collections/flags")).json()
    document = (await client.get("/collections/flags/documents/both")).json()
    image = (await client.get("/collections/flags/documents/both/image")).content
    jobs = (await client.get("/jobs")).json()["jobs"]
    failures = (await client.get(f"/jobs/{jobs[-1]['id']}/failures")).json()["failures"]
    return {
        "searches": searches,
        "collection": {
            name: collection[name] for name in ("name", "documents", "instruction", "indexes", "limit", "language")
        },
        "aliases": (await client.get("/aliases")).json()["aliases"],
        "document": {name: document[name] for name in ("id", "text", "metadata")},
        "image": base64.b64encode(image).decode(),
        "jobs": [{name: job[name] for name in ("id", "state", "accepted", "indexed", "failed")} for job in jobs],
        "failures": [{name: one[name] for name in ("id", "code")} for one in failures],
    }


async def finished(client: httpx.AsyncClient, job: str) -> None:
    async with client.stream("GET", f"/jobs/{job}/events") as events:
        async for _ in events.aiter_lines():
            pass


async def make(folder: Path, served: Any, runtime: Any, *, portable: bool) -> None:
    client = served.client
    picture = {"base64": base64.b64encode(png()).decode()}
    fields = {"n": "number", "color": "keyword"}
    made = {"instruction": "find", "indexes": fields, "limit": 5, "language": "english"}
    (await client.put("/collections/flags", json=made)).raise_for_status()
    (await client.put("/aliases/banners", json={"collection": "flags"})).raise_for_status()
    texts = ("a red flag", "two blue squares", "the capital of this country", "flags waving", "one green square")
    documents = [
        {"id": f"t{n}", "text": text, "metadata": {"n": n, "color": text.split()[1]}} for n, text in enumerate(texts)
    ]
    documents += [
        {"id": "image", "image": picture, "metadata": {"n": 10}},
        {"id": "both", "text": "the flag of a country", "image": picture, "metadata": {"n": 11, "é": [True, None, {"deep": 1.5}]}},
        {"id": "fails", "image": {"url": "http://127.0.0.1/none.png"}},
    ]  # fmt: skip
    posted = await client.post("/collections/flags/documents", params={"wait": True}, json=documents)
    assert posted.raise_for_status().json()["job"]["indexed"] == 7
    runtime.gate.clear()
    late = [{"id": "late", "text": "a flag that came late", "metadata": {"n": 12}}]
    left = (await client.post("/collections/flags/documents", json=late)).json()["job"]["id"]
    await runtime.busy_with(late[0]["text"])
    installation = Installation(served.parts.ledger, served.parts.store, served.parts.blobs)
    await back_up(installation, folder, version=version("ret2"), portable=portable)
    runtime.gate.set()
    await finished(client, left)
    asked: list[dict[str, Any]] = [
        {"collection": "flags", "query": {"text": "red flag"}},
        {"collection": "banners", "query": {"text": "a flag that came late"}, "limit": 3},
        {"collection": "flags", "query": {"image": picture}, "limit": 2},
        {"collection": "flags", "query": {"text": "flag", "image": picture}, "filter": {"field": "n", "gte": 3}},
        {"collection": "flags", "query": {"text": "wave a flag"}, "mode": "lexical"},
        {"collection": "flags", "query": {"text": "blue square"}, "mode": "hybrid"},
        {"collection": "flags", "query": {"text": "square"}, "filter": {"field": "color", "equals": "green"}},
    ]
    written = json.dumps({"unfinished": left, **await answers(client, asked)}, indent=1, ensure_ascii=False)
    (folder / ANSWERS).write_text(written + "\n")


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "PNG")
    return file.getvalue()
