"""Blobs on a real S3 server."""

import asyncio
import hashlib
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

import pytest
from s3_server import SECRET, S3Server

from indexer.blobs.image_store import Blobs, BlobSettings
from model.errors import DependencyUnavailable, NotFound


@pytest.fixture
def blobs(s3: S3Server, bucket: str) -> Iterator[Blobs]:
    with closing(Blobs(f"s3://{bucket}/images", options=s3.options)) as opened:
        yield opened


async def test_what_is_put_can_be_got_and_is_put_once(blobs: Blobs, s3: S3Server, bucket: str) -> None:
    for data in (b"one", b"", bytes(range(256)) * 1000):
        digest = await blobs.put(data)
        assert digest == hashlib.sha256(data).hexdigest()
        assert await blobs.get(digest) == data
    files, path = s3.files(), f"{bucket}/images/{digest[:2]}/{digest[2:4]}/{digest}"
    before = files.info(path)["LastModified"]
    await asyncio.sleep(1.1)  # S3 counts whole seconds
    assert await blobs.put(data) == digest
    assert files.info(path)["LastModified"] == before
    with pytest.raises(NotFound, match="there is no image ffff"):
        await blobs.get("f" * 64)


async def test_another_process_s_blob_and_its_deletion_are_seen_at_once(
    blobs: Blobs, s3: S3Server, bucket: str
) -> None:
    digest = hashlib.sha256(b"theirs").hexdigest()
    with pytest.raises(NotFound):
        await blobs.get(digest)
    with closing(Blobs(f"s3://{bucket}/images", options=s3.options)) as other:
        await other.put(b"theirs")
        assert await blobs.get(digest) == b"theirs"
        s3.files().rm_file(f"{bucket}/images/{digest[:2]}/{digest[2:4]}/{digest}")
        await blobs.put(b"theirs")
        assert await other.get(digest) == b"theirs"


async def test_pages_and_sweep(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [page async for page in blobs.pages()] == []
    digests = await asyncio.gather(*(blobs.put(b"%d" % number) for number in range(30)))
    listed = [page async for page in blobs.pages(4)]
    assert max(map(len, listed)) <= 4
    assert [blob.digest for page in listed for blob in page] == sorted(digests)
    assert (await blobs.sweep([])).deleted == 0  # all are young
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 25 * 3600)
    monkeypatch.setattr(blobs, "_made_at_s", real() + 25 * 3600)
    swept = await blobs.sweep(digests[:5])
    assert (swept.kept, swept.deleted) == (5, 25)
    assert {blob.digest for page in [page async for page in blobs.pages()] for blob in page} == set(digests[:5])


async def test_a_put_at_the_moment_of_the_deletion_wins(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    digest, stray = await blobs.put(b"data"), await blobs.put(b"stray")
    real, remove = time.time, blobs._files.rm_file

    def put_and_remove(path: str) -> None:
        if digest in path:
            blobs._put(digest, b"data")
        remove(path)

    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + 25 * 3600)
        patch.setattr(blobs, "_made_at_s", real() + 25 * 3600)
        patch.setattr(blobs._files, "rm_file", put_and_remove)
        assert (await blobs.sweep([])).deleted == 2
    assert [page async for page in blobs.pages()] == []
    monkeypatch.setattr(time, "time", lambda: real() + 50 * 3600)
    monkeypatch.setattr(blobs, "_made_at_s", real() + 50 * 3600)
    await blobs.sweep([digest])
    assert await blobs.get(digest) == b"data"
    with pytest.raises(NotFound):
        await blobs.get(stray)


async def test_a_put_of_an_old_blob_makes_it_young(
    blobs: Blobs, s3: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = await blobs.put(b"data")
    files, path = s3.files(), f"{bucket}/images/{digest[:2]}/{digest[2:4]}/{digest}"
    before = files.info(path)["LastModified"]
    await asyncio.sleep(1.1)  # S3 counts whole seconds
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 13 * 3600)
    await blobs.put(b"data")
    assert files.info(path)["LastModified"] > before


async def test_a_put_never_shows_half_of_itself(blobs: Blobs) -> None:
    """A reader asks all the while."""
    data = b"x" * 8_000_000
    digest = hashlib.sha256(data).hexdigest()
    seen: list[int] = []

    async def read() -> None:
        while not seen:
            try:
                seen.append(len(await blobs.get(digest)))
            except NotFound:
                await asyncio.sleep(0)

    await asyncio.gather(blobs.put(data), read())
    assert seen == [len(data)]


@pytest.mark.parametrize("wrong", ["keys", "bucket", "port"])
async def test_a_storage_that_cannot_be_used_is_unavailable_and_no_secret_is_told(
    s3: S3Server, bucket: str, wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "indexer")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        options: dict[str, Any] = dict(s3.options)
        if wrong == "keys":
            options["secret"] = "not-the-secret-of-this-server"
        if wrong == "port":
            options["endpoint_url"] = f"http://127.0.0.1:{free.getsockname()[1]}"
        name = "no-such-bucket" if wrong == "bucket" else bucket
        with closing(Blobs(f"s3://{name}/images", options=options)) as blobs:
            calls = [partial(blobs.get, "0" * 64), partial(blobs.put, b"data")]
            for call in calls[:1] if wrong == "bucket" else calls:  # this server makes the bucket of a put
                with pytest.raises(DependencyUnavailable) as raised:
                    await call()
                error: BaseException | None = raised.value
                while error is not None:
                    assert SECRET not in str(error)
                    assert "not-the-secret" not in str(error)
                    error = error.__cause__
    assert "secret" not in caplog.text


async def test_a_server_that_does_not_answer_is_unavailable_in_time(s3: S3Server) -> None:
    """It accepts the connection and says nothing; the event loop goes on meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        options = {**s3.options, "endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        with closing(Blobs(BlobSettings("s3://bucket/images", timeout_s=1.0), options=options)) as blobs:
            with pytest.raises(DependencyUnavailable):
                await blobs.get("0" * 64)  # loads botocore's models, some seconds of pure Python
            turns = 0

            async def turn() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0.01)

            turning = asyncio.ensure_future(turn())
            began_s = time.monotonic()
            with pytest.raises(DependencyUnavailable, match="s3://bucket"):
                await blobs.put(b"data")
            assert time.monotonic() - began_s < 5
            assert turns > 10
            turning.cancel()
