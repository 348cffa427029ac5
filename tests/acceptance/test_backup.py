"""`ret2 backup` and `ret2 restore` as an operator runs them: the same searches give the same hits in an installation that was empty."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_model import WORDS, write_tiny_checkpoint

from service.client.client import Client
from service.client.types import Hit, SearchResult

pytestmark = pytest.mark.timeout(300)
QUERIES = ("the red flag", "what is the capital", "one blue square")


def ret2(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RET2_")}
    command = [sys.executable, "-m", "service", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


def picture(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 2 * number, 255 - number)).save(file, "PNG")
    return file.getvalue()


def answers(client: Client) -> list[SearchResult]:
    return [client.search("c", text, limit=40, filter={"field": "n", "gte": 10}) for text in QUERIES]


def assert_the_same(found: Sequence[Hit], expected: Sequence[Hit]) -> None:
    """A process chooses by trial how it multiplies, so two differ in the last digits, and hits that are equal but for those in order."""
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    cut = expected[-1].score + 1e-5  # of those that are as good as the last, others may have been cut off
    kept = [
        {hit.id: hit.model_copy(update={"score": 0.0}) for hit in hits if hit.score > cut} for hits in (found, expected)
    ]
    assert kept[0] == kept[1]
    assert len(kept[0]) >= 20


def test_there_and_back(serve: Any, tmp_path: Path) -> None:
    serve.flags = [f"--model={write_tiny_checkpoint(tmp_path / 'model')}", "--threads=1"]
    client = serve.start()
    client.create_collection("c", instruction="what is")
    texts = [" ".join(WORDS[(n + place) % len(WORDS)] for place in range(1 + n % 5)) for n in range(60)]
    documents = [
        {"id": f"d{n}", "text": text, "image": picture(n) if n % 3 == 0 else None, "metadata": {"n": n}}
        for n, text in enumerate(texts)
    ]
    assert client.load("c", documents).indexed == 60
    before = answers(client)
    folder, first = str(tmp_path / "backup"), str(serve.data_dir)

    running = ret2("backup", folder, "--data-dir", first)
    assert running.returncode == 1
    assert "in use by another ret2 server" in running.stderr
    assert "stop that first" in running.stderr
    assert serve.send(signal.SIGTERM) == 0

    made = ret2("backup", folder, "--data-dir", first)
    assert made.returncode == 0, made.stderr
    assert "1 collections, 60 documents, 20 images" in made.stdout
    assert ret2("restore", folder, "--data-dir", first).returncode == 1  # it is not empty
    serve.data_dir = tmp_path / "second"
    restored = ret2("restore", folder, "--data-dir", str(serve.data_dir))
    assert restored.returncode == 0, restored.stderr

    client = serve.start()
    for found, expected in zip(answers(client), before, strict=True):
        assert len(expected.hits) == 40
        assert_the_same(found.hits, expected.hits)
    assert client.collection("c").instruction == "what is"
    assert client.load("c", documents).skipped == 60
    image = client.document("c", "d3").image_url
    assert client._request("GET", image).content == picture(3)


def test_nothing_to_back_up(tmp_path: Path) -> None:
    failed = ret2("backup", str(tmp_path / "backup"), "--data-dir", str(tmp_path / "typo"))
    assert (failed.returncode, "nothing to back up" in failed.stderr) == (1, True)
    assert not (tmp_path / "typo").exists()
