"""A CLIP of the hub behind `ret2 serve`, with no configuration of ours: documents of every kind go in and are found."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from dual_encoders import write_dual_encoder
from fake_hub import running_hub
from needs import needed

needed("torch")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(folder: Path, model: str, endpoint: str) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client, Path]]:
    port, log = free_port(), folder / "serve.log"
    command = [sys.executable, "-m", "service", "serve", f"--model={model}", f"--data-dir={folder}", f"--port={port}"]
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hub"), "HF_HUB_DISABLE_XET": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30, trust_env=False) as client:
            yield process, client, log
    finally:
        process.kill()
        process.wait()


def wait_ready(process: subprocess.Popen[bytes], client: httpx.Client, log: Path) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def test_a_model_of_the_hub_serves_documents_of_every_kind(tmp_path: Path, make_image: object) -> None:
    red, blue = (base64.b64encode(make_image(colour)).decode() for colour in ("red", "blue"))  # type: ignore[operator]
    with running_hub() as hub:
        commit = hub.publish("org/clip-tiny", write_dual_encoder(tmp_path / "published"))
        with serving(tmp_path, "hub:org/clip-tiny", hub.url) as (process, client, log):
            wait_ready(process, client, log)
            model = client.get("/info").json()["models"][0]
            assert (model["name"], model["commit"], model["dimensions"]) == ("clip-tiny", commit, 8)
            assert f'"commit": "{commit}"' in log.read_text()
            assert client.get("/v1/models/clip-tiny").json()["id"] == "clip-tiny"
            client.put("/collections/shop", json={}).raise_for_status()
            documents = [
                {"id": "text", "text": "a red square"},
                {"id": "image", "image": {"base64": red}},
                {"id": "both", "text": "a blue square", "image": {"base64": blue}},
            ]
            answer = client.post("/collections/shop/documents", params={"wait": "true"}, json=documents).json()
            assert [result["status"] for result in answer["results"]] == ["indexed"] * 3
            for document in documents:
                query = {key: value for key, value in document.items() if key != "id"}
                hits = client.post("/search", json={"collection": "shop", "query": query, "explain": True}).json()[
                    "hits"
                ]
                assert hits[0]["id"] == document["id"]
                assert hits[0]["score"] == pytest.approx(1, abs=1e-4)
                explanation = hits[0]["explanation"]
                assert (explanation["document"], explanation["query"]) == (None, None)  # there are no gates
                assert (explanation["without_text"] is not None) is (document["id"] == "both")
            refused = client.post("/search", json={"collection": "shop", "query": {"text": "a"}, "rerank": True})
            assert refused.status_code == 400
            assert "this one gives one vector" in refused.json()["detail"]


def test_without_a_network_the_service_ends_with_a_sentence(tmp_path: Path) -> None:
    with serving(tmp_path, "hub:org/clip-tiny", f"http://127.0.0.1:{free_port()}") as (process, _, log):
        assert process.wait(60) == 1
    assert "ret2: hub model 'org/clip-tiny' is not on this machine, and 127.0.0.1 cannot be reached" in log.read_text()
