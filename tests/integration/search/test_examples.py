"""The commands of examples/ over a whole service with a model of a few lines."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_endpoint import reader, topic_of
from example_files import EXAMPLES, load_example
from fake_runtime import FakeRuntime
from PIL import ExifTags, Image
from threaded_server import serving

from model.evaluation.atlas import Atlas
from model.types import Encoded, ModelInfo, Prepared
from service.client.client import Client
from service.settings import Settings
from service.wiring import build


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("examples")
    with serving(lambda: build(Settings(data_dir=folder), FakeRuntime())) as url:
        yield url


def run(name: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"{EXAMPLES}/{name}.py", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "160"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)


@pytest.fixture
def folder(tmp_path: Path, make_image: Callable[..., bytes]) -> Path:
    folder = tmp_path / "pictures"
    (folder / "sea" / ".cache").mkdir(parents=True)
    (folder / "sea" / "red.png").write_bytes(make_image("red"))
    (folder / "sea" / ".cache" / "hidden.png").write_bytes(make_image("green"))
    (folder / "notes.txt").write_text("not a picture")
    (folder / "broken.jpg").write_bytes(b"not a picture either")
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = "2024:05:06 07:08:09"
    (folder / "blue.jpg").write_bytes(make_image("blue", (30, 20), kind="JPEG", exif=exif))
    return folder


def test_photos(url: str, folder: Path, make_image: Callable[..., bytes]) -> None:
    query = folder.parent / "query.png"
    query.write_bytes(make_image("red", (50, 50)))
    first = run("photos", folder, "--image", query, "--limit", 1, "--url", url)
    assert first.returncode == 0, first.stderr
    assert "broken.jpg is not the picture that its name says" in first.stdout
    assert "2 new, 0 known, 0 failed" in first.stdout
    assert "sea/red.png" in first.stdout
    dated = json.dumps({"field": "taken", "gte": "2024-01-01T00:00:00Z"})
    again = run("photos", folder, "anything", "--filter", dated, "--url", url)
    assert "0 new, 2 known, 0 failed" in again.stdout
    assert "blue.jpg" in again.stdout
    assert "red.png" not in again.stdout
    with Client(url) as client:
        known = client.document("photos", "blue.jpg")
    assert known.metadata == {"folder": ".", "width": 30, "height": 20, "taken": "2024-05-06T07:08:09"}


def test_batch_job(url: str, tmp_path: Path, make_image: Callable[..., bytes]) -> None:
    """600 rows are three requests. A row without content and one with a broken image are failures, by row; the others are there."""
    file = tmp_path / "products.parquet"
    rows: list[dict[str, Any]] = [{"id": str(n), "text": f"word{n}", "image": None, "price": n} for n in range(600)]
    rows[3]["image"] = make_image("red")
    rows[300]["text"] = None
    rows[599]["image"] = b"broken"
    pq.write_table(pa.Table.from_pylist(rows), file)
    done = run("batch_job", file, "--collection", "shop", "--url", url)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1] == "600 rows: 598 indexed, 0 skipped, 2 failed"
    failures = [json.loads(line) for line in (tmp_path / "products.failures.jsonl").read_text().splitlines()]
    assert {(one["row"], one["id"]) for one in failures} == {(300, "300"), (599, "599")}
    rows[300]["text"], rows[599]["image"] = "mended", None
    pq.write_table(pa.Table.from_pylist(rows), file)
    again = run("batch_job", file, "--collection", "shop", "--url", url)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == "600 rows: 2 indexed, 598 skipped, 0 failed"
    assert (tmp_path / "products.failures.jsonl").read_text() == ""
    with Client(url) as client:
        assert client.document("shop", "3").metadata == {"price": 3}


def test_every_flag_passage_has_a_fact_of_its_own_topic_alone() -> None:
    rag = load_example("rag")
    for document in Atlas.read().documents:
        if document.part == "flags":
            assert [topic for topic in rag.FACTS if rag.fact(topic, document.text)] == [document.topic], document.text


def test_the_judge_and_the_reader() -> None:
    rag = load_example("rag")
    assert rag.right("It is the Swiss franc.", "Swiss franc (CHF)")
    assert not rag.right("Nigeria", "Niger")
    assert not rag.right("1,468 square kilometres", "468")
    assert rag.right("Spain and, of course, France", "France and Spain")
    assert not rag.right("France", "France and Spain")
    for query in Atlas.read().queries:
        if query.part == "flags":
            assert topic_of(query.question) == query.topic, query.question
    say = reader(rag.fact)
    found = ["The area of Andorra is 468 square kilometres.", "In Andorra people pay with the Euro (EUR)."]
    assert say("What is the currency of this country?", found) == "Euro (EUR)"
    assert say("What is the currency of this country?", []) == "unknown"


@pytest.mark.parametrize("good", [True, False])
def test_upgrade_model(good: bool, tmp_path: Path, make_image: Callable[..., bytes]) -> None:
    """A next model that tells documents apart stays; one that gives all of them the same vector is rolled back."""

    class Next(FakeRuntime):
        info = ModelInfo("next", "next-fingerprint", FakeRuntime.info.dimensions, 1_000, 16)

        def launch(self, batch: Sequence[Prepared]) -> Callable[[], Encoded]:
            wait = super().launch(batch)
            return lambda: Encoded(
                -wait().vectors if good else np.ones_like(wait().vectors) / self.info.dimensions**0.5
            )

    (tmp_path / "red.png").write_bytes(make_image("red"))
    asked = [{"text": f"text {n}", "id": f"d{n}"} for n in range(30)] + [{"image": "red.png", "id": "picture"}]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    settings = Settings(data_dir=tmp_path / "data")
    with serving(lambda: build(settings, FakeRuntime(), Next())) as url, Client(url) as client:
        client.create_collection("c")
        pictured = {"id": "picture", "image": tmp_path / "red.png"}
        client.load("c", [pictured, *({"id": f"d{n}", "text": f"text {n}"} for n in range(30))])
        done = run("upgrade_model", "c", tmp_path / "questions.jsonl", "--url", url)
        assert done.returncode == (0 if good else 1), done.stderr
        old = FakeRuntime.info.name
        assert f"recall@10 of 31 questions: 1.000 with {old}" in done.stdout
        assert done.stdout.endswith("next stays\n" if good else f"{old} serves again\n")
        assert client.collection("c").model == ("next" if good else old)
        assert client.search("c", text="text 3").hits[0].id == "d3"
