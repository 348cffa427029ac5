"""examples/ with the bundled model: what retrieval is worth to an answer, photos in one command, what fine-tuning gains."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chat_endpoint import chat_endpoint, reader
from example_files import EXAMPLES, load_example

from model.evaluation.atlas import Atlas
from service.cli.demo import atlas_documents
from service.cli.demo_photographs import FOLDER as PHOTOGRAPHS


def test_retrieval_by_text_and_image_answers_best(serve: Any, rag_accuracies: Callable[..., dict[str, float]]) -> None:
    """Over the passages of the first 16 countries; over all of atlas in test_demo.py."""
    atlas = Atlas.read()
    countries = sorted({one.subject for one in atlas.documents if one.part == "flags"})[:16]
    chosen = {one.id for one in atlas.documents if one.subject in countries}
    wanted = {one.heldout_image_id for one in atlas.queries if one.subject in countries}
    asked = [
        one for one in load_example("rag").questions(atlas) if one.picture in {atlas.images[id_] for id_ in wanted}
    ]
    client = serve.start()
    client.create_collection("atlas")
    assert client.load("atlas", [one for one in atlas_documents(atlas) if one["id"] in chosen]).indexed == len(chosen)
    found = rag_accuracies(client, asked)
    assert found["nothing"] == 0
    assert found["text+image"] >= 0.9
    assert found["text+image"] > 2 * max(found["text"], found["image"])


def test_rag_as_a_command(serve: Any) -> None:
    """The table, over a collection of one passage: the question it answers is the only one that can be right."""
    client = serve.start()
    client.create_collection("atlas")
    client.load("atlas", [{"id": "x", "text": "The area of Andorra is 468 square kilometres."}])
    with chat_endpoint(reader(load_example("rag").fact)) as base_url:
        environment = os.environ | {"OPENAI_BASE_URL": base_url, "OPENAI_API_KEY": "none", "NO_PROXY": "127.0.0.1"}
        command = [sys.executable, f"{EXAMPLES}/rag.py", "--model=reader", "--questions=4", f"--url={serve.url}"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 questions, 3 passages each" in done.stdout
    assert "text+image" in done.stdout


def test_photos_in_one_command(tmp_path: Path) -> None:
    """It starts the service itself, finds the cat, and leaves nothing running."""
    folder = tmp_path / "Pictures"
    folder.mkdir()
    for name in ("cat", "coffee", "rocket", "retina"):
        (folder / f"{name}.jpg").write_bytes((PHOTOGRAPHS / f"{name}.jpg").read_bytes())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RET2_")}
    command = [sys.executable, f"{EXAMPLES}/photos.py", str(folder), "a cat", "--limit", "1"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment | {"COLUMNS": "160"}, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 new, 0 known, 0 failed" in done.stdout
    assert "cat.jpg" in done.stdout
    assert not (folder / ".ret2" / "demo.json").exists()
