"""A step's batch: what is embedded, and which document answers which query. It depends on the pairs, the settings and
the number of the step alone."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from model.training.objective import draw_kept, drop_modality
from model.training.pairs import Example, Row
from model.types import Role


class Entry(NamedTuple):
    """One input to embed."""

    role: Role
    row: Row

    @property
    def kind(self) -> tuple[str, bool, bool]:
        """Entries that go through the model together."""
        return self.role.value, self.row[1] is not None, self.row[0] is not None


@dataclass(frozen=True, slots=True)
class Batch:
    """N entries, each embedded once; B queries and M documents as places among them: the queries' own, then hard
    negatives.

    `ignored` pairs are neither right nor wrong: they take no part in the loss.
    """

    entries: list[Entry]
    queries: Tensor  # (B,)
    documents: Tensor  # (M,) the first B answer the queries
    targets: Tensor  # (B, M) rows sum to 1
    document_targets: Tensor  # (B, B) rows sum to 1
    ignored: Tensor | None = None  # (B, M)


class Order:
    """The pairs of each step: epoch after epoch, each shuffled by the seed and its number."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self._count, self._batch, self._seed = count, batch_size, seed
        self._epoch, self._shuffled = -1, list[int]()

    def places(self, step: int) -> list[int]:
        return [self._place(number) for number in range(step * self._batch, (step + 1) * self._batch)]

    def _place(self, number: int) -> int:
        epoch, place = divmod(number, self._count)
        if epoch != self._epoch:
            rng = random.Random(f"{self._seed}/epoch {epoch}")
            self._epoch, self._shuffled = epoch, rng.sample(range(self._count), self._count)
        return self._shuffled[place]


def draw(
    examples: Sequence[Example],
    labels: Mapping[str, Collection[str]],
    *,
    negatives: int,
    keep_both: float,
    rng: random.Random,
) -> Batch:
    """Return a batch of pairs, each with up to `negatives` of its hard negatives. Rows of text and image may lose one
    of them, by `keep_both`.

    A hard negative that is another pair's own document stands in the batch only once.
    """
    own = {example.key for example in examples}
    drawn = {
        key: row
        for example in examples
        for key, row in rng.sample(example.negatives, min(negatives, len(example.negatives)))
        if key not in own
    }
    queries = _entries(Role.QUERY, [example.query for example in examples], keep_both, rng)
    documents = _entries(Role.DOCUMENT, [*(example.document for example in examples), *drawn.values()], keep_both, rng)
    keys = [*(example.key for example in examples), *drawn]
    return assemble(queries, documents, relevance([example.label for example in examples], keys, labels))


def assemble(
    queries: Sequence[Entry], documents: Sequence[Entry], right: Tensor, ignored: Tensor | None = None
) -> Batch:
    """Return the batch of B queries and M documents, of which the first B are the queries' own; `right` (B, M) is 1
    where a document answers a query."""
    # By kind, so that entries of one kind share chunks.
    entries = sorted(dict.fromkeys([*queries, *documents]), key=lambda entry: entry.kind)
    places = {entry: place for place, entry in enumerate(entries)}
    backward = right[:, : len(queries)].T  # (B, B)
    return Batch(
        entries,
        torch.tensor([places[entry] for entry in queries]),
        torch.tensor([places[entry] for entry in documents]),
        right / right.sum(1, keepdim=True),
        backward / backward.sum(1, keepdim=True),
        ignored,
    )


def relevance(query_labels: Sequence[str], keys: Sequence[str], labels: Mapping[str, Collection[str]]) -> Tensor:
    """Return (B, M): 1 where a document has the label that a query asks for, whichever pair it belongs to."""
    answers = {label: place for place, label in enumerate(dict.fromkeys(query_labels))}
    has = torch.zeros(len(answers), len(keys))
    for column, key in enumerate(keys):
        for label in labels.get(key, ()):
            if label in answers:
                has[answers[label], column] = 1.0
    return has[[answers[label] for label in query_labels]]


def _entries(role: Role, rows: Sequence[Row], keep_both: float, rng: random.Random) -> list[Entry]:
    return [
        Entry(role, (text, image) if text is None or image is None else drop_modality(text, text, image, parts))
        for (text, image), parts in zip(rows, draw_kept(len(rows), keep_both, rng), strict=True)
    ]
