"""`python -m benchmarks.everyday`: what a model is worth on data it was not made for. The table of docs/models.md.

Shop, photographs, stamps, docstrings and atlas, by each model, by words alone and by both; searched through `ModeSearch` in Qdrant
Edge, as the service does. Pictures that are not in this repository: see `benchmarks.photographs`. Embeddings take some ten minutes and
are kept in --cache FILE, which belongs to one version of the models and one precision: remove it after a change.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import shop
from benchmarks.machine import Machine
from benchmarks.photographs import photographs, stamps
from benchmarks.search_modes import MODES, Ask, Collection, Embeddings, atlas, docstrings, fill, recall
from indexer.store.edge.client import EdgeStore
from model.evaluation.atlas import Atlas
from model.evaluation.recall import Carries
from model.retriever import Retriever
from model.types import Encoded, Input, Role

MODELS = ("bundled:everyday", "bundled:atlas")
SHOWN = ("fused", "lexical", "hybrid, rrf 60", "hybrid, weight 0.3", "hybrid, weight 0.5")
_RESULTS = Path(__file__).with_name("results")


def collections(wheels: Path | None, stamps_folder: Path | None, *, with_atlas: bool) -> Iterator[Collection]:
    for two_colours in (False, True):
        items = shop.products(two_colours=two_colours)
        name = "shop, two colours in a text" if two_colours else "shop"
        yield _shop(name, items, [Input(item.text, item.image) for item in items])
        if not two_colours:
            yield _shop("shop, pictures alone", items, [Input(image=item.image) for item in items])
    if wheels:
        yield photographs(wheels)
    if stamps_folder:
        yield stamps(stamps_folder)
    yield docstrings(3)
    if with_atlas:
        yield atlas(Atlas.read(), Carries.BOTH, Carries.BOTH)


def _shop(name: str, items: Sequence[shop.Product], documents: list[Input]) -> Collection:
    asks = [
        Ask("", frozenset(item.id for item in items if (item.colour, item.kind) == (colour, kind)), Input(question))
        for question, colour, kind in shop.questions()
    ]
    return Collection(name, [item.id for item in items], documents, asks)


async def measure(chosen: Sequence[Collection], sources: Sequence[str], precision: str, cache: Path) -> list[str]:
    """Rows of the table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        store = EdgeStore(Path(folder))
        try:
            for source in sources:
                embeddings = Embeddings(Retriever.load(source).compiled(precision), source, cache)
                for number, collection in enumerate(chosen):
                    rows += await _rows(store, f"{source.partition(':')[2]}-{number}", source, collection, embeddings)
        finally:
            await store.close()
    return rows


async def _rows(store: EdgeStore, name: str, source: str, collection: Collection, embeddings: Embeddings) -> list[str]:
    documents = embeddings.of(collection.documents, Role.DOCUMENT, f"{collection.name} documents")
    asked = embeddings.of([ask.content for ask in collection.asks], Role.QUERY, f"{collection.name} asks")
    await store.create(name, documents.vectors.shape[1], language="english")
    points = store.points(name)
    await fill(points, collection, Encoded(documents.vectors))
    rows = []
    for mode in SHOWN:
        has_words = any(item.text for item in collection.documents)
        if (mode != "fused" and not has_words) or (mode == "lexical" and source != MODELS[0]):
            continue
        found = await recall(points, collection, Encoded(asked.vectors), MODES[mode])
        who = "words alone" if mode == "lexical" else f"{source}, {mode}"
        for part, (first, ten) in found.items():
            label = f"{collection.name}{', ' * bool(part)}{part}"
            rows.append(f"| {label} | {len(collection.ids)} | {who} | {first:.3f} | {ten:.3f} |")
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.everyday", description=__doc__)
    parser.add_argument("--wheels", type=Path, help="folder of the wheels that have photographs")
    parser.add_argument("--stamps", type=Path, help="folder that the package of stamps was unpacked into")
    parser.add_argument("--model", action="append", help=f"repeat for several; without: {' and '.join(MODELS)}")
    parser.add_argument("--no-atlas", action="store_true", help="leave out atlas, whose 5,402 documents take longest")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "ret2-everyday.npz")
    parser.add_argument("--write", action="store_true", help="append the table to benchmarks/results")
    arguments = parser.parse_args()
    machine = Machine.read()
    chosen = list(collections(arguments.wheels, arguments.stamps, with_atlas=not arguments.no_atlas))
    rows = asyncio.run(measure(chosen, arguments.model or MODELS, arguments.precision, arguments.cache))
    head = "| data | documents | ranked by | R@1 | R@10 |\n|---|---|---|---|---|\n"
    report = (
        f"## {machine.date}, everyday, {arguments.precision}\n\n{machine}.\n\n{head}" + "\n".join(sorted(rows)) + "\n\n"
    )
    print(report)
    if arguments.write:
        with (_RESULTS / f"{machine.date[:10]}-{machine.slug}-everyday.md").open("a") as file:
            file.write(report)


if __name__ == "__main__":
    main()
