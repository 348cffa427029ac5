"""`ret2 serve` as a process with a tiny real model, and its life and death in this process with a fake one."""

import asyncio
import base64
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import zstandard
from needs import needed
from serve_process import Server, free_port

from service import server as assembly
from service import wiring
from service.api.app import create_app
from service.components import Parts
from service.settings import Settings

needed("torch")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tiny_model import write_tiny_checkpoint

    return write_tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def start(tmp_path: Path, model: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def go(model: Path = model, **flags: Any) -> Server:
        servers.append(Server(tmp_path, model, **flags))
        return servers[-1]

    yield go
    for server in servers:
        server.end()


def test_real_embeddings_are_the_same_by_every_path(
    start: Callable[..., Server], make_image: Callable[..., bytes]
) -> None:
    """Promise 7: alone or in a batch, by /encode, /v1/embeddings, ingest or search."""
    client = start().ready()
    image = base64.b64encode(make_image("red", (40, 30))).decode()
    inputs = [
        {"text": "red square"},
        {"image": {"base64": image}},
        {"text": "what is this", "image": {"base64": image}},
    ]
    together = client.post("/encode", json={"role": "document", "inputs": inputs * 5}).json()["results"]
    client.put("/collections/things")
    documents = [{"id": str(number), **item} for number, item in enumerate(inputs)]
    answer = client.post("/collections/things/documents?wait=true", json=documents).json()
    assert [one["status"] for one in answer["results"]] == ["indexed"] * 3, answer
    for number, item in enumerate(inputs):
        (alone,) = client.post("/encode", json={"role": "query", "inputs": [item]}).json()["results"]
        stored = client.get(f"/collections/things/documents/{number}?with_vector=true").json()["vector"]
        hits = client.post("/search", json={"collection": "things", "query": item, "limit": 1}).json()["hits"]
        for vector in (alone["embedding"], stored):
            assert np.dot(vector, together[number]["embedding"]) == pytest.approx(1, abs=1e-5)
        assert hits[0]["id"] == str(number)
        assert hits[0]["score"] == pytest.approx(1, abs=1e-5)


def test_the_encoder_in_a_process_of_its_own(start: Callable[..., Server], make_image: Callable[..., bytes]) -> None:
    """The same embeddings by either path (promise 7); its death is seen, and what was accepted meanwhile is indexed after it."""
    encoder = start(role="encoder")
    alone = encoder.ready()
    server = start(encoder_url=encoder.url)
    client = server.ready()
    maps = Path(f"/proc/{server.process.pid}/maps")
    assert not maps.exists() or "libtorch" not in maps.read_text()
    item = {"text": "what is this", "image": {"base64": base64.b64encode(make_image("red", (40, 30))).decode()}}
    body = {"role": "document", "inputs": [item]}
    near, far = (one.post("/encode", json=body).json()["results"][0]["embedding"] for one in (alone, client))
    assert near == far
    client.put("/collections/things")
    client.post("/collections/things/documents?wait=true", json=[{"id": "first", **item}]).raise_for_status()
    search = {"collection": "things", "query": item, "limit": 1}
    hit = client.post("/search", json=search).json()["hits"][0]
    assert (hit["id"], hit["score"]) == ("first", pytest.approx(1, abs=1e-5))

    encoder.process.kill()
    encoder.process.wait()
    assert client.post("/search", json=search).json()["code"] == "dependency_unavailable"
    assert client.get("/readyz").json()["checks"]["encoder"].startswith(f"encoder {encoder.url}")
    assert client.get("/livez").status_code == 200
    documents = [{"id": str(number), "text": "red square"} for number in range(10)]
    job = client.post("/collections/things/documents", json=documents).json()["job"]["id"]
    start(role="encoder", port=int(encoder.url.rpartition(":")[2])).ready()
    deadline = time.monotonic() + 60
    while (state := client.get(f"/jobs/{job}").json()["state"]) != "succeeded":
        assert time.monotonic() < deadline, state
        time.sleep(0.1)
    assert client.get("/collections/things").json()["documents"] == 11


def test_sigterm_ends_an_encoder_with_status_0(start: Callable[..., Server]) -> None:
    encoder = start(role="encoder")
    encoder.ready()
    encoder.process.send_signal(signal.SIGTERM)
    assert encoder.process.wait(30) == 0


HELD = (str(Path(__file__).parents[1] / "support" / "held_encoder.py"),)
HOLD = {"role": "query", "inputs": [{"text": "hold"}]}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def refuses(url: str) -> bool:
    try:
        httpx.get(f"{url}/readyz", trust_env=False)
    except httpx.ConnectError:
        return True
    except httpx.TransportError:  # the listener closed over this very call
        pass
    return False


def test_sigterm_during_a_forward(start: Callable[..., Server], tmp_path: Path) -> None:
    """No new connections from then on, which is how a probe sees it; the caller in flight has its answer, and the exit is 0."""
    gate = tmp_path / "gate"
    gate.touch()
    encoder = start(role="encoder", model=gate, program=HELD, grace_s=20)
    client = encoder.ready()
    with ThreadPoolExecutor(1) as caller:
        answer = caller.submit(client.post, "/encode", json=HOLD)
        until(gate.with_suffix(".busy").exists)
        encoder.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        until(lambda: refuses(encoder.url))
        assert encoder.process.poll() is None
        gate.unlink()
        assert answer.result().status_code == 200
    assert encoder.process.wait(30) == 0
    assert time.monotonic() - began < 20


def test_a_stuck_forward_ends_the_process(start: Callable[..., Server], tmp_path: Path) -> None:
    """Though Python would wait for the thread that is stuck: within the grace time, and not as if all were well."""
    gate = tmp_path / "gate"
    gate.touch()
    encoder = start(role="encoder", model=gate, program=HELD, stuck_after_s=0.2, grace_s=3)
    client = encoder.ready()
    with ThreadPoolExecutor(1) as caller:
        answer = caller.submit(client.post, "/encode", json=HOLD)
        assert encoder.process.wait(30) == 1
        assert answer.result().json()["code"] == "dependency_unavailable"
    assert "a part of the service died" in encoder.log.read_text()
    assert gate.exists()


def test_sigterm_inside_one_line_of_an_import(start: Callable[..., Server], tmp_path: Path) -> None:
    zeros = zstandard.ZstdCompressor(3).compress(bytes(2**27))
    (tmp_path / "zeros.jsonl.zst").write_bytes(zeros * 32)
    server = start(import_roots=tmp_path)
    client = server.ready()
    client.put("/collections/things")
    job = client.post("/collections/things/imports", json={"uri": str(tmp_path / "zeros.jsonl.zst")}).json()["job"]
    while client.get(f"/jobs/{job['id']}").json()["state"] != "running":
        time.sleep(0.02)
    time.sleep(0.3)
    assert client.get(f"/jobs/{job['id']}").json()["state"] == "running"
    began = time.monotonic()
    server.process.terminate()
    assert server.process.wait(60) == 0
    assert time.monotonic() - began < 10
    assert "shutdown timed out" not in server.log.read_text()


def test_sigterm_while_somebody_waits(start: Callable[..., Server]) -> None:
    """The waiting caller is answered, the process exits 0, and the next one finishes what was accepted."""
    server = start(grace_s=20)
    client = server.ready()
    client.put("/collections/things")
    documents = [{"id": str(number), "text": "red square of the capital"} for number in range(3_000)]
    threading.Timer(1.5, server.process.send_signal, [signal.SIGTERM]).start()
    response = client.post("/collections/things/documents?wait=true", json=documents)
    assert response.status_code in (200, 202)
    assert server.process.wait(30) == 0
    job = response.json()["job"]["id"]
    again = start().ready()
    deadline = time.monotonic() + 60
    while (state := again.get(f"/jobs/{job}").json()["state"]) != "succeeded":
        assert time.monotonic() < deadline, state
        time.sleep(0.1)
    assert again.get("/collections/things").json()["documents"] == 3_000


def test_one_server_per_data_folder(start: Callable[..., Server]) -> None:
    first = start()
    first.ready()
    second = start()
    assert second.process.wait(60) == 1
    assert f"is in use by another ret2 server (process {first.process.pid})" in second.log.read_text()
    assert "Traceback" not in second.log.read_text()


def test_what_cannot_be_served_is_one_line(start: Callable[..., Server]) -> None:
    for flags, says in (
        ({"host": "0.0.0.0"}, "RET2_API_KEYS_FILE"),
        ({"role": "api", "encoder_url": "http://e:1"}, "set RET2_QDRANT_URL"),
        ({"api_keys_file": "/nowhere"}, "cannot be read"),
        ({"role": "encoder", "encoder_url": "http://e:1"}, "RET2_ENCODER_URL is set"),
    ):
        server = start(**flags)
        assert server.process.wait(60) == 1, server.log.read_text()
        assert says in server.log.read_text()
        assert "Traceback" not in server.log.read_text()


def test_a_port_in_use_is_one_line_before_the_model_loads(
    start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RET2_MODEL", "bundled")  # as an earlier version read it
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = start(port=taken.getsockname()[1])
        assert server.process.wait(60) == 1
    log = server.log.read_text()
    assert "cannot listen on 127.0.0.1:" in log
    assert "Address already in use" in log
    assert "unknown setting" in log
    assert "RET2_MODELS" in log
    assert "loading the model" not in log
    assert "Traceback" not in log


def test_a_data_folder_that_is_a_file_is_one_line(start: Callable[..., Server], tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    server = start()
    assert server.process.wait(60) == 1
    log = server.log.read_text()
    assert f"data folder {tmp_path / 'data'} cannot be used: File exists" in log
    assert "Traceback" not in log


def _below_a_file(folder: Path) -> None:
    folder.parent.rmdir()
    folder.parent.write_text("a file")


def _no_ledger(folder: Path) -> None:
    (folder / "ledger.sqlite").write_bytes(b"not a database, not a database, not a database" * 100)


def _ledger_folder(folder: Path) -> None:
    (folder / "ledger.sqlite").mkdir()


@pytest.mark.parametrize(
    ("prepare", "name", "says"),
    [
        (_below_a_file, "data/below", "data folder {data} cannot be used: Not a directory"),
        (_no_ledger, "data", "ledger {data}/ledger.sqlite: it is not an SQLite database"),
        (_ledger_folder, "data", "ledger {data}/ledger.sqlite: it cannot be opened"),
    ],
)
def test_a_data_folder_that_cannot_be_used_is_one_line_before_the_model_loads(
    start: Callable[..., Server], tmp_path: Path, prepare: Callable[[Path], None], name: str, says: str
) -> None:
    (tmp_path / "data").mkdir()
    data = tmp_path / name
    prepare(data)
    server = start(data_dir=data)
    assert server.process.wait(60) == 1
    log = server.log.read_text()
    assert log.startswith("ret2: " + says.format(data=data)), log
    assert log.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "reason"), [("ro", "Read-only file system"), ("nr_inodes=1", "No space left on device")]
)
def test_a_data_folder_on_a_disk_without_room_is_one_line(
    start: Callable[..., Server], tmp_path: Path, option: str, reason: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(data)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        server = start()
        assert server.process.wait(60) == 1
        log = server.log.read_text()
        assert log.startswith(f"ret2: data folder {data} cannot be used: {reason}"), log
        assert log.count("\n") == 1
    finally:
        subprocess.run(["umount", str(data)], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_folder_that_the_user_cannot_write_is_one_line(start: Callable[..., Server], tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o500)
    server = start()
    assert server.process.wait(60) == 1
    assert server.log.read_text().startswith(f"ret2: data folder {data} cannot be used: Permission denied")


async def _run(parts: Parts, give_up: Callable[[], object] = lambda: None) -> bool:
    """Run the server. The real `give_up` would end the tests with the process."""
    return await assembly.run(create_app(parts), parts, give_up=give_up)


async def _until_started(port: int) -> None:
    async with asyncio.timeout(30), httpx.AsyncClient(trust_env=False) as client:
        while True:
            try:
                await client.get(f"http://127.0.0.1:{port}/livez")
            except httpx.TransportError:
                await asyncio.sleep(0.02)
            else:
                return


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_dead_model_thread_takes_the_process_down(runtime: Any, tmp_path: Path) -> None:
    """Promise 1: visibly, not answering 200 for ever."""
    port = free_port()
    running = asyncio.create_task(_run(wiring.build(Settings(data_dir=tmp_path, port=port), runtime)))
    await _until_started(port)

    def die(_texts: list[str]) -> None:
        raise SystemExit

    runtime.on_forward = die
    async with httpx.AsyncClient(trust_env=False) as client:
        body = {"role": "query", "inputs": [{"text": "red"}]}
        response = await client.post(f"http://127.0.0.1:{port}/encode", json=body)
    assert response.status_code == 503
    assert await asyncio.wait_for(running, 30) is False


async def test_a_call_that_does_not_end_in_the_grace_time(runtime: Any, tmp_path: Path) -> None:
    """It is told so while it can be: the server would cancel it, and its caller get a bare 500."""
    port = free_port()
    parts = wiring.build(Settings(data_dir=tmp_path, port=port, grace_s=2), runtime)
    running = asyncio.create_task(_run(parts))
    await _until_started(port)
    runtime.gate.clear()
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        body = {"role": "query", "inputs": [{"text": "red"}]}
        call = asyncio.create_task(client.post(f"http://127.0.0.1:{port}/encode", json=body))
        await runtime.busy_with("red")
        os.kill(os.getpid(), signal.SIGTERM)
        response = await call
    assert (response.status_code, response.json()["code"]) == (503, "dependency_unavailable")
    assert "is stopping" in response.json()["detail"]
    runtime.gate.set()
    assert await asyncio.wait_for(running, 30) is True


async def test_an_orderly_end(runtime: Any, tmp_path: Path) -> None:
    port = free_port()
    parts = wiring.build(Settings(data_dir=tmp_path, port=port, grace_s=5), runtime)
    running = asyncio.create_task(_run(parts))
    await _until_started(port)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(running, 30) is True
    assert parts.draining.is_set()


async def test_the_deadline_begins_while_the_event_loop_is_busy(runtime: Any, tmp_path: Path) -> None:
    ended = threading.Event()
    port = free_port()
    parts = wiring.build(Settings(data_dir=tmp_path, port=port, grace_s=0.5), runtime)
    running = asyncio.create_task(_run(parts, ended.set))
    await _until_started(port)
    os.kill(os.getpid(), signal.SIGTERM)
    deadline = time.monotonic() + 10
    while not ended.is_set() and time.monotonic() < deadline:
        pass  # the loop has no turn
    assert ended.is_set()
    assert await asyncio.wait_for(running, 30) is True


async def test_metrics_on_a_port_of_their_own(runtime: Any, tmp_path: Path) -> None:
    """Nothing else is there, they are nowhere else, and they go with the server."""
    port, metrics_port = free_port(), free_port()
    settings = Settings(data_dir=tmp_path, port=port, metrics_port=metrics_port, grace_s=5)
    running = asyncio.create_task(_run(wiring.build(settings, runtime)))
    await _until_started(port)
    async with httpx.AsyncClient(trust_env=False) as client:
        try:
            answer = await client.get(f"http://127.0.0.1:{metrics_port}/metrics")
            assert 'ret2_model_info{dimensions="64"' in answer.text
            for path in ("/", "/livez", "/info", "/docs", "/openapi.json", "/collections"):
                assert (await client.get(f"http://127.0.0.1:{metrics_port}{path}")).status_code == 404, path
            assert (await client.get(f"http://127.0.0.1:{port}/metrics")).status_code == 404
            assert (await client.get(f"http://127.0.0.1:{port}/livez")).status_code == 200
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            assert await asyncio.wait_for(running, 30) is True
        with pytest.raises(httpx.ConnectError):
            await client.get(f"http://127.0.0.1:{metrics_port}/metrics")
