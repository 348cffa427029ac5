"""An S3 that takes connections and answers nothing: searches go on, jobs say what they wait for, and all is completed later."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fault_proxy import Fault, proxy_of
from PIL import Image
from s3_server import S3Server, bucket, s3, s3_process  # noqa: F401 - fixtures

from indexer.domain.jobs import Job, JobState
from model.errors import DependencyUnavailable, TimedOut
from service.client.client import Client

pytestmark = pytest.mark.timeout(300)
IMAGES = 60


def until(condition: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 200 - number, 7)).save(file, "PNG")
    return file.getvalue()


def test_an_s3_that_stalls_and_goes_on(process: Any, tiny_model: Path, s3: S3Server, bucket: str) -> None:  # noqa: F811
    with proxy_of(urlsplit(s3.url).port or 0) as proxy:
        serving = process(
            f"--model={tiny_model}",
            "--threads=1",
            "--index-batch-documents=2",
            "--index-concurrency=1",
            f"--blobs-url=s3://{bucket}/images",
            "--blobs-timeout-s=1",
            environment={
                "AWS_ENDPOINT_URL": proxy.url,
                "AWS_ACCESS_KEY_ID": s3.key,
                "AWS_SECRET_ACCESS_KEY": s3.secret,
            },
        )
        client: Client = serving.start()
        for name in ("words", "pictures"):
            client.create_collection(name)
        client.load("words", [{"id": "flag", "text": "red flag"}])
        documents = [{"id": f"p{number}", "text": "a square", "image": picture(number)} for number in range(IMAGES)]
        jobs = [posted.job.id for posted in client.post_documents("pictures", documents) if posted.job]
        until(lambda: client.collection("pictures").documents > 0, "the first pictures are indexed")
        proxy.set(Fault.SILENT)
        assert client.collection("pictures").documents < IMAGES, "it was over before the stall"

        def waiting() -> list[Job]:
            return [job for job in map(client.job, jobs) if job.state is JobState.WAITING]

        until(lambda: bool(waiting()), "a job waits")
        assert all("image storage" in (job.waiting_on or "") for job in waiting())
        began = time.monotonic()
        for _ in range(10):
            assert client.search("words", text="red flag").hits[0].id == "flag"
        assert time.monotonic() - began < 20
        with Client(serving.url, attempts=1) as impatient, pytest.raises((DependencyUnavailable, TimedOut)):
            list(impatient.post_documents("pictures", [{"id": "late", "image": picture(250)}]))
        (words,) = client.post_documents("words", [{"id": "other", "text": "blue square"}])
        assert words.job is not None
        assert client.wait_job(words.job.id, timeout_s=60).indexed == 1, "documents without pictures pass"
        assert sum(client.job(job).failed for job in jobs) == 0
        proxy.set(Fault.NONE)

        done = [client.wait_job(job, timeout_s=120) for job in jobs]
        assert {job.state for job in done} == {JobState.SUCCEEDED}
        assert client.collection("pictures").documents == IMAGES
        client.load("pictures", [{"id": "late", "image": picture(250)}])
        assert client.document("pictures", "late").image_url is not None
        assert "Traceback" not in serving.log.read_text()
