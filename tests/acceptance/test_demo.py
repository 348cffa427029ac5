"""`ret2 demo --once` as a newcomer runs it: four right answers, exit 0; the second start has nothing to load."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from model.atlas import Atlas
from service.demo import EXAMPLE_DOCUMENTS, examples


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RET2_")}
    command = [sys.executable, "-m", "service", "demo", "--once", "--data-dir", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment | {"COLUMNS": "160"}, check=False)


@pytest.mark.slow  # embeds all of atlas
@pytest.mark.timeout(900)
def test_the_demo_twice(tmp_path: Path) -> None:
    first = demo(tmp_path / "data")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "4 of 4 expected hits are first" in first.stdout
    second = demo(tmp_path / "data")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "is complete" in second.stdout
    assert "loaded" not in second.stdout


def test_the_examples_are_held_out() -> None:
    atlas = Atlas.read()
    asked = {query.positive_id: query for query in atlas.queries}
    assert {asked[one].split for one in EXAMPLE_DOCUMENTS} == {"heldout"}
    trained_on = {image for query in atlas.queries for image in query.image_ids}
    assert not trained_on & {asked[one].heldout_image_id for one in EXAMPLE_DOCUMENTS}
    for example in examples(atlas):
        assert any(example.expected(document) for document in atlas.documents)
