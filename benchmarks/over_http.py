"""(b) What of the bare model's speed is left over HTTP, one input a request, and how long a caller waits for it."""

from __future__ import annotations

from benchmarks.bare import best_batch, rate
from benchmarks.figures import Bar, Ratio, Row
from benchmarks.inputs import Kind, items, ret2_bodies
from benchmarks.load import Run, Target, closed_loop
from benchmarks.machine import precision
from benchmarks.plan import Plan
from benchmarks.servers import start_ret2
from model.retriever import Retriever

_BARS = {32: Bar(0.9)}


def measure(plan: Plan) -> list[Row]:
    folder = plan.ret2()
    retriever = Retriever.load(str(folder)).compiled(precision())
    rows = []
    with start_ret2(folder) as url:
        for kind in (Kind.TEXT, Kind.IMAGE):
            target = Target(f"{url}/encode", ret2_bodies(items(kind, plan.distinct)))
            batch = best_batch(retriever, kind, plan.seconds / 4)
            # Each round the bare model first, while the server waits, then every concurrency.
            bare: list[float] = []
            runs: dict[int, list[Run]] = {connections: [] for connections in plan.connections}
            for _ in range(plan.rounds):
                bare.append(rate(lambda batch=batch: retriever.encode(batch), len(batch), plan.seconds))  # type: ignore[misc]
                for connections in plan.connections:
                    runs[connections].append(closed_loop(target, connections, plan.seconds, plan.warm_up_s))
            rows += [_row(kind, connections, runs[connections], bare, len(batch)) for connections in plan.connections]
    return rows


def _row(kind: Kind, connections: int, runs: list[Run], bare: list[float], batch: int) -> Row:
    run = sorted(runs, key=lambda one: one.rate)[len(runs) // 2]
    failed = sum(one.failed for one in runs)
    return Row(
        "b",
        f"{kind}, {connections} connection{'s' * (connections > 1)}",
        f"{run.rate:.1f}/s, {run.percentiles()}" + (f", {failed} failed" if failed else ""),
        f"bare, batch {batch}: {sorted(bare)[len(bare) // 2]:.1f}/s",
        Ratio.of(zip((one.rate for one in runs), bare, strict=True)),
        _BARS.get(connections),
    )
