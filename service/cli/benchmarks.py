"""`ret2 eval m2kr` and `ret2 eval mbeir`: published benchmarks in their published formats, measured in process and
exactly.

They import torch when they run, so that other commands start without it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import (
    TaskID,
)
from rich.text import Text

from model.errors import InvalidInput
from model.evaluation import m2kr as m2kr_format
from model.evaluation import mbeir as mbeir_format
from model.evaluation.benchmark_files import Entries, Query, first
from model.evaluation.m2kr import M2krSet
from model.evaluation.mbeir import Prompts, Task, TaskFiles
from model.evaluation.metrics import Measured, pseudo_recall_at, recall_at
from model.types import Role
from service.cli.benchmark_tables import PoolKind, every_k, m2kr_table, mbeir_table
from service.cli.tables import progress_bar

if TYPE_CHECKING:
    from model.evaluation.corpus_vectors import Corpus, Embedded, Embedder

Folder = Annotated[Path, typer.Argument(help="the benchmark as it was downloaded")]
Model = Annotated[str, typer.Option(help="bundled, a checkpoint folder, or hub:ORG/NAME@COMMIT")]
Datasets = Annotated[
    str | None, typer.Option(help="some of them, comma-separated; without: all that are in the folder")
]
Images = Annotated[
    Path | None, typer.Option(help="folder that image paths start from; without: FOLDER and its usual places")
]
Ks = Annotated[
    list[int] | None, typer.Option("--k", min=1, help="repeat for several; the published K are always there")
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="a quick look: so many queries and candidates of each; NOT comparable")
]
Batch = Annotated[int, typer.Option(min=1, help="inputs in one forward")]
Cache = Annotated[
    Path | None,
    typer.Option(help="folder for embeddings (float16 files), so that a broken-off run goes on; without: memory"),
]
Strict = Annotated[bool, typer.Option("--strict", help="end at the first image that is missing or broken")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda; without: cuda where there is one")]


class PromptChoice(StrEnum):
    RANDOM = "random"
    FIRST = "first"
    NONE = "none"


def m2kr(
    folder: Folder,
    model: Model = "bundled",
    datasets: Datasets = None,
    images: Images = None,
    ks: Ks = None,
    limit: Limit = None,
    batch: Batch = 64,
    cache: Cache = None,
    strict: Strict = False,
    device: Device = None,
) -> None:
    """Measure Recall@K and Pseudo-Recall@K on M2KR or ReT-M2KR (test splits), each set over its own passages."""
    sets = m2kr_format.find(folder)
    chosen = _chosen("datasets", datasets, m2kr_format.SETS, [benchmark_set.name for benchmark_set in sets])
    sets = [benchmark_set for benchmark_set in sets if benchmark_set.name in chosen]
    for benchmark_set in sets:  # a wrong row in the last must not end hours of the others
        deque(chain(benchmark_set.queries(), benchmark_set.passages()), maxlen=0)
    console = Console()
    with _Run(console, model, _roots(folder, images), batch=batch, cache=cache, strict=strict, device=device) as run:
        results = {
            benchmark_set: _measure_set(run, benchmark_set, ks or m2kr_format.KS, limit) for benchmark_set in sets
        }
    console.print(m2kr_table(results, partial=limit is not None))
    console.print(
        every_k({benchmark_set.name: measured for benchmark_set, measured in results.items()}, "M2KR, every K")
    )
    _print_notes(
        console,
        run,
        limit,
        {benchmark_set.name: measured for benchmark_set, measured in results.items()},
        m2kr_format.SOURCE,
    )


def mbeir(
    folder: Folder,
    model: Model = "bundled",
    datasets: Datasets = None,
    tasks: Annotated[
        str | None, typer.Option(help="task ids of M-BEIR, comma-separated: 0 t→i, 1 t→t, …, 8 it→it")
    ] = None,
    pool: Annotated[PoolKind, typer.Option(help="each task's own pool, the union of all, or both")] = PoolKind.LOCAL,
    prompt: Annotated[
        PromptChoice, typer.Option(help="which of a task's instructions a query gets; random repeats from run to run")
    ] = PromptChoice.RANDOM,
    instructions: Annotated[Path | None, typer.Option(help="table of instructions; without: the one in FOLDER")] = None,
    images: Images = None,
    ks: Ks = None,
    limit: Limit = None,
    batch: Batch = 64,
    cache: Cache = None,
    strict: Strict = False,
    device: Device = None,
) -> None:
    """Measure Recall@K on the sixteen tasks of M-BEIR (test split), over local pools, the global pool, or both."""
    task_list = mbeir_format.find(folder)
    names = _chosen("datasets", datasets, mbeir_format.DATASETS, [entry.task.dataset for entry in task_list])
    numbers = _chosen(
        "tasks", tasks, [str(n) for n in mbeir_format.MODALITIES], [str(entry.task.number) for entry in task_list]
    )
    task_list = [
        task_files
        for task_files in task_list
        if task_files.task.dataset in names and str(task_files.task.number) in numbers
    ]
    if not task_list:
        raise InvalidInput(f"no task of {datasets} is one of {tasks}")
    prompts = _prompts(folder, instructions, prompt)
    queries = {entry: list(islice(entry.queries(prompts, prompt.value), limit)) for entry in task_list}
    union, lacking = mbeir_format.global_pool(folder)
    _check_pools(pool, task_list, union)
    kinds = [PoolKind.LOCAL, PoolKind.GLOBAL] if pool is PoolKind.BOTH else [pool]
    console = Console()
    with _Run(console, model, _roots(folder, images), batch=batch, cache=cache, strict=strict, device=device) as run:
        measure = _MbeirRun(run, queries, ks or mbeir_format.KS, limit, hold=pool is not PoolKind.LOCAL)
        results = {kind: measure.local() if kind is PoolKind.LOCAL else measure.union(union) for kind in kinds}
    everything: dict[str, Measured] = {}
    for kind, by_task in results.items():
        partial_pool = kind is PoolKind.GLOBAL and bool(lacking)
        named = {f"{task.name}, {kind}": measured for task, measured in by_task.items()}
        everything |= named
        console.print(mbeir_table(kind, by_task, partial=limit is not None or partial_pool))
        console.print(every_k(named, f"M-BEIR, {kind} pool, every K"))
        if partial_pool:
            console.print(f"PARTIAL: the global pool lacks the local pools of {', '.join(lacking)}", style="bold red")
    _print_notes(console, run, limit, everything, mbeir_format.SOURCE)


class _Run:
    """The model, the progress bar, and what went wrong with images: one per command."""

    def __init__(
        self,
        console: Console,
        model: str,
        roots: Sequence[Path],
        *,
        batch: int,
        cache: Path | None,
        strict: bool,
        device: str | None,
    ) -> None:
        from model.evaluation.corpus_vectors import Embedder, default_device
        from model.retriever import Retriever

        self.device = device or default_device()
        self.faults: dict[str, tuple[int, int, list[str]]] = {}  # by what was embedded: images, empty, examples
        self._bar = progress_bar(console=console, transient=True)
        self._tasks: dict[str, TaskID] = {}
        retriever = Retriever.load(model, device=self.device).compiled()
        self._embedder: Embedder = Embedder(
            retriever, roots, batch=batch, cache=cache, strict=strict, report=self.report
        )

    def __enter__(self) -> _Run:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def report(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bar.add_task(stage, total=total)
        self._bar.update(self._tasks[stage], completed=done, total=total)

    def embed(self, entries: Entries, role: Role, label: str) -> Embedded:
        embedded = self._embedder.embed(entries, role, label)
        faults = embedded.faults
        if faults.images or faults.empty:
            self.faults[label] = (faults.images, faults.empty, faults.examples)
        return embedded

    def rank(self, queries: Embedded, corpus: Corpus, k: int, label: str) -> list[list[int]]:
        report = partial(self._searched, label)
        return corpus.best(np.asarray(queries.vectors, np.float32), k, device=self.device, report=report)

    def _searched(self, label: str, _stage: str, done: int, total: int) -> None:
        self.report(f"search {label}", done, total)


def _measure_set(run: _Run, benchmark_set: M2krSet, cutoffs: Sequence[int], limit: int | None) -> Measured:
    from model.evaluation.corpus_vectors import Corpus

    metrics = m2kr_format.SETS[benchmark_set.name]
    ks = sorted({*cutoffs, *(metric.k for metric in metrics)})
    queries = list(islice(benchmark_set.queries(), limit))
    passages = _limited(benchmark_set.passages, queries, limit)
    corpus = Corpus([run.embed(passages, Role.DOCUMENT, f"{benchmark_set.name} passages")])
    embedded = run.embed(lambda: iter(queries), Role.QUERY, f"{benchmark_set.name} queries")
    ranked = run.rank(embedded, corpus, ks[-1], benchmark_set.name)
    pseudo: Mapping[int, float] = {}
    if any(metric.pseudo for metric in metrics):
        needed = {place for row in ranked for place in row}
        texts = {place: entry.text or "" for place, entry in enumerate(passages()) if place in needed}
        rankings = [[texts[place] for place in row] for row in ranked]
        pseudo = dict(zip(ks, pseudo_recall_at(rankings, [query.answers for query in queries], ks), strict=True))
    return _measured(queries, corpus, ranked, ks, pseudo)


class _MbeirRun:
    """Measures task after task. Every row of every query file is read before anything is encoded.

    Candidates are embedded once: the global pool is made of the local ones, which are held only where it is asked for.
    """

    def __init__(
        self, run: _Run, queries: Mapping[TaskFiles, list[Query]], ks: Sequence[int], limit: int | None, *, hold: bool
    ) -> None:
        self._run, self._queries, self._ks, self._limit, self._hold = run, queries, ks, limit, hold
        self._embedded: dict[Path, Embedded] = {}

    def local(self) -> dict[Task, Measured]:
        from model.evaluation.corpus_vectors import Corpus

        return {
            files.task: self._measure(files, Corpus([self._pool(files.pool_file)]))
            for files in self._queries
            if files.pool_file  # each has one: _check_pools
        }

    def union(self, pools: Sequence[Path]) -> dict[Task, Measured]:
        from model.evaluation.corpus_vectors import Corpus

        corpus = Corpus([self._pool(pool) for pool in pools])
        return {files.task: self._measure(files, corpus) for files in self._queries}

    def _measure(self, files: TaskFiles, corpus: Corpus) -> Measured:
        queries, task = self._queries[files], files.task
        ks = sorted({*self._ks, task.k})
        embedded = self._once(files.query_file, lambda: iter(queries), Role.QUERY, f"{task.key} queries")
        return _measured(queries, corpus, self._run.rank(embedded, corpus, ks[-1], task.key), ks, {})

    def _pool(self, file: Path) -> Embedded:
        everyone = [query for queries in self._queries.values() for query in queries]
        entries = _limited(lambda: mbeir_format.candidates(file), everyone, self._limit)
        return self._once(file, entries, Role.DOCUMENT, file.stem)

    def _once(self, file: Path, entries: Entries, role: Role, label: str) -> Embedded:
        if candidates := self._embedded.get(file):
            return candidates
        embedded = self._run.embed(entries, role, label)
        if self._hold:
            self._embedded[file] = embedded
        return embedded


def _check_pools(pool: PoolKind, tasks: Sequence[TaskFiles], union: Sequence[Path]) -> None:
    without = [entry.task.key for entry in tasks if entry.pool_file is None]
    if pool is not PoolKind.GLOBAL and without:
        raise InvalidInput(
            f"no local pool mbeir_{without[0]}_cand_pool.jsonl (--pool global, or other --datasets or --tasks)"
        )
    if pool is not PoolKind.LOCAL and not union:
        raise InvalidInput("the folder has no pool: neither mbeir_DS_taskK_cand_pool.jsonl nor a union of them")


def _limited(entries: Entries, queries: Iterable[Query], limit: int | None) -> Entries:
    if limit is None:
        return entries
    return first(limit, entries, frozenset(document_id for query in queries for document_id in query.positives))


def _measured(
    queries: Sequence[Query],
    corpus: Corpus,
    ranked: Sequence[Sequence[int]],
    ks: Sequence[int],
    pseudo: Mapping[int, float],
) -> Measured:
    ids = [[corpus.ids[place] for place in row] for row in ranked]
    positives = [query.positives for query in queries]
    positive_ids = frozenset().union(*positives)
    present = {document_id for document_id in corpus.ids if document_id in positive_ids}
    recall = dict(zip(ks, recall_at(ids, positives, ks), strict=True))
    return Measured(len(queries), len(corpus), recall, pseudo, sum(present.isdisjoint(right) for right in positives))


def _chosen(option: str, value: str | None, all_names: Iterable[str], present: Iterable[str]) -> set[str]:
    """Return what to measure: everything present, or the requested names, which must be known and present."""
    all_names, present = list(all_names), set(present)
    if value is None:
        return present
    names = {name.strip().lower() for name in value.split(",") if name.strip()}
    if unknown := sorted(names - set(all_names)):
        raise InvalidInput(
            f"--{option} has {unknown[0]!r}, known are {', '.join(all_names)}", field=option, value=value
        )
    if absent := sorted(names - present):
        raise InvalidInput(
            f"--{option} has {absent[0]!r}, which is not in the folder; it has {', '.join(sorted(present))}"
        )
    return names


def _roots(folder: Path, images: Path | None) -> list[Path]:
    """Return the folders to which image paths may be relative; M2KR uses `images/m2kr/images` for the training files of
    ReT-M2KR."""
    return [images] if images else [folder, folder / "images", folder / "images/m2kr/images"]


def _prompts(folder: Path, file: Path | None, choice: PromptChoice) -> Prompts:
    if choice is PromptChoice.NONE:
        return {}
    if table := file or mbeir_format.instructions_file(folder):
        return mbeir_format.instructions(table)
    raise InvalidInput(
        f"{folder} has no table of instructions (*instruction*.tsv): --instructions FILE, or --prompt none"
    )


def _print_notes(console: Console, run: _Run, limit: int | None, results: Mapping[str, Measured], source: str) -> None:
    if limit is not None:
        console.print(
            f"PARTIAL: the first {limit} queries, against the first {limit} candidates and the right ones. Such a pool "
            "is "
            "easier than the whole one; nothing here compares with a published figure.",
            style="bold red",
        )
    for name, measured in results.items():
        if measured.unanswerable:
            console.print(
                f"{name}: {measured.unanswerable} queries have no right candidate in the pool; counted as misses"
            )
    for label, (images, empty, fault_lines) in run.faults.items():
        console.print(
            f"{label}: {images} images missing or broken, embedded without; {empty} entries had nothing left and were "
            "not found"
        )
        for line in fault_lines:
            console.print(Text(f"  {line}"), style="dim")  # a path is not markup
    console.print("Measured: one vector per input, searched exactly.")
    if limit is None:
        console.print(Text(f"Published, not measured here: {source}"))
