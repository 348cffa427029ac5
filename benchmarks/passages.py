"""What cutting long documents into passages finds and costs, against one embedding of each document's beginning.

    python -m benchmarks.passages [--scan 100000]

docstrings  the 39 modules of Python's standard library with the longest docstrings, each one document; the first
            sentence of a docstring asks for its module, which has the others. Model: everyday.
atlas       the shape of M2KR: a document is an article, here all passages about one flag with its drawing; a query is
            a question with another artist's drawing. Model: atlas.

Recall is computed by NumPy, as the stores rank: a document by the best cosine of its parts. `--scan` measures Edge.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import qdrant_edge as qe

from benchmarks.search_modes import Ask, _docstrings, atlas
from indexer.store.base import Layout
from indexer.store.edge.ranking import vector_params
from model.evaluation.atlas import Atlas
from model.evaluation.recall import Carries
from model.passages import Cut
from model.retriever import Retriever
from model.types import Float32, Input, Limits, Role

_MODULES, _ASKS = 39, 12
_BATCH = 32


def modules() -> tuple[dict[str, Input], list[Ask]]:
    """Return the longest modules as documents, and up to twelve questions for each."""
    texts: dict[str, list[str]] = defaultdict(list)
    asks: dict[str, list[Ask]] = defaultdict(list)
    for name, first, others in _docstrings():
        module = name.partition(".")[0]
        texts[module].append(others)
        asks[module].append(Ask("", frozenset([module]), Input(first)))
    longest = sorted(texts, key=lambda module: -sum(map(len, texts[module])))[:_MODULES]
    documents = {module: Input("\n\n".join(texts[module])[:100_000]) for module in longest}
    return documents, [ask for module in longest for ask in asks[module][:: max(1, len(asks[module]) // _ASKS)][:_ASKS]]


def articles(data: Atlas) -> tuple[dict[str, Input], list[Ask]]:
    """Return the passages of each flag as one article with one picture, and the questions for it."""
    collection = atlas(data, Carries.BOTH, Carries.BOTH)
    texts: dict[str, list[str]] = defaultdict(list)
    images: dict[str, bytes | None] = {}
    for name, document in zip(collection.ids, collection.documents, strict=True):
        subject = name.partition("/")[0]
        texts[subject].append(document.text or "")
        images.setdefault(subject, document.image)
    asks = [
        Ask(ask.part, frozenset(name.partition("/")[0] for name in ask.right), ask.content)
        for ask in collection.asks
        if all(name.startswith("flag") for name in ask.right)
    ]
    documents = {name: Input(" ".join(texts[name]), images[name]) for name in texts if name.startswith("flag")}
    return documents, asks


def embed(retriever: Retriever, inputs: Sequence[Input], role: Role) -> Float32:
    rows = []
    for start in range(0, len(inputs), _BATCH):
        batch = [retriever.prepare(item, role, Limits()) for item in inputs[start : start + _BATCH]]
        rows.append(retriever.launch(batch)().vectors)
    return np.concatenate(rows)


def parts_of(retriever: Retriever, document: Input, cut: Cut | None) -> list[Input]:
    if cut is None:
        return [document]
    spans = retriever.passages(document.text or "", cut, Limits()).spans
    return [Input((document.text or "")[start:end], document.image) for start, end in spans]


def compare(name: str, retriever: Retriever, documents: dict[str, Input], asks: Sequence[Ask]) -> None:
    queries = embed(retriever, [ask.content for ask in asks], Role.QUERY)
    names = list(documents)
    print(f"{name}: {len(documents)} documents, {len(asks)} questions")
    for label, cut in {
        "one embedding, of the beginning": None,
        "passages": Cut(),
        "passages, 16 tokens repeated": Cut(overlap=16),
        "passages of 64 tokens": Cut(tokens=64),
    }.items():
        began = time.perf_counter()
        parts = [parts_of(retriever, document, cut) for document in documents.values()]
        cut_s = time.perf_counter() - began
        vectors = embed(retriever, [part for several in parts for part in several], Role.DOCUMENT)
        took_s = time.perf_counter() - began
        owners = np.repeat(np.arange(len(parts)), [len(several) for several in parts])
        scores = np.full((len(queries), len(parts)), -2.0, np.float32)
        for owner in range(len(parts)):
            scores[:, owner] = (queries @ vectors[owners == owner].T).max(axis=1)
        ranks = []
        for row, ask in zip(scores, asks, strict=True):
            right = [names.index(name) for name in ask.right]
            ranks.append(int((row > row[right].max()).sum()))
        at = {k: statistics.mean(rank < k for rank in ranks) for k in (1, 5)}
        print(
            f"  {label:32} parts {len(owners):5}  R@1 {at[1]:.3f}  R@5 {at[5]:.3f}  "
            f"cut {cut_s:.2f} s, all {took_s:.1f} s",
            flush=True,
        )


def scan(documents: int, dimensions: int = 256) -> None:
    """Measure exact searches for ten hits in Edge: vectors of points of one part, and of several."""
    for label, parts, layout in (
        ("one vector a document, as before", 1, Layout(dimensions)),
        ("one part a document", 1, Layout(dimensions, parts=True)),
        ("a tenth has 20 parts", 20, Layout(dimensions, parts=True)),
    ):
        with tempfile.TemporaryDirectory() as folder:
            shard = qe.EdgeShard.create(str(Path(folder)), qe.EdgeConfig(**vector_params(layout)))
            random = np.random.default_rng(0)
            for start in range(0, documents, 500):
                points = []
                for number in range(start, start + 500):
                    rows = random.standard_normal((parts if number % 10 == 0 else 1, dimensions)).astype(np.float32)
                    points.append(qe.Point(number, (rows if layout.parts else rows[0]).tolist(), {}))
                shard.update(qe.UpdateOperation.upsert_points(points))
            shard.flush()
            times = []
            for _ in range(40):
                query = random.standard_normal(dimensions).astype(np.float32).tolist()
                nearest = qe.Query.Nearest([query] if layout.parts else query)
                began = time.perf_counter()
                shard.query(qe.QueryRequest(limit=10, query=nearest))
                times.append((time.perf_counter() - began) * 1e3)
            median, p95 = np.percentile(times, [50, 95])
            print(f"{documents:,} x {dimensions}, {label}: p50 {median:.1f} ms, p95 {p95:.1f} ms", flush=True)
            shard.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=int, default=0, help="measure Edge with so many documents instead")
    arguments = parser.parse_args()
    if arguments.scan:
        scan(arguments.scan)
        return
    compare("docstrings", Retriever.load("bundled:everyday"), *modules())
    compare("atlas", Retriever.load("bundled:atlas"), *articles(Atlas.read()))


if __name__ == "__main__":
    main()
