"""(g) Documents a second from the first post to the last one indexed, against the bare model over the same: bundled model, atlas."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.figures import Bar, Ratio, Row
from benchmarks.machine import precision
from benchmarks.plan import Plan
from benchmarks.servers import start_ret2
from model.evaluation.atlas import Atlas
from model.retriever import Retriever
from model.types import Input, Limits, Role
from service.cli.demo import atlas_documents
from service.client.client import Client

_BAR = Bar(0.9)
_BATCHES = (16, 32, 64)
_SAMPLE = 192  # documents, by which the bare model's best batch is found


def measure(plan: Plan) -> list[Row]:
    documents = atlas_documents(Atlas.read())[: plan.documents or 2_000]
    contents = [Input(one["text"], one["image"]) for one in documents]
    retriever = Retriever.load("bundled").compiled(precision())
    size = max(_BATCHES, key=lambda each: bare_rate(retriever, contents[:_SAMPLE], each))
    pairs = []
    with start_ret2("bundled") as url, Client(url) as client:
        for number in range(plan.rounds):
            bare = bare_rate(retriever, contents, size)
            pairs.append((indexing_rate(client, f"indexed-{number}", documents), bare))
    indexed, bare = (median(column) for column in zip(*pairs, strict=True))
    return [
        Row(
            "g",
            f"{len(documents):,} documents of text and picture, posted and indexed",
            f"{indexed:.1f}/s",
            f"bare, decoding counted, batch {size}: {bare:.1f}/s",
            Ratio.of(pairs),
            _BAR,
        )
    ]


def bare_rate(retriever: Retriever, contents: Sequence[Input], size: int) -> float:
    """Documents a second through decoding and the model, one batch after the other, and nothing else."""
    began = time.perf_counter()
    for start in range(0, len(contents), size):
        retriever.encode([retriever.prepare(one, Role.DOCUMENT, Limits()) for one in contents[start : start + size]])
    return len(contents) / (time.perf_counter() - began)


def indexing_rate(client: Client, name: str, documents: Sequence[Mapping[str, Any]]) -> float:
    """Documents a second into a new collection, until the last is found in it."""
    client.create_collection(name)
    began = time.perf_counter()
    loaded = client.load(name, documents)
    seconds = time.perf_counter() - began
    if loaded.indexed != len(documents):
        raise RuntimeError(f"{loaded.indexed} of {len(documents)} documents were indexed")
    client.delete_collection(name)
    return len(documents) / seconds
