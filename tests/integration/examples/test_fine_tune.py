"""examples/fine_tune.py: its pairs of atlas, and a whole run over a model of a few kilobytes that has learnt nothing."""

import base64
import io
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from example_files import EXAMPLES, load_example
from needs import needed
from PIL import Image

needed("torch")

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 30), "blue": (30, 30, 220)}
NOUNS = ("square", "flag", "country")


def shade(colour: str, draw: random.Random) -> str:
    file = io.BytesIO()
    mixed = tuple(min(255, max(0, value + draw.randint(-25, 25))) for value in COLOURS[colour])
    Image.new("RGB", (draw.randint(20, 40), 30), mixed).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def write_pairs(path: Path, each: int, draw: random.Random) -> Path:
    """A question about a noun and a shade of a colour, and the document of both."""
    lines = []
    for colour in COLOURS:
        for noun in NOUNS:
            document = {"id": f"{colour} {noun}", "text": f"one {noun}", "image": shade(colour, random.Random(0))}
            for _ in range(each):
                query = {"text": f"what is the {noun}", "image": shade(colour, draw)}
                lines.append(json.dumps({"query": query, "document": document}))
    path.write_text("\n".join(lines))
    return path


@pytest.mark.timeout(600)
def test_a_run(tmp_path: Path) -> None:
    from tiny_model import write_tiny_checkpoint

    draw = random.Random(1)
    train = write_pairs(tmp_path / "train.jsonl", 12, draw)
    test = write_pairs(tmp_path / "test.jsonl", 4, draw)
    model = tmp_path / "tiny"
    write_tiny_checkpoint(model)
    options = [f"--start-from={model}", f"--output={tmp_path / 'run'}", "--steps=60", "--batch-size=32"]
    options += ["--learning-rate=3e-3", "--patience=0", "--eval-every=60", "--precision=fp32"]
    command = [sys.executable, f"{EXAMPLES}/fine_tune.py", str(train), str(test), *options]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "160"}, timeout=560, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = dict(re.findall(r"(before|after)\W+([\d.]+)", done.stdout))
    assert float(rows["after"]) > float(rows["before"]) + 0.3, done.stdout
    assert (tmp_path / "run/model/model.safetensors").exists()


def test_the_pairs_of_atlas_keep_the_test_apart(tmp_path: Path) -> None:
    train, test = load_example("fine_tune").write_atlas_pairs(tmp_path, 40)
    of = {}
    for file in (train, test):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        of[file] = {row["document"]["id"] for row in rows}, {row["query"]["image"] for row in rows}
        assert rows
    assert not of[train][0] & of[test][0]  # other questions
    assert of[test][1] <= of[train][1]  # about the same pictures
