"""Images that nothing refers to are collected, and none other, whatever is posted meanwhile."""

import asyncio
import base64
import hashlib
import io
import os
import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from s3_server import KEY, SECRET, S3Server

from indexer.ledger.ledger import Ledger
from indexer.worker.image_sweeper import Sweeper
from model.errors import DependencyUnavailable, NotFound

Make = Callable[..., Any]


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (number % 256, number // 256 % 256, 7)).save(file, "PNG")
    return file.getvalue()


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def with_image(document_id: str, data: bytes, **fields: Any) -> dict[str, Any]:
    return {"id": document_id, "image": {"base64": base64.b64encode(data).decode()}, **fields}


class Kept:
    """The images of a service in a folder."""

    def __init__(self, served: Any, folder: Path) -> None:
        self.served, self.folder = served, folder
        parts = served.parts
        self.sweeper = Sweeper(parts.ledger, parts.store, parts.blobs, 3600.0)

    def files(self) -> dict[str, Path]:
        return {path.name: path for path in self.folder.rglob("*") if path.is_file()}

    def age(self) -> None:
        """Everything is two days old."""
        then = time.time() - 48 * 3600
        for path in self.files().values():
            os.utime(path, (then, then))

    async def sweep(self) -> int:
        return (await self.sweeper.sweep()).deleted


@pytest.fixture
def kept(served: Any, tmp_path: Path) -> Kept:
    return Kept(served, tmp_path / "blobs")


async def test_what_nothing_refers_to_goes(kept: Kept) -> None:
    served = kept.served
    await served.load(*(with_image(str(number), picture(number)) for number in range(6)))
    await served.load(with_image("also 5", picture(5)), collection="others")
    deleting = {"ids": ["0", "1", "5"]}
    await served.client.post("/collections/flags/documents/delete", params={"wait": True}, json=deleting)
    assert await kept.sweep() == 0, "all are young"
    kept.age()
    assert await kept.sweep() == 2
    assert set(kept.files()) == {digest_of(picture(number)) for number in (2, 3, 4, 5)}
    assert (await served.client.get("/collections/others/documents/also 5/image")).content == picture(5)
    await served.client.delete("/collections/others")
    kept.age()
    assert await kept.sweep() == 1


async def test_what_waits_and_what_may_be_retried_stays(kept: Kept, runtime: Any) -> None:
    served = kept.served
    broken = picture(1)[:-30]
    job = (await served.load(with_image("broken", broken)))["job"]
    assert job["failed"] == 1
    runtime.gate.clear()
    posted = await served.client.post("/collections/flags/documents", json=[with_image("waits", picture(2))])
    stray = await served.parts.blobs.put(picture(3))
    kept.age()
    assert await kept.sweep() == 1
    assert set(kept.files()) == {digest_of(broken), digest_of(picture(2))}
    assert stray not in kept.files()
    runtime.gate.set()
    done = await served.parts.progress.wait(posted.json()["job"]["id"], 30)
    assert done.indexed == 1

    await served.load(with_image("broken", picture(4)))
    kept.age()
    assert await kept.sweep() == 1, "a later write of the document: its failure is not retried any more"
    assert set(kept.files()) == {digest_of(picture(2)), digest_of(picture(4))}


async def test_a_job_that_is_still_being_posted_keeps_its_images(kept: Kept) -> None:
    served = kept.served
    await served.client.put("/collections/flags")
    posted = asyncio.Event()

    async def body() -> Any:
        line = with_image("a", picture(1))
        for number in range(64):  # a whole batch, which is written
            yield (str({**line, "id": str(number)}).replace("'", '"') + "\n").encode()
        await posted.wait()

    headers = {"content-type": "application/x-ndjson"}
    posting = asyncio.create_task(served.client.post("/collections/flags/documents", content=body(), headers=headers))
    async with asyncio.timeout(30):
        while not (await served.parts.ledger.housekeeping.images_waiting(0, 10))[0]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    kept.age()
    assert await kept.sweep() == 0
    posted.set()
    answer = await posting
    assert (await served.parts.progress.wait(answer.json()["job"]["id"], 30)).indexed == 64


async def test_of_an_image_that_became_a_thumbnail_the_original_goes(serve: Make, tmp_path: Path) -> None:
    served = await serve(keep_images="thumbnail", thumbnail_px=16)
    file = io.BytesIO()
    Image.effect_noise((200, 200), 60).save(file, "PNG")
    await served.load(with_image("a", file.getvalue()))
    kept = Kept(served, tmp_path / "blobs")
    kept.age()
    assert await kept.sweep() == 1
    assert digest_of(file.getvalue()) not in kept.files()
    answer = await served.client.get("/collections/flags/documents/a/image")
    assert Image.open(io.BytesIO(answer.content)).size == (16, 16)


async def test_posting_and_deleting_while_it_sweeps(kept: Kept) -> None:
    """Rounds of posts, of old images and new ones, and deletions, each beside sweeps; all is old as each begins."""
    served, rng = kept.served, random.Random(7)
    await served.client.put("/collections/flags")
    wanted: dict[str, bytes] = {}

    async def post(names: list[str]) -> None:
        documents = []
        for name in names:
            wanted[name] = picture(rng.randrange(12))  # few, so that many documents share one, and old ones come back
            documents.append(with_image(name, wanted[name], text=f"round {name}"))
        await served.client.post("/collections/flags/documents", params={"wait": True}, json=documents)

    async def delete(names: list[str]) -> None:
        for name in names:
            wanted.pop(name, None)
        body = {"ids": names}
        await served.client.post("/collections/flags/documents/delete", params={"wait": True}, json=body)

    for _ in range(6):
        kept.age()
        names = [str(number) for number in range(20)]
        rng.shuffle(names)
        works = [post(names[start : start + 4]) for start in (0, 4, 8)] + [delete(names[12:16])]
        works += [asyncio.sleep(0.01), kept.sweep(), kept.sweep()]  # type: ignore[list-item]
        await asyncio.gather(*works)
        for name, data in wanted.items():
            answer = await served.client.get(f"/collections/flags/documents/{name}/image")
            assert (answer.status_code, answer.content) == (200, data), name
    kept.age()
    await kept.sweep()
    assert set(kept.files()) == {digest_of(data) for data in wanted.values()}


async def test_where_not_every_reference_can_be_seen_nothing_goes(kept: Kept) -> None:
    served = kept.served
    await served.load(with_image("a", picture(1)))
    await served.load(with_image("b", picture(2)), collection="others")
    await served.parts.store.drop("others")  # its files are not there, somebody has to bring them back
    kept.age()
    with pytest.raises(NotFound):
        await kept.sweep()
    assert len(kept.files()) == 2


async def test_no_room_for_marks(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    await kept.served.load(with_image("a", picture(1)))
    kept.age()

    def full(*_: object, **__: object) -> Any:
        raise sqlite3.OperationalError("disk is full")

    monkeypatch.setattr("indexer.worker.image_sweeper.sqlite3.connect", full)
    with pytest.raises(DependencyUnavailable, match="temporary files: OperationalError"):
        await kept.sweep()
    assert len(kept.files()) == 1


async def test_it_is_done_now_and_then_by_one_of_all(kept: Kept, tmp_path: Path) -> None:
    parts = kept.served.parts
    await parts.blobs.put(picture(1))
    kept.age()
    chore = Sweeper(parts.ledger, parts.store, parts.blobs, 0.05)
    running = asyncio.create_task(chore.run())
    try:
        async with asyncio.timeout(30):
            while kept.files():  # noqa: ASYNC110  what is waited for is another task's doing
                await asyncio.sleep(0.02)
    finally:
        running.cancel()
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'other.sqlite'}")
    other = Ledger.open(f"sqlite:///{tmp_path / 'other.sqlite'}")
    try:
        assert not ledger.housekeeping.take_turn.blocking("sweep", 0.0), "nothing is there yet to be swept"
        assert [
            ledger.housekeeping.take_turn.blocking("sweep", 3600),
            other.housekeeping.take_turn.blocking("sweep", 3600),
        ] == [False, False]
        assert [
            ledger.housekeeping.take_turn.blocking("sweep", 0.0),
            other.housekeeping.take_turn.blocking("sweep", 3600),
        ] == [True, False]
    finally:
        ledger.close()
        other.close()


async def test_on_s3(serve: Make, s3: S3Server, bucket: str, runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("ENDPOINT_URL", s3.url), ("ACCESS_KEY_ID", KEY), ("SECRET_ACCESS_KEY", SECRET)):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    served = await serve(blobs_url=f"s3://{bucket}/images")
    parts = served.parts
    await served.load(*(with_image(str(number), picture(number)) for number in range(4)))
    await served.client.post("/collections/flags/documents/delete", params={"wait": True}, json={"ids": ["0"]})
    runtime.gate.clear()
    posted = await served.client.post("/collections/flags/documents", json=[with_image("waits", picture(9))])
    sweeper = Sweeper(parts.ledger, parts.store, parts.blobs, 3600.0)
    assert (await sweeper.sweep()).deleted == 0
    real = time.time
    with monkeypatch.context() as later:
        later.setattr(time, "time", lambda: real() + 25 * 3600)
        later.setattr(parts.blobs, "_made_at_s", real() + 25 * 3600)
        assert (await sweeper.sweep()).deleted == 1
    left = {path.rpartition("/")[2] for path in s3.files().find(f"{bucket}/images") if "/aside/" not in path}
    assert left == {digest_of(picture(number)) for number in (1, 2, 3, 9)}
    runtime.gate.set()
    assert (await parts.progress.wait(posted.json()["job"]["id"], 60)).indexed == 1
