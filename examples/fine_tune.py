"""Fine-tuning on your own pairs of queries and documents, and what it gains.

    pip install '.[train]'
    python examples/fine_tune.py train.jsonl test.jsonl    # your own: docs/training.md says what is in a line
    python examples/fine_tune.py                           # without files: pairs made of atlas

Other flags are those of `ret2 train`, such as --epochs 20. The pairs made of atlas ask about emoji in the drawings of an artist that the
bundled model never saw; the questions of the test are about the same emoji, and others than those of the training. Recall is over the
documents of both files.
"""

from __future__ import annotations

import argparse
import base64
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from model.evaluation.atlas import Atlas, AtlasQuery
from model.retriever import Retriever
from model.training.pairs import Images, Row, read_pairs
from model.types import Float32, Input, Limits, Role

KS = (1, 5)
BATCH = 32
NOTHING_LEARNT = 3  # exit status of `ret2 train` whose best model is the one that it began with


def write_atlas_pairs(folder: Path, emoji: int) -> tuple[Path, Path]:
    """Files of pairs about the first `emoji` emoji: two or three questions of each to train on, another to test with."""
    atlas = Atlas.read()
    asked = [one for one in atlas.queries if one.part == "emoji"]
    subjects = set(list(dict.fromkeys(one.subject for one in asked))[:emoji])
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "train.jsonl", folder / "test.jsonl"
    for file, split in zip(files, ("train", "heldout"), strict=True):
        rows = [pair(atlas, one) for one in asked if one.subject in subjects and one.split == split]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return files


def pair(atlas: Atlas, asked: AtlasQuery) -> dict[str, object]:
    document = atlas.by_id[asked.positive_id]
    return {
        "query": {"text": asked.question, "image": base64_of(atlas.images[asked.heldout_image_id])},
        "document": {"id": document.id, "text": document.text, "image": base64_of(atlas.images[document.image_id])},
    }


def base64_of(image: bytes) -> str:
    return base64.b64encode(image).decode()


def recall(checkpoint: str, train: Path, test: Path) -> list[float]:
    """Share of test queries with a right document among the first k, for each of `KS`."""
    images = Images()
    asked = read_pairs(test, images=images).examples
    documents = {one.key: one.document for one in (*asked, *read_pairs(train, images=images).examples)}
    labels: dict[str, set[str]] = {}
    for one in asked:
        labels.setdefault(one.key, set()).add(one.label)
    retriever = Retriever.load(checkpoint)
    scores = (
        embed(retriever, [one.query for one in asked], Role.QUERY, images)
        @ embed(retriever, list(documents.values()), Role.DOCUMENT, images).T
    )  # (Q, N)
    keys = list(documents)
    best = [[keys[place] for place in row] for row in np.argsort(-scores, axis=1)[:, : max(KS)]]
    ranked = list(zip(asked, best, strict=True))
    return [
        sum(any(one.label in labels.get(key, ()) for key in found[:k]) for one, found in ranked) / len(asked)
        for k in KS
    ]


def embed(retriever: Retriever, rows: Sequence[Row], role: Role, images: Images) -> Float32:
    """(N, E), of unit length."""
    inputs = [Input(text, None if image is None else images[image]) for text, image in rows]
    prepared = [retriever.prepare(one, role, Limits()) for one in inputs]
    batches = [prepared[start : start + BATCH] for start in range(0, len(prepared), BATCH)]
    return np.concatenate([retriever.encode(batch) for batch in batches])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, nargs="?")
    parser.add_argument("test", type=Path, nargs="?")
    parser.add_argument(
        "--start-from", help="the model that learns; without: bundled:everyday, of atlas' pairs bundled:atlas"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/fine-tuned"))
    parser.add_argument("--emoji", type=int, default=200, help="of the pairs made of atlas")
    given, of_training = parser.parse_known_args()
    made = given.train is None or given.test is None
    train, test = write_atlas_pairs(given.output / "pairs", given.emoji) if made else (given.train, given.test)

    start_from = given.start_from or ("bundled:atlas" if made else "bundled:everyday")
    before = recall(start_from, train, test)
    command = [sys.executable, "-m", "service", "train", f"--data={train}", f"--start-from={start_from}"]
    folder = given.output / "model"
    status = subprocess.run([*command, f"--output={folder}", *of_training], check=False).returncode
    if status not in (0, NOTHING_LEARNT):
        sys.exit(status)
    after = recall(str(folder), train, test)

    table = Table("", *(f"recall@{k}" for k in KS), title=f"queries of {test.name}")
    for name, values in (("before", before), ("after", after)):
        table.add_row(name, *(f"{value:.3f}" for value in values))
    Console().print(table)


if __name__ == "__main__":
    main()
