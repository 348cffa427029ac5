"""(c) Against infinity: the same weights, texts, pictures and load generator, one server after the other, round by round.

Ours twice, in float32 as infinity and in what `auto` is on this processor. infinity computes by torch: its ONNX engine
has no image model, CLIP included.
"""

from __future__ import annotations

from contextlib import ExitStack

from benchmarks import peer
from benchmarks.figures import Bar, Ratio, Row
from benchmarks.inputs import Kind, infinity_bodies, items, ret2_bodies
from benchmarks.load import Run, Target, closed_loop
from benchmarks.machine import precision
from benchmarks.plan import Plan
from benchmarks.servers import ServerFailed, start_ret2

# By precision: of texts, of images, and of p50 at one connection.
_BARS = {"float32": (Bar(1.4), Bar(1.1), Bar(1.0, most=True)), "bfloat16": (Bar(3.0), Bar(2.5), Bar(0.6, most=True))}


def measure(plan: Plan) -> list[Row]:
    try:
        peer.installed()
        with ExitStack() as servers:
            ours = {
                name: servers.enter_context(start_ret2(plan.ret2(), "--precision", name))
                for name in dict.fromkeys(("float32", precision()))
            }
            theirs = servers.enter_context(peer.start_infinity(plan.clip))
            return [row for kind in (Kind.TEXT, Kind.IMAGE) for row in _compare(plan, kind, ours, theirs)]
    except (peer.NotInstalled, ServerFailed) as error:
        return [Row("c", f"infinity {peer.VERSION}", f"not compared: {str(error).splitlines()[-1]:.200}")]


def _compare(plan: Plan, kind: Kind, ours: dict[str, str], theirs: str) -> list[Row]:
    sent = items(kind, plan.distinct)
    targets = [Target(f"{url}/encode", ret2_bodies(sent)) for url in ours.values()]
    targets.append(Target(f"{theirs}/embeddings", infinity_bodies(sent, peer.MODEL)))
    for target in targets:  # first calls pay for what is initialised late
        closed_loop(target, 4, plan.warm_up_s, 0)
    rows = []
    for connections in plan.peer_connections:
        rounds = [
            [closed_loop(target, connections, plan.seconds, plan.warm_up_s) for target in targets]
            for _ in range(plan.rounds)
        ]
        for place, name in enumerate(ours):
            pairs = [(runs[place], runs[-1]) for runs in rounds]
            rows.append(_row(kind, name, connections, pairs))
    return rows


def _row(kind: Kind, name: str, connections: int, pairs: list[tuple[Run, Run]]) -> Row:
    """At one connection the ratio is of the medians of latency, else of throughput."""
    mine, other = (sorted(runs, key=lambda one: one.rate)[len(runs) // 2] for runs in zip(*pairs, strict=True))
    one = connections == 1
    ratio = Ratio.of((a.latency_ms(50), b.latency_ms(50)) if one else (a.rate, b.rate) for a, b in pairs)
    texts, images, latency = _BARS[name]
    return Row(
        "c",
        f"{kind}, {name}, {connections} connection{'' if one else 's'}, {'p50' if one else 'throughput'}",
        _said(mine),
        f"infinity {_said(other)}",
        ratio,
        latency if one else texts if kind is Kind.TEXT else images,
    )


def _said(run: Run) -> str:
    return f"{run.rate:.1f}/s, {run.percentiles()}" + (f", {run.failed} failed" if run.failed else "")
