"""(c) Against infinity: the same weights, texts, pictures and load generator, one server after the other, round by round."""

from __future__ import annotations

from benchmarks import peer
from benchmarks.figures import Bar, Ratio, Row
from benchmarks.inputs import Kind, infinity_bodies, items, ret2_bodies
from benchmarks.load import Run, Target, closed_loop
from benchmarks.plan import Plan
from benchmarks.servers import ServerFailed, start_ret2

_THROUGHPUT = {Kind.TEXT: Bar(1.4), Kind.IMAGE: Bar(1.3)}
_LATENCY = Bar(1.0, most=True)  # at one connection it is p50 that counts


def measure(plan: Plan) -> list[Row]:
    try:
        peer.installed()
        with start_ret2(plan.ret2()) as ours, peer.start_infinity(plan.clip) as theirs:
            return [row for kind in _THROUGHPUT for row in _compare(plan, kind, ours, theirs)]
    except (peer.NotInstalled, ServerFailed) as error:
        return [Row("c", f"infinity {peer.VERSION}", f"not compared: {str(error).splitlines()[-1]:.200}")]


def _compare(plan: Plan, kind: Kind, ours: str, theirs: str) -> list[Row]:
    sent = items(kind, plan.distinct)
    targets = (
        Target(f"{ours}/encode", ret2_bodies(sent)),
        Target(f"{theirs}/embeddings", infinity_bodies(sent, peer.MODEL)),
    )
    for target in targets:  # first calls pay for what is initialised late
        closed_loop(target, 4, plan.warm_up_s, 0)
    rows = []
    for connections in plan.peer_connections:
        pairs = [
            (
                closed_loop(targets[0], connections, plan.seconds, plan.warm_up_s),
                closed_loop(targets[1], connections, plan.seconds, plan.warm_up_s),
            )
            for _ in range(plan.rounds)
        ]
        rows.append(_row(kind, connections, pairs))
    return rows


def _row(kind: Kind, connections: int, pairs: list[tuple[Run, Run]]) -> Row:
    """At one connection the ratio is of the medians of latency, else of throughput."""
    mine, other = (sorted(runs, key=lambda one: one.rate)[len(runs) // 2] for runs in zip(*pairs, strict=True))
    one = connections == 1
    ratio = Ratio.of((a.latency_ms(50), b.latency_ms(50)) if one else (a.rate, b.rate) for a, b in pairs)
    return Row(
        "c",
        f"{kind}, {connections} connection{'' if one else 's'}, {'p50' if one else 'throughput'}",
        _said(mine),
        f"infinity {_said(other)}",
        ratio,
        _LATENCY if one else _THROUGHPUT[kind],
    )


def _said(run: Run) -> str:
    return f"{run.rate:.1f}/s, {run.percentiles()}" + (f", {run.failed} failed" if run.failed else "")
