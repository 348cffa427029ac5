"""Recall on atlas: nine combinations of what query and document carry, and what each part of the model is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from model.evaluation.atlas import PARTS, Atlas, AtlasDocument, AtlasQuery
from model.types import Float32, Input

KS = (1, 5, 10)


class Carries(StrEnum):
    """The modalities of a query or a document."""

    TEXT = "text"
    IMAGE = "image"
    BOTH = "text+image"


@dataclass(frozen=True, slots=True)
class Item:
    """One document of a corpus: its id, what it is about, and what is embedded."""

    id: str
    subject: str
    content: Input


@dataclass(frozen=True, slots=True)
class Question:
    """One query and the documents that are right: `positive` alone, or any of the subject where it is None."""

    part: str
    subject: str
    positive: str | None
    content: Input


@dataclass(frozen=True, slots=True)
class Recall:
    """Share of questions with a right document among the first k, for each k of `KS`; `n` questions."""

    n: int
    recalls: tuple[float, ...]


# Ids of the best documents, best first, at least max(KS) of them, for each question.
Search = Callable[[Sequence[Input]], Sequence[Sequence[str]]]


def corpus(atlas: Atlas, carries: Carries) -> list[Item]:
    """Return every document of both parts. Where documents are pictures alone, each picture occurs once."""
    items: dict[str, Item] = {}
    for document in atlas.documents:
        key = document.image_id if carries is Carries.IMAGE else document.id
        items.setdefault(key, Item(document.id, document.subject, _document_input(atlas, document, carries)))
    return list(items.values())


def questions(
    atlas: Atlas, query: Carries, document: Carries, *, split: str = "heldout", named: bool = True
) -> list[Question]:
    """Return the test questions of one combination: held-out (subject, topic) pairs with pictures by an artist who is
    not in the training split.

    A query without a picture names its subject (`named`), because it would have no answer otherwise. A query or
    document that is a picture alone can only mean the subject, so any document of the subject is right; such queries
    are asked once for each subject.
    """
    questions_by_key: dict[str, Question] = {}
    for row in atlas.queries:
        if row.split != split:
            continue
        exact = query is not Carries.IMAGE and document is not Carries.IMAGE
        key = row.subject if query is Carries.IMAGE else row.id
        content = _query_input(atlas, row, query, named=named)
        questions_by_key.setdefault(key, Question(row.part, row.subject, row.positive_id if exact else None, content))
    return list(questions_by_key.values())


def recall(questions: Sequence[Question], items: Sequence[Item], search: Search) -> dict[str, Recall]:
    """Return the recall on each part of atlas."""
    subject_of = {item.id: item.subject for item in items}
    rankings = search([question.content for question in questions])
    results = {}
    for part in PARTS:
        hits = [
            [_right(question, subject_of, ids[:k]) for k in KS]
            for question, ids in zip(questions, rankings, strict=True)
            if question.part == part
        ]
        if hits:
            results[part] = Recall(len(hits), tuple(np.mean(hits, axis=0).tolist()))
    return results


def _right(question: Question, subject_of: Mapping[str, str], ids: Sequence[str]) -> bool:
    if question.positive is not None:
        return question.positive in ids
    return any(subject_of.get(identifier) == question.subject for identifier in ids)


def nine(
    atlas: Atlas, searcher: Callable[[Carries, list[Item]], Search]
) -> dict[tuple[Carries, Carries], dict[str, Recall]]:
    """Return the recall by (query, document) combination. `searcher` makes a corpus searchable, in process or over
    HTTP."""
    results = {}
    for document in Carries:
        items = corpus(atlas, document)
        search = searcher(document, items)
        for query in Carries:
            results[query, document] = recall(questions(atlas, query, document), items, search)
    return results


def exact_search(embed: Callable[[Sequence[Input]], Float32], documents: Float32, ids: Sequence[str]) -> Search:
    """Return an exhaustive search in memory over documents (N, E). Equal scores keep the order of the documents."""

    def search(inputs: Sequence[Input]) -> list[list[str]]:
        scores = embed(inputs) @ documents.T  # (Q, N)
        best = np.argsort(-scores, axis=1, kind="stable")[:, : max(KS)]
        return [[ids[place] for place in row] for row in best]

    return search


def _document_input(atlas: Atlas, document: AtlasDocument, carries: Carries) -> Input:
    return Input(
        text=None if carries is Carries.IMAGE else document.text,
        image=None if carries is Carries.TEXT else atlas.images[document.image_id],
    )


def _query_input(atlas: Atlas, row: AtlasQuery, carries: Carries, *, named: bool) -> Input:
    if carries is Carries.TEXT:
        return Input(text=row.question_named if named else row.question)
    image = atlas.images[row.heldout_image_id]
    return Input(text=None if carries is Carries.IMAGE else row.question, image=image)
