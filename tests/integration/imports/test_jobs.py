"""Imports over HTTP: what is refused at once, what a job makes of files, and that its counts add up whatever happens to it."""

import asyncio
import base64
import csv
import io
import json
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ledger_steps import replace_operation

from indexer.domain.jobs import JobState
from model.errors import DependencyUnavailable, InvalidInput
from model.types import Input

Make = Callable[..., Any]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "exports"
    folder.mkdir()
    return folder


@pytest.fixture
async def served(serve: Make, files: Path) -> Any:
    served = await serve(import_roots=str(files), index_batch_documents=8)
    await served.client.put("/collections/flags")
    return served


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"id": f"d{number}", "text": f"word{number} flag", "metadata": {"n": number}}
        for number in range(first, first + count)
    ]


def write_jsonl(path: Path, records: list[Any]) -> Path:
    lines = (record if isinstance(record, str) else json.dumps(record) for record in records)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


async def start(served: Any, uri: object, *, key: str | None = None, collection: str = "flags", **body: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    return await served.client.post(
        f"/collections/{collection}/imports", json={"uri": str(uri), **body}, headers=headers
    )


async def finished(served: Any, answer: Any) -> dict[str, Any]:
    assert answer.status_code == 202, answer.text
    job = await served.parts.progress.wait(answer.json()["job"]["id"], 60)
    assert job.state.finished, job
    wire: dict[str, Any] = (await served.client.get(f"/jobs/{job.id}")).json()
    assert job.accepted == job.indexed + job.skipped + job.failed + job.cancelled
    assert job.unread == 0
    return wire


async def failures(served: Any, job: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await served.client.get(f"/jobs/{job['id']}/failures")).json()["failures"]
    assert len(found) == job["failed"]
    return found


def counts(job: dict[str, Any]) -> tuple[int, int, int, int]:
    return job["accepted"], job["indexed"], job["skipped"], job["failed"]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110  what is waited for is another task's doing
            await asyncio.sleep(0.01)


# --- what is refused before there is a job


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"uri": "/etc/passwd", "format": "jsonl"}, 403, "RET2_IMPORT_ROOTS"),
        ({"uri": "s3://bucket/docs.jsonl"}, 403, "RET2_IMPORT_ROOTS"),
        ({"uri": "https://example.org/docs.jsonl"}, 403, "RET2_IMPORT_ROOTS"),
        ({"uri": "{files}/gone.jsonl"}, 404, "not there"),
        ({"uri": "{files}"}, 400, "give format"),
        ({"uri": "{files}/docs.jsonl", "format": "xml"}, 422, "format"),
        ({"uri": "{files}/docs.jsonl", "mapping": {"title": "x"}}, 400, "mapping.title"),
        ({"uri": "{files}/docs.jsonl", "image_root": "/etc"}, 403, "RET2_IMPORT_ROOTS"),
        ({"uri": ""}, 422, "uri"),
        ({"uri": "{files}/docs.jsonl", "colour": "red"}, 422, "colour"),
    ],
)
async def test_what_can_be_seen_at_once_is_refused_at_once(
    served: Any, files: Path, body: dict[str, Any], status: int, words: str
) -> None:
    write_jsonl(files / "docs.jsonl", rows(1))
    body["uri"] = body["uri"].format(files=files)
    answer = await served.client.post("/collections/flags/imports", json=body)
    assert answer.status_code == status, answer.text
    assert words in answer.text
    assert (await served.client.get("/jobs")).json()["jobs"] == []


async def test_by_default_nothing_may_be_imported(serve: Make, files: Path) -> None:
    served = await serve()
    await served.client.put("/collections/flags")
    answer = await start(served, write_jsonl(files / "docs.jsonl", rows(1)))
    assert answer.status_code == 403
    assert "none is set (RET2_IMPORT_ROOTS)" in answer.json()["detail"]


async def test_an_unknown_collection(served: Any, files: Path) -> None:
    answer = await start(served, write_jsonl(files / "docs.jsonl", rows(1)), collection="others")
    assert answer.status_code == 404


# --- what becomes of files


async def test_every_record_is_indexed_or_listed(served: Any, files: Path) -> None:
    good = rows(30)
    write_jsonl(files / "a.jsonl", [*good[:10], "not json", *good[10:], {"id": "x"}, {"id": 7, "text": "seven"}])
    write_jsonl(files / "b.jsonl", [*rows(5, first=30), {"id": "bad", "text": "red", "colour": "red"}])
    job = await finished(served, await start(served, files, format="jsonl"))
    assert (job["kind"], job["state"]) == ("import", "succeeded_with_failures")
    assert counts(job) == (39, 35, 0, 4)
    listed = {one["position"]: (one["file"], one["id"], one["detail"]) for one in await failures(served, job)}
    assert sorted(listed) == [10, 31, 32, 38]
    assert listed[10][:2] == ("a.jsonl", "")
    assert "a.jsonl line 11" in listed[10][2]
    assert listed[31][1] == "x"
    assert listed[38][:2] == ("b.jsonl", "bad")
    (hit,) = (await served.search("word33 flag", limit=1))["hits"]
    assert (hit["id"], hit["metadata"]) == ("d33", {"n": 33})
    progress = job["progress"]
    assert (progress["uri"], progress["format"]) == (str(files), "jsonl")
    assert (progress["planned"], progress["unread"], progress["remaining_s"]) == (True, 0, 0.0)
    assert progress["documents_per_s"] > 0

    again = await finished(served, await start(served, files, format="jsonl"))
    assert counts(again) == (39, 0, 35, 4)


async def test_parquet_and_csv_with_a_mapping(served: Any, files: Path) -> None:
    table = pa.table({"key": [1, 2, 3], "caption": ["one", "two", None], "width": [10, 20, 30]})
    pq.write_table(table, files / "docs.parquet")
    mapping = {"text": "caption", "id": "key", "metadata": ["width"]}
    job = await finished(served, await start(served, files / "docs.parquet", mapping=mapping))
    assert counts(job) == (3, 2, 0, 1)
    assert "docs.parquet row 2" in (await failures(served, job))[0]["detail"]
    document = (await served.client.get("/collections/flags/documents/2")).json()
    assert (document["text"], document["metadata"]) == ("two", {"width": 20})

    with (files / "docs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], ["4", "four"], ["5", "five"]])
    assert counts(await finished(served, await start(served, files / "docs.csv"))) == (2, 2, 0, 0)


async def test_images_in_a_folder_and_in_a_tar(served: Any, files: Path, make_image: Make) -> None:
    (files / "photos").mkdir()
    (files / "photos" / "red.png").write_bytes(make_image("red"))
    write_jsonl(files / "metadata.jsonl", [{"file_name": "red.png", "text": "r"}, {"file_name": "no.png", "text": "n"}])
    job = await finished(served, await start(served, files, format="images", image_root=str(files / "photos")))
    assert counts(job) == (2, 1, 0, 1)
    assert "no.png" in (await failures(served, job))[0]["detail"]
    (hit,) = (await served.search("r", limit=1))["hits"]
    assert (await served.client.get(hit["image_url"])).content == make_image("red")

    with tarfile.open(files / "shard-0.tar", "w") as tar:
        for name, data in (("000.png", make_image("blue")), ("000.txt", b"a blue one")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert counts(await finished(served, await start(served, files / "shard-0.tar"))) == (1, 1, 0, 0)


async def test_a_file_that_cannot_be_read_is_one_failure(served: Any, files: Path) -> None:
    pq.write_table(pa.table({"text": ["one", "two"]}), files / "a.parquet")
    (files / "b.parquet").write_text("not Parquet")
    job = await finished(served, await start(served, files, format="parquet"))
    assert (job["state"], counts(job)) == ("succeeded_with_failures", (3, 2, 0, 1))
    (one,) = await failures(served, job)
    assert (one["position"], one["id"], one["code"]) == (2, "", "invalid_input")
    assert "b.parquet" in one["detail"]

    job = await finished(served, await start(served, files / "b.parquet"))
    assert (job["state"], counts(job)) == ("failed", (1, 0, 0, 1))
    job = await finished(served, await start(served, files / "a.parquet", mapping={"text": "txet"}))
    assert "mapping.text names 'txet'" in (await failures(served, job))[0]["detail"]


async def test_a_file_that_changes_after_it_was_planned(
    served: Any, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(files / "docs.jsonl", rows(3))
    plan = served.parts.imports.plan

    def changed_after(*args: Any, **options: Any) -> Iterator[Any]:
        yield from list(plan(*args, **options))
        write_jsonl(path, rows(5))

    monkeypatch.setattr(served.parts.imports, "plan", changed_after)
    job = await finished(served, await start(served, path))
    assert counts(job) == (3, 0, 0, 3)
    assert all("has changed since this import was planned" in one["detail"] for one in await failures(served, job))


async def test_by_http_through_the_fetcher(serve: Make, files: Path) -> None:
    write_jsonl(files / "docs.jsonl", rows(20))
    handler = partial(SimpleHTTPRequestHandler, directory=str(files))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        try:
            root = f"http://127.0.0.1:{web.server_port}/"
            served = await serve(import_roots=root, fetch_allow_private=True)
            await served.client.put("/collections/flags")
            job = await finished(served, await start(served, f"{root}docs.jsonl?token=secret"))
            assert counts(job) == (20, 20, 0, 0)
            assert "secret" not in json.dumps(job)
            write_jsonl(files / "docs.jsonl", rows(22))
            again = await finished(served, await start(served, f"{root}docs.jsonl?token=secret"))
            assert counts(again) == (22, 2, 20, 0), "what is there now, not a copy of earlier"
            assert (await start(served, f"{root}../secret.jsonl")).status_code == 403
        finally:
            web.shutdown()


# --- keys, cancel, retry


async def test_the_same_key_is_the_same_job(served: Any, files: Path) -> None:
    path = write_jsonl(files / "docs.jsonl", rows(3))
    first = await start(served, path, key="once")
    job = await finished(served, first)
    path.unlink()
    second = await start(served, path, key="once")
    assert second.json()["job"]["id"] == job["id"]
    other = await start(served, files, key="once", format="jsonl")
    assert other.status_code == 409
    assert len((await served.client.get("/jobs")).json()["jobs"]) == 1


async def test_cancel_stops_within_a_batch_and_adds_up(served: Any, files: Path, runtime: Any) -> None:
    served.parts.worker.chores[0].ahead_documents = 100
    write_jsonl(files / "docs.jsonl", rows(5000))
    runtime.gate.clear()
    answer = await start(served, files / "docs.jsonl")
    job_id, ledger = answer.json()["job"]["id"], served.parts.ledger

    async def enough() -> bool:
        job = await ledger.jobs.find(job_id)
        return not job.growing and job.accepted - job.unread >= 200 and bool(runtime.batches)

    await until(enough)
    job = await ledger.jobs.find(job_id)
    assert job.accepted - job.unread <= 208, "what is read and not indexed is bounded"
    await ledger.jobs.cancel(job_id)
    runtime.gate.set()
    wire = await finished(served, answer)
    done = await ledger.jobs.find(job_id)
    assert wire["state"] == "cancelled"
    assert done.cancelled == 5000 - done.indexed
    assert done.indexed <= 8 * 4
    assert counts(await finished(served, await start(served, write_jsonl(files / "few.jsonl", rows(3)))))[0] == 3


async def test_cancel_while_it_is_being_planned(served: Any, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jsonl(files / "docs.jsonl", rows(3))
    plan, reached, go = served.parts.imports.plan, threading.Event(), threading.Event()

    def slow(*args: Any, **options: Any) -> Iterator[Any]:
        reached.set()
        assert go.wait(30)
        yield from plan(*args, **options)

    monkeypatch.setattr(served.parts.imports, "plan", slow)
    answer = await start(served, path)
    await asyncio.to_thread(reached.wait, 30)
    job_id, ledger = answer.json()["job"]["id"], served.parts.ledger
    await ledger.jobs.cancel(job_id)
    go.set()
    assert (await finished(served, answer))["state"] == "cancelled"


async def test_a_retry_reads_again_what_could_not_be_read(
    served: Any, files: Path, runtime: Any, make_image: Make
) -> None:
    records: list[dict[str, Any]] = [*rows(20), {"id": "photo", "text": "a photo", "image": "photo.png"}]
    records += [{"id": "sick", "text": "sick"}, *rows(5, first=20), {"id": "other", "text": "o", "image": "other.png"}]
    path = write_jsonl(files / "docs.jsonl", records)

    def refuse(item: Input) -> None:
        if item.text == "sick":
            raise InvalidInput("a sick text")

    runtime.on_prepare = refuse
    job = await finished(served, await start(served, path))
    assert counts(job) == (28, 25, 0, 3)
    before = {one["position"]: one["file"] for one in await failures(served, job)}
    assert before == {20: "docs.jsonl", 21: "docs.jsonl", 27: "docs.jsonl"}

    (files / "photo.png").write_bytes(make_image("red"))
    runtime.on_prepare = lambda _item: None
    ledger = served.parts.ledger
    retry, new = await ledger.retries.start(job["id"])
    assert new
    served.parts.wakeups.work_arrived()
    done = await served.parts.progress.wait(retry.id, 60)
    assert (done.state, done.accepted, done.indexed, done.failed) == (JobState.SUCCEEDED_WITH_FAILURES, 3, 2, 1)
    wire = (await served.client.get(f"/jobs/{retry.id}")).json()
    (left,) = await failures(served, wire)
    assert (left["position"], left["file"], left["id"]) == (27, "docs.jsonl", "other")
    assert (await served.client.get("/collections/flags/documents/photo/image")).content == make_image("red")
    same, new = await ledger.retries.start(job["id"])
    assert (same.id, new) == (retry.id, False)


# --- what goes wrong on the way


async def test_a_store_that_does_not_answer_is_waited_for(
    served: Any, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(files / "docs.jsonl", rows(30))
    places = served.parts.imports._places
    opens, troubled = places.open, iter([False, False, True, True, True])

    def sometimes(uri: str, stop: Any = None) -> Any:
        if next(troubled, False):
            raise DependencyUnavailable("s3://bucket: SlowDown")
        return opens(uri, stop)

    monkeypatch.setattr(places, "open", sometimes)
    answer = await start(served, path)
    seen: set[str | None] = set()

    async def over() -> bool:
        job = (await served.client.get(f"/jobs/{answer.json()['job']['id']}")).json()
        seen.add(job["waiting_on"])
        return str(job["state"]).startswith("succeeded")

    await until(over)
    assert counts(await finished(served, answer)) == (30, 30, 0, 0)
    assert "s3://bucket: SlowDown" in seen


async def test_what_nobody_foresaw_fails_the_rest_of_its_unit_alone(
    serve: Make, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = await serve(import_roots=str(files), index_max_attempts=2)
    await served.client.put("/collections/flags")
    write_jsonl(files / "a.jsonl", rows(10))
    write_jsonl(files / "b.jsonl", rows(10, first=10))
    read = served.parts.imports.read

    def breaks(unit: Any, *reading: Any) -> Iterator[Any]:
        for position, item in read(unit, *reading):
            if position == 4:
                raise RuntimeError("nobody foresaw this")
            yield position, item

    monkeypatch.setattr(served.parts.imports, "read", breaks)
    job = await finished(served, await start(served, files, format="jsonl"))
    listed = await failures(served, job)
    assert counts(job) == (20, 20 - len(listed), 0, len(listed))
    assert {one["file"] for one in listed} == {"a.jsonl"}
    assert {one["code"] for one in listed} == {"internal"}


@pytest.mark.parametrize("error", [RuntimeError("nobody foresaw this"), InvalidInput("the database cannot hold it")])
async def test_a_record_that_cannot_be_stored_fails_alone(
    serve: Make, files: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    served = await serve(import_roots=str(files), index_max_attempts=2)
    await served.client.put("/collections/flags")
    add = served.parts.ledger.imports.add_records.blocking

    def refuses(step: Any, documents: Any, *rest: Any) -> Any:
        if any(document.id == "d4" for _, document in documents):
            raise error
        return add(step, documents, *rest)

    replace_operation(monkeypatch, served.parts.ledger.imports, "add_records", refuses)
    job = await finished(served, await start(served, write_jsonl(files / "a.jsonl", rows(10))))
    assert counts(job) == (10, 9, 0, 1)
    (listed,) = await failures(served, job)
    assert (listed["position"], listed["id"], listed["code"]) == (4, "d4", getattr(error, "code", "internal"))


async def test_of_one_id_the_last_record_stands(served: Any, files: Path) -> None:
    records = [{"id": f"d{number % 7}", "text": f"version {number}"} for number in range(200)]
    job = await finished(served, await start(served, write_jsonl(files / "docs.jsonl", records)))
    assert job["accepted"] == 200
    for number in range(193, 200):
        document = (await served.client.get(f"/collections/flags/documents/d{number % 7}")).json()
        assert document["text"] == f"version {number}"


async def test_images_as_base64(served: Any, files: Path, make_image: Make) -> None:
    image = {"base64": base64.b64encode(make_image("red")).decode()}
    path = write_jsonl(files / "docs.jsonl", [{"id": "a", "image": image}, {"id": "b", "image": {"base64": "%%%"}}])
    assert counts(await finished(served, await start(served, path))) == (2, 1, 0, 1)


async def test_what_documents_have_not_is_counted_with_the_job(served: Any, files: Path) -> None:
    table = pa.table(
        {
            "id": ["a", "b"],
            "text": ["x", "y"],
            "mask": [b"\x89PNG", None],
            "far": pa.array([2**40, None], "timestamp[s]"),
        }
    )
    pq.write_table(table, files / "docs.parquet")
    job = await finished(served, await start(served, files / "docs.parquet"))
    assert counts(job) == (2, 2, 0, 0)
    assert job["progress"]["left_out"] == {
        "field 'mask': bytes that are not the image of the document": 1,
        "field 'far': a date or time outside the years 1 to 9999": 1,
    }
