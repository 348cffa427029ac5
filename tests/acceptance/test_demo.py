"""`ret2 demo --once` as a newcomer runs it: five right answers, exit 0; the second start has nothing to load.

What it leaves, all of atlas, is asked by examples/rag.py too."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from example_files import load_example

from model.evaluation.atlas import Atlas
from service.cli.demo import EXAMPLE_DOCUMENTS, examples


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RET2_")}
    command = [sys.executable, "-m", "service", "demo", "--once", "--data-dir", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment | {"COLUMNS": "160"}, check=False)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The first start, which embeds all of atlas, and the folder that it leaves."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, demo(folder / "data")


@pytest.mark.slow  # embeds all of atlas
@pytest.mark.timeout(900)
def test_the_demo_twice(first: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    folder, begun = first
    assert begun.returncode == 0, begun.stdout + begun.stderr
    assert "5 of 5 expected hits are first" in begun.stdout
    again = demo(folder / "data")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "is complete" in again.stdout
    assert "collection photographs: 0 new, 8 were there" in again.stdout
    assert "loaded" not in again.stdout


@pytest.mark.slow  # what the first start left
@pytest.mark.timeout(900)
def test_answers_over_all_of_atlas(
    first: tuple[Path, subprocess.CompletedProcess[str]],
    process: Callable[..., Any],
    rag_accuracies: Callable[..., dict[str, float]],
) -> None:
    """What docs/examples.md says of examples/rag.py."""
    client = process(folder=first[0]).start()
    found = rag_accuracies(client, load_example("rag").questions(Atlas.read()))
    assert found["nothing"] == 0
    assert found["text+image"] >= 0.95
    assert found["text"] < 0.25
    assert found["text+image"] > 2 * max(found["text"], found["image"])


def test_the_examples_are_held_out() -> None:
    atlas = Atlas.read()
    asked = {query.positive_id: query for query in atlas.queries}
    assert {asked[one].split for one in EXAMPLE_DOCUMENTS} == {"heldout"}
    trained_on = {image for query in atlas.queries for image in query.image_ids}
    assert not trained_on & {asked[one].heldout_image_id for one in EXAMPLE_DOCUMENTS}
    for example in examples(atlas):
        assert any(example.expected(document) for document in atlas.documents)
