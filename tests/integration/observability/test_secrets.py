"""No secret is ever printed: real processes and servers at DEBUG, what goes well and what goes wrong, and every byte is searched."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
import qdrant_server
import s3_server
from local_http import serving
from needs import needed
from s3_server import S3Server

from service.keys import Key, KeyScope, line_of
from service.settings import Settings

KEY = "ret2_of-an-application-0123456789"
ENCODER_KEY = "ret2_of-the-encoder-0123456789"
QDRANT_KEY = "of-the-vector-store-0123456789"
COLLECTOR_KEY = "of-the-collector-of-traces-0123456789"
HUB_TOKEN = "hf_of-a-private-model-0123456789"
URL_PASSWORD = "pass-in-a-url-0123456789"
WRONG_KEY = "ret2_a-wrong-one-0123456789"
TEXT = "content-of-a-document-0123456789"

_START_S = 90.0


class Process:
    def __init__(self, log: Path, flags: list[str], environment: dict[str, str]) -> None:
        self.log = log
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        command = [
            sys.executable,
            "-m",
            "service",
            "serve",
            "--log-level=debug",
            f"--port={self.url.rpartition(':')[2]}",
        ]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RET2_")}
        with log.open("wb") as file:
            self.child = subprocess.Popen(
                [*command, *flags], stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=inherited | environment,
            )  # fmt: skip

    def wait(self) -> None:
        deadline = time.monotonic() + _START_S
        with httpx.Client(trust_env=False, timeout=10) as client:
            while time.monotonic() < deadline:
                assert self.child.poll() is None, self.log.read_text()
                try:
                    if client.get(f"{self.url}/readyz").status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.1)
        raise AssertionError(f"not ready: {self.log.read_text()}")

    def end(self) -> str:
        """What it printed."""
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(30)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        return self.log.read_text()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def go(name: str, *flags: str, **environment: str) -> Process:
        started.append(Process(tmp_path / f"{name}.log", list(flags), environment))
        return started[-1]

    yield go
    for process in started:
        process.end()


class _Refuses(BaseHTTPRequestHandler):
    """Whoever comes, with whatever key."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._refuse
        raise AttributeError(name)

    def _refuse(self) -> None:
        self.server.keys.append(self.headers.get("authorization"))  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(401)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def refusing() -> Iterator[Any]:
    """A server that wants another key than it is sent."""
    with serving(_Refuses) as server:
        server.keys, server.url = [], f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
        yield server


def password_in(url: str) -> str:
    return url.partition("//")[2].partition("@")[0].partition(":")[2]


def test_these_are_the_settings_that_are_secrets() -> None:
    """A new one is given to the processes below as well."""
    secrets = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    assert secrets == {"database_url", "encoder_api_key", "qdrant_api_key"}


@pytest.mark.timeout(300)  # two starts with torch, on a machine that may be busy
def test_processes_print_no_secret(
    start: Callable[..., Process],
    tmp_path: Path,
    postgres_url: str,
    refusing: Any,
) -> None:
    needed("torch")
    from tiny_model import write_tiny_checkpoint

    every = frozenset(KeyScope)
    (tmp_path / "encoder-keys").write_text(line_of(ENCODER_KEY, Key("api", every)) + "\n")
    (tmp_path / "api-keys").write_text(line_of(KEY, Key("app", every)) + "\n")
    encoder = start(
        "encoder", "--role=encoder", f"--model={write_tiny_checkpoint(tmp_path / 'model')}",
        RET2_API_KEYS_FILE=str(tmp_path / "encoder-keys"),
    )  # fmt: skip
    address = encoder.url.replace("//", f"//user:{URL_PASSWORD}@")
    answers: list[httpx.Response] = []
    with ExitStack() as stack:
        qdrant = stack.enter_context(ExitStack())  # closed before the end
        qdrant_url = qdrant.enter_context(qdrant_server.serving(QDRANT_KEY, tmp_path)).url
        api = start(
            "api", f"--encoder-url={address}", f"--data-dir={tmp_path / 'data'}",
            RET2_API_KEYS_FILE=str(tmp_path / "api-keys"), RET2_ENCODER_API_KEY=ENCODER_KEY,
            RET2_QDRANT_URL=qdrant_url, RET2_QDRANT_API_KEY=QDRANT_KEY, RET2_QDRANT_PREFER_GRPC="false",
            RET2_DATABASE_URL=postgres_url,
            AWS_ACCESS_KEY_ID="AKIAEXAMPLE", AWS_SECRET_ACCESS_KEY=s3_server.SECRET, HF_TOKEN=HUB_TOKEN,
            OTEL_EXPORTER_OTLP_ENDPOINT=refusing.url, OTEL_EXPORTER_OTLP_HEADERS=f"authorization=Bearer {COLLECTOR_KEY}",
            OTEL_BSP_SCHEDULE_DELAY="200",
        )  # fmt: skip
        encoder.wait()
        api.wait()
        client = stack.enter_context(httpx.Client(base_url=api.url, trust_env=False, timeout=30))

        def call(method: str, path: str, key: str | None = KEY, **options: object) -> None:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            answers.append(client.request(method, path, headers=headers, **options))  # type: ignore[arg-type]

        documents = [
            {"id": "a", "text": TEXT},
            {"id": "b", "image": {"url": f"http://user:{URL_PASSWORD}@127.0.0.1/x.png"}},
            {"id": "c", "image": {"url": f"http://127.0.0.1:9/x.png?token={URL_PASSWORD}"}},
        ]
        search = {"collection": "flags", "query": {"text": TEXT}}
        for key in (KEY, WRONG_KEY, None):
            call("PUT", "/collections/flags", key)
            call("POST", "/collections/flags/documents?wait=true", key, json=documents)
            call("POST", "/search", key, json=search)
            call("GET", "/jobs", key)
            call("GET", f"/nowhere/{key}" if key == WRONG_KEY else "/nowhere", key)
        call("POST", "/encode", json={"role": "query", "inputs": [{"image": {"url": documents[2]["image"]["url"]}}]})  # type: ignore[index]
        call("GET", "/info")
        call("GET", "/metrics")
        (tmp_path / "api-keys").write_text(f"{KEY} {KEY} {KEY}\n")  # a broken new file
        time.sleep(1.1)
        call("GET", "/collections")
        encoder.end()
        call("POST", "/search", json=search)
        qdrant.close()
        call("PUT", "/collections/other")
    assert f"Bearer {COLLECTOR_KEY}" in refusing.keys, "it was sent, and refused"
    assert answers[-1].status_code == 503
    statuses = [answer.status_code for answer in answers]
    assert statuses[:3] == [201, 200, 200]
    assert {401, 404, 503} <= set(statuses)
    assert answers[1].json()["job"]["failed"] == 2
    assert not any("server" in answer.headers for answer in answers), "nor what the server is"
    printed = api.end() + encoder.end()
    assert '"event": "audit"' in printed
    assert "the API keys stay as they were" in printed
    secrets = [KEY, ENCODER_KEY, QDRANT_KEY, COLLECTOR_KEY, HUB_TOKEN, URL_PASSWORD, s3_server.SECRET, TEXT]
    secrets.append(password_in(postgres_url))
    assert [secret for secret in secrets if secret in printed] == []
    answered = "".join(f"{answer.headers} {answer.text}" for answer in answers)
    secrets.remove(TEXT)  # it is what was searched for
    assert [secret for secret in secrets if secret in answered] == []


_LIBRARIES = """
import asyncio, os, sys
from indexer.blobs.image_store import Blobs, BlobSettings
from indexer.ledger.ledger import Ledger
from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.store import ServerStore
from model.checkpoints.sources import locate

from service.observability.logs import configure_logs
import structlog

configure_logs("debug")
log = structlog.get_logger("service.test")

def ledger(url):
    ledger = Ledger.open(url)
    try:
        ledger.jobs.newest.blocking()
        log.debug("the ledger works")
    finally:
        ledger.close()

def blobs(url):
    async def use():
        blobs = Blobs(BlobSettings(url, timeout_s=5))
        try:
            digest = await blobs.put(b"picture")
            await blobs.get(digest)
            log.debug("the blobs work")
            await blobs.get("0" * 64)
        finally:
            blobs.close()
    asyncio.run(use())

def qdrant(url):
    async def use(grpc):
        store = ServerStore(ServerStoreSettings(url, api_key=os.environ["QDRANT_KEY"], prefer_grpc=grpc, grpc_port=9, timeout_s=1))
        try:
            await store.create("flags", 8)
        finally:
            await store.close()
    for grpc in (False, True):
        try:
            asyncio.run(use(grpc))
        except Exception as error:
            log.exception("failed over", of="gRPC" if grpc else "REST", detail=str(error))

def hub(url):
    locate("hub:org/private@" + 40 * "0")

for name, call in (
    ("LEDGER", ledger), ("WRONG_LEDGER", ledger), ("NO_LEDGER", ledger), ("BLOBS", blobs), ("WRONG_BLOBS", blobs),
    ("QDRANT", qdrant), ("NO_QDRANT", qdrant), ("HF_ENDPOINT", hub),
):
    if name == "WRONG_BLOBS":
        os.environ["AWS_SECRET_ACCESS_KEY"] = os.environ["WRONG_SECRET"]
    try:
        call(os.environ.get(name, os.environ["BLOBS"]))
    except Exception as error:
        log.exception("failed", of=name, detail=str(error))
"""


def test_libraries_print_no_secret(
    postgres_url: str,
    s3: S3Server,
    bucket: str,
    refusing: Any,
    tmp_path: Path,
) -> None:
    needed("torch")
    password = password_in(postgres_url)
    wrong_secret = "a-wrong-secret-0123456789"
    environment = {
        "LEDGER": postgres_url,
        "WRONG_LEDGER": postgres_url.replace(password, URL_PASSWORD),
        "NO_LEDGER": f"postgresql://ret2:{URL_PASSWORD}@127.0.0.1:9/none",
        "BLOBS": f"s3://{bucket}/blobs",
        "AWS_ENDPOINT_URL": s3.url,
        "AWS_ACCESS_KEY_ID": s3_server.KEY,
        "AWS_SECRET_ACCESS_KEY": s3_server.SECRET,
        "AWS_REGION": "us-east-1",
        "WRONG_SECRET": wrong_secret,
        "QDRANT": refusing.url,
        "NO_QDRANT": "http://127.0.0.1:9",
        "QDRANT_KEY": QDRANT_KEY,
        "HF_ENDPOINT": refusing.url,
        "HF_HOME": str(tmp_path),
        "HF_TOKEN": HUB_TOKEN,
    }
    done = subprocess.run(
        [sys.executable, "-c", _LIBRARIES], env=os.environ | environment, capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    for wanted in (
        "the ledger works",
        "the blobs work",
        '"of": "WRONG_LEDGER"',
        '"of": "NO_LEDGER"',
        '"of": "WRONG_BLOBS"',
        '"of": "REST"',
        '"of": "gRPC"',
        '"of": "HF_ENDPOINT"',
    ):
        assert wanted in printed
    assert f"Bearer {HUB_TOKEN}" in refusing.keys
    chatter = [line for line in map(json.loads, done.stderr.splitlines()) if line["level"] in ("debug", "info")]
    assert {line["logger"].partition(".")[0] for line in chatter} == {"service"}, "others say at DEBUG what they send"
    secrets = [password, URL_PASSWORD, s3_server.SECRET, wrong_secret, QDRANT_KEY, HUB_TOKEN]
    assert [secret for secret in secrets if secret in printed] == []
