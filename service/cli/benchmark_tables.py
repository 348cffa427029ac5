"""Tables of M2KR and M-BEIR as they are published: what was measured, beside the figures of the papers, which were
not measured here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from rich.table import Table

from model.evaluation import m2kr as m2kr_format
from model.evaluation import mbeir as mbeir_format
from model.evaluation.m2kr import M2krSet
from model.evaluation.mbeir import Task
from model.evaluation.metrics import Measured, mean

PUBLISHED = "published, not measured here"


class PoolKind(StrEnum):
    LOCAL = "local"
    GLOBAL = "global"
    BOTH = "both"


def m2kr_table(results: Mapping[M2krSet, Measured], *, partial: bool) -> Table:
    """Return a table with one row for each published column, in fractions."""
    layouts = " and ".join(dict.fromkeys(benchmark_setout_set.layout for benchmark_setout_set in results))
    table = _table(f"{layouts}, test splits", ["set", "queries", "passages", "metric"], partial=partial)
    models = (
        ()
        if partial
        else dict.fromkeys(m2kr_format.COMPARABLE[benchmark_setout_set.layout] for benchmark_setout_set in results)
    )
    _add_published(table, models)
    for benchmark_set, measured in results.items():
        for metric in m2kr_format.SETS[benchmark_set.name]:
            share = (measured.pseudo if metric.pseudo else measured.recall)[metric.k]
            published = m2kr_format.COMPARABLE[benchmark_set.layout]
            figures = [metric.published.get(model) if model == published else None for model in models]
            cells = [f"{figure:.3f}" if figure is not None else "–" for figure in figures]
            table.add_row(
                benchmark_set.name,
                f"{measured.queries:,}",
                f"{measured.candidates:,}",
                str(metric),
                f"{share:.3f}",
                *cells,
            )
    return table


def mbeir_table(kind: PoolKind, results: Mapping[Task, Measured], *, partial: bool) -> Table:
    """Return a table with one row for each task and their unweighted mean, in per cent."""
    table = _table(f"M-BEIR, {kind} pool, test split", ["task", "queries", "candidates", "metric"], partial=partial)
    models = () if partial else (mbeir_format.CLIP_SF, mbeir_format.BLIP_FF)
    _add_published(table, models)
    for task, measured in results.items():
        figures = task.local if kind is PoolKind.LOCAL else task.globally
        table.add_row(
            task.name,
            f"{measured.queries:,}",
            f"{measured.candidates:,}",
            f"R@{task.k}",
            f"{100 * measured.recall[task.k]:.1f}",
            *(f"{figures[model]:.1f}" for model in models),
        )
    if results:
        whole = len(results) == len(mbeir_format.TASKS)
        label = "mean of 16" if whole else f"mean of {len(results)} of 16 tasks"
        average = mean([measured.recall[task.k] for task, measured in results.items()])
        averages = [f"{mbeir_format.PUBLISHED_MEAN[kind][model]:.1f}" if whole else "–" for model in models]
        table.add_section()
        table.add_row(label, "", "", "", f"{100 * average:.1f}", *averages)
    return table


def _table(title: str, headings: Sequence[str], *, partial: bool) -> Table:
    table = Table(title=f"PARTIAL, not comparable: {title}" if partial else title)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in ("queries", "passages", "candidates") else "left")
    table.add_column("measured", justify="right")
    return table


def _add_published(table: Table, models: Iterable[str]) -> None:
    for model in models:
        table.add_column(f"{model}\n{PUBLISHED}", justify="right", style="dim")


def every_k(results: Mapping[str, Measured], title: str) -> Table:
    ks = sorted({k for measured in results.values() for k in measured.recall})
    table = Table("", *(f"@{k}" for k in ks), title=title)
    for name, measured in results.items():
        for label, shares in ((f"{name} R", measured.recall), (f"{name} PR", measured.pseudo)):
            if shares:
                table.add_row(label, *(f"{shares[k]:.3f}" if k in shares else "" for k in ks))
    return table
