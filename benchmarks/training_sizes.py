"""`python -m benchmarks.training_sizes`: recall before and after training on 20, 200 and 2,000 pairs, on data that is held out.

Everything starts from `bundled:everyday`, in the way of `ret2 train --start-from`: a recurrent cell is added to the embedding through a
gate that begins at zero, and a linear map of each modality's feature, zero too, to the feature. The two are measured
apart and together, with the settings that `ret2 train` has where nothing else is said. A fifth of the pairs chooses the
step that is kept, of equal recall the one with the lower loss, step 0 among them. States of the towers are kept in
--cache FOLDER, so that a run takes seconds or a few minutes.

- shop: questions "colour kind", documents that are a picture alone, or a picture and a text that names two colours. Training products are
  drawn with other seeds than those that are searched.
- kinds: pictures of emoji by their kind ("mammals", "weather", ...), ten kinds, 15 pairs a kind; the test has other emoji of each kind, in
  the drawings of an artist that no pair has.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from benchmarks import shop
from benchmarks.machine import Machine
from model.evaluation.atlas import Atlas
from model.retriever import Retriever
from model.training.batch import Entry
from model.training.data import Data, settings_for
from model.training.distributed import Ranks
from model.training.pairs import Example, Row
from model.training.run import begin
from model.training.state_cache import StateCache
from model.training.trainer import Trainer
from model.training.validation import hits, validation_loss
from model.types import Role

SIZES = [20, 200, 2000]
KINDS, PAIRS_A_KIND = 10, 15
_VALIDATION = 5  # one pair in so many
_START = "bundled:everyday"
_MAPS = ("features.text", "features.vision")  # of the linear head; all else is of the cell and its gate
HEADS = ("recurrent cell", "linear head", "both")


@dataclass(frozen=True)
class Task:
    """Pairs in a random order, and what they are tested on."""

    name: str
    sizes: Sequence[int]
    pairs: Sequence[Example]
    test: Sequence[Example]  # questions, each with its label
    corpus: Mapping[str, Row]
    labels: Mapping[str, frozenset[str]]
    images: Mapping[str, bytes]


def tasks(sizes: Sequence[int]) -> dict[str, list[Task]]:
    """By the name of the file that has their states."""
    return {"kinds": [kinds_task()], "shop": list(shop_tasks(sizes))}


def shop_tasks(sizes: Sequence[int]) -> Iterator[Task]:
    searched = shop.products(two_colours=True)
    seeds = range(1, 2 + max(SIZES) // len(searched))  # the same products, however many of them are trained on
    trained = [(seed, item) for seed in seeds for item in shop.products(seed, two_colours=True)]
    random.Random(0).shuffle(trained)
    images = {item.id: item.image for item in searched} | {f"{seed}/{item.id}": item.image for seed, item in trained}
    questions = [
        Example((question, None), (None, None), "", f"{colour} {kind}") for question, colour, kind in shop.questions()
    ]
    labels = {item.id: frozenset([f"{item.colour} {item.kind}"]) for item in searched}
    for name, has_text in (("shop, pictures alone", False), ("shop, pictures and texts of two colours", True)):
        pairs = [
            Example(
                (f"{item.colour} {item.kind}", None),
                (item.text if has_text else None, f"{seed}/{item.id}"),
                f"{seed}/{item.id}",
                f"{item.colour} {item.kind}",
            )
            for seed, item in trained
        ]
        corpus: dict[str, Row] = {item.id: (item.text if has_text else None, item.id) for item in searched}
        yield Task(name, sizes, pairs[: max(SIZES)], questions, corpus, labels, images)


def kinds_task() -> Task:
    atlas = Atlas.read()
    kind_of = {row.subject: str(row.metadata["subgroup"]) for row in atlas.documents if row.part == "emoji"}
    first_rows = {row.subject: row for row in atlas.queries if row.part == "emoji"}
    by_kind: dict[str, list[str]] = {}
    for subject, kind in kind_of.items():
        by_kind.setdefault(kind, []).append(subject)
    pairs: list[Example] = []
    test: list[Example] = []
    for kind in sorted(by_kind, key=lambda name: -len(by_kind[name]))[:KINDS]:
        subjects = random.Random(kind).sample(by_kind[kind], len(by_kind[kind]))
        for place, subject in enumerate(subjects):
            row = first_rows[subject]
            image = row.image_ids[0] if place < PAIRS_A_KIND else row.heldout_image_id
            example = Example((None, image), (kind, None), kind, kind)
            (pairs if place < PAIRS_A_KIND else test).append(example)
    random.Random(0).shuffle(pairs)
    corpus: dict[str, Row] = {pair.key: pair.document for pair in pairs}
    labels = {kind: frozenset([kind]) for kind in corpus}
    return Task("kinds of emoji, 15 pairs a kind", (len(pairs),), pairs, test, corpus, labels, atlas.images)


def filled(retriever: Retriever, alike: Sequence[Task], file: Path) -> StateCache:
    """Tower states of all that the tasks embed, from `file` where it has them."""
    if file.exists():
        return StateCache.load(retriever, file)
    rows = [row for task in alike for row in task.corpus.values()]
    rows += [row for task in alike for pair in (*task.pairs, *task.test) for row in (pair.query, pair.document)]
    cache = StateCache(retriever)
    cache.add_texts([text for text, _ in rows if text is not None], lambda _: None)
    images = list(dict.fromkeys(image for _, image in rows if image is not None))
    cache.add_images(alike[0].images, images, lambda _: None, together=8)
    cache.save(file)
    return cache


def fit(retriever: Retriever, head: str, task: Task, count: int, cache: StateCache) -> tuple[float, float, int, int]:
    """Recall@1 on the test before and after, the step that was kept and the number of steps."""
    pairs = task.pairs[:count]
    held, train = pairs[::_VALIDATION], [pair for place, pair in enumerate(pairs) if place % _VALIDATION]
    labels = {pair.key: frozenset([pair.label]) for pair in pairs}
    data = Data(train, held, task.images, labels, task.name)
    steps = settings_for(data, {}).steps
    settings = settings_for(data, {"precision": "fp32", "eval_every": max(1, steps // 8)}, fresh=True)
    side = retriever.sides["shared"]
    pool = data.pool(settings)
    with closing(Trainer(retriever, data.batches(settings), data.images, settings, Ranks(), cache)) as trainer:
        freeze(side, head)

        def measure(
            questions: Sequence[Example], corpus: Mapping[str, Row], right: Mapping[str, frozenset[str]]
        ) -> tuple[float, float]:
            queries = trainer.embed([Entry(Role.QUERY, example.query) for example in questions])
            documents = trainer.embed([Entry(Role.DOCUMENT, row) for row in corpus.values()])
            answers = [right.get(key, frozenset()) for key in corpus]
            names = [example.label for example in questions]
            recall, loss = hits(queries, documents, names, answers), validation_loss(queries, documents, names, answers)
            return recall[1], -loss

        before = measure(task.test, task.corpus, task.labels)[0]
        best, kept, weights = measure(held, pool, labels), 0, copy.deepcopy(side.state_dict())
        while trainer.done < settings.steps:
            trainer.step()
            due = trainer.done % settings.eval_every == 0 or trainer.done == settings.steps
            if due and (now := measure(held, pool, labels)) >= best:
                best, kept, weights = now, trainer.done, copy.deepcopy(side.state_dict())
        side.load_state_dict(weights)
        return before, measure(task.test, task.corpus, task.labels)[0], kept, settings.steps


def started(seed: int) -> Retriever:
    """The model that a run begins with."""
    return begin(_START, None, "sizes", seed)[0]


def freeze(side: nn.Module, head: str) -> None:
    """Let a run change one of the two parts alone."""
    for name, value in side.named_parameters():
        value.requires_grad_(head == "both" or (name in _MAPS) == (head == "linear head"))


def table(cache_folder: Path, sizes: Sequence[int], seeds: Sequence[int], data: Sequence[str]) -> Iterator[str]:
    yield "| data | pairs | before | recurrent cell | linear head | both | step kept, in this order |"
    yield "|---|---|---|---|---|---|---|"
    for name, alike in tasks(sizes).items():
        if name not in data:
            continue
        cache = filled(started(0), alike, cache_folder / f"{name}.safetensors")
        for task in alike:
            yield from (row(task, count, cache, seeds) for count in task.sizes)


def row(task: Task, count: int, cache: StateCache, seeds: Sequence[int]) -> str:
    results = {head: [fit(started(seed), head, task, count, cache) for seed in seeds] for head in HEADS}
    before = results[HEADS[0]][0][0]
    after = [" ".join(f"{result[1]:.3f}" for result in results[head]) for head in HEADS]
    kept = [" ".join(str(result[2]) for result in results[head]) for head in HEADS]
    steps = results[HEADS[0]][0][3]
    return f"| {task.name} | {count} | {before:.3f} | {' | '.join(after)} | {'; '.join(kept)} of {steps} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path("runs/states"), help="folder of tower states")
    parser.add_argument("--seeds", type=int, nargs="+", default=[17])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="pairs of the shop")
    parser.add_argument("--data", nargs="+", choices=("kinds", "shop"), default=("kinds", "shop"))
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    machine, began = Machine.read(), time.time()
    for line in table(arguments.cache, arguments.sizes, arguments.seeds, arguments.data):
        print(line, flush=True)
    print(f"\n{machine}; {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
