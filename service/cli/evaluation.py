"""`ret2 eval`: how well a model retrieves.

They import torch when they run, so that other commands start without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from model.errors import Conflict, NotFound
from model.evaluation.recall import KS, Carries, Item, Recall, Search, corpus, exact_search, nine, questions, recall
from model.types import Float32, Input, Limits, Role
from service.cli.tables import progress_bar
from service.client.client import Client

if TYPE_CHECKING:
    from model.retriever import Retriever

eval_app = typer.Typer(no_args_is_help=True, help="Benchmarks: how well a model retrieves.")
ABLATIONS = Path(__file__).parents[2] / "benchmarks" / "ablations"
ABLATION_LABELS = {
    "cell": "without global features",
    "last-layer": "without them, last layer only",
    "sum": "sum of projected vectors",
}
_BATCH = 64
_CONNECTIONS = 8

Recalls = Mapping[str, Recall]  # by part of atlas


class Precision(StrEnum):
    """The precision of weights and activations, as `RET2_PRECISION`."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


@eval_app.command()
def atlas(
    model: Annotated[
        str | None,
        typer.Option(
            help="a checkpoint folder, or hub:ORG/NAME; without: bundled. With --url the name of a model "
            "that is served there; without: its default"
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="measure through /search of this server instead of in process")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="RET2_API_KEY", help="of that server; better given as variable than as flag")
    ] = None,
    ablations: Annotated[bool, typer.Option(help="also the table of ablations (in process only)")] = True,
    precision: Annotated[
        Precision, typer.Option(help="of weights and activations (in process only)")
    ] = Precision.FLOAT32,
) -> None:
    """Measure recall on the bundled benchmark: held-out (subject, question) pairs, with pictures by an artist who is
    not in the training split."""
    from model.evaluation.atlas import Atlas

    data, console = Atlas.read(), _console()
    if url:
        with Client(url, api_key=api_key) as client, progress_bar(transient=True) as progress:
            results = nine(data, lambda carries, items: _http_searcher(client, model, carries, items, progress))
        console.print(_nine_table(results, f"through {url}/search" + (f", {model}" if model else "")))
        return
    from model.evaluation.calibration import calibration_inputs
    from model.retriever import Retriever

    inputs = calibration_inputs(precision)
    with progress_bar(transient=True) as progress:
        source = model or "bundled"
        embedder = _Embedder(Retriever.load(source).compiled(precision, calibration=inputs), progress)
        title = f"{source}, in process, {precision}"
        console.print(_nine_table(nine(data, lambda _, items: embedder.searcher(items)), title))
        if not ablations:
            return
        items = corpus(data, Carries.BOTH)
        search = embedder.searcher(items)
        both = questions(data, Carries.BOTH, Carries.BOTH)
        rows = {"recurrence and global features (ours)": recall(both, items, search)}
        for name, label in ABLATION_LABELS.items():
            if not (ABLATIONS / name).exists():
                console.print(f"{label}: no checkpoint in benchmarks/ablations/{name} (ret2 train --variant {name})")
                continue
            rows[label] = recall(
                both,
                items,
                _Embedder(
                    Retriever.load(str(ABLATIONS / name)).compiled(precision, calibration=inputs), progress
                ).searcher(items),
            )
        rows["ours, question alone"] = recall(
            [replace(q, content=replace(q.content, image=None)) for q in both], items, search
        )
        rows["ours, picture alone"] = recall(
            [replace(q, content=replace(q.content, text=None)) for q in both], items, search
        )
    console.print(_ablation_table(rows))


class _Embedder:
    """A model in process as a `Search`."""

    def __init__(self, retriever: Retriever, progress: Progress) -> None:
        self._retriever, self._progress = retriever, progress

    def searcher(self, items: Sequence[Item]) -> Search:
        documents = self._embed([item.content for item in items], Role.DOCUMENT)
        return exact_search(lambda inputs: self._embed(inputs, Role.QUERY), documents, [item.id for item in items])

    def _embed(self, inputs: Sequence[Input], role: Role) -> Float32:
        """Return the embeddings (N, D). Equal inputs are embedded once: without their texts, all passages about one
        subject are the same picture."""
        places = {item: place for place, item in enumerate(dict.fromkeys(inputs))}
        distinct = list(places)
        parts = []
        for start in self._progress.track(range(0, len(distinct), _BATCH), description=f"embed {len(distinct)} {role}"):
            batch = [self._retriever.prepare(item, role, Limits()) for item in distinct[start : start + _BATCH]]
            parts.append(self._retriever.encode(batch))
        return np.concatenate(parts)[[places[item] for item in inputs]]


def _http_searcher(
    client: Client, model: str | None, carries: Carries, items: Sequence[Item], progress: Progress
) -> Search:
    """Load the corpus into a collection of its own on the server, embedded by one of its models, by default the
    first, and return a search over it."""
    model = model or client.info().default.name
    name = f"atlas-eval-{re.sub('[^a-z0-9]', '-', model.lower())[:30]}-{carries.value.replace('+', '-')}"
    task = progress.add_task(f"load {len(items)} {carries} documents", total=len(items))
    _fill(client, name, model, items, lambda done: progress.update(task, completed=done))

    def search(inputs: Sequence[Input]) -> list[list[str]]:
        def one(query: Input) -> list[str]:
            return [hit.id for hit in client.search(name, text=query.text, image=query.image, limit=max(KS)).hits]

        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            return list(progress.track(pool.map(one, inputs), total=len(inputs), description=f"search {carries}"))

    return search


def _fill(client: Client, name: str, model: str, items: Sequence[Item], on_progress: Callable[[int], None]) -> None:
    """Make the collection contain exactly these items. A collection of another model, or with other documents, is
    created anew.

    Raises `InvalidInput` if an item is not indexed, and `Conflict` if there are still other documents.
    """
    documents = [{"id": item.id, "text": item.content.text, "image": item.content.image} for item in items]
    with suppress(NotFound):
        if not client.collection(name).compatible:
            client.delete_collection(name)
    for _ in range(2):
        client.create_collection(name, model=model)
        client.load(name, documents, on_progress=on_progress).require_all()
        count = client.collection(name).documents
        if count == len(items):
            return
        client.delete_collection(name)  # it had those of an older atlas
    raise Conflict(f"{name} has {count} documents, expected {len(items)}: is another evaluation under way?")


def _nine_table(results: Mapping[tuple[Carries, Carries], Recalls], title: str) -> Table:
    table = _table(title, "query", "document")
    for (query, document), recalls in sorted(results.items()):
        table.add_row(query.value, document.value, *_cells(recalls))
    return table


def _ablation_table(rows: Mapping[str, Recalls]) -> Table:
    table = _table("text+image → text+image", "model")
    for label, recalls in rows.items():
        table.add_row(label, *_cells(recalls))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(*columns, title=title)
    for part in ("flags", "emoji"):
        for heading in (*(f"{part} R@{k}" for k in KS), "n"):
            table.add_column(heading, justify="right")
    return table


def _cells(recalls: Recalls) -> list[str]:
    return [
        cell
        for part in ("flags", "emoji")
        for cell in (*(f"{value:.3f}" for value in recalls[part].recalls), str(recalls[part].n))
    ]


def _console() -> Console:
    """Return a console that is wide enough for the tables where the width is unknown: in a file, a pipe or a CI log."""
    console = Console()
    return console if console.is_terminal else Console(width=100)
