"""(e) Twice as much as it can do: how much of it is still done, how soon, and how the rest is refused.

Arrivals are an open loop: callers that do not wait for each other, as a crowd does.
"""

from __future__ import annotations

from statistics import median

from benchmarks.figures import Bar, Ratio, Row
from benchmarks.inputs import Kind, items, ret2_bodies
from benchmarks.load import Run, Target, closed_loop, open_loop
from benchmarks.plan import Plan
from benchmarks.servers import start_ret2
from service.settings import Settings

_TIMES = 2.0
_PEAK_CONNECTIONS = 64  # full batches, and yet nothing refused
_ROUNDS = 2
_MAX_FILL_S = 30.0
_GOODPUT = Bar(0.95)


def measure(plan: Plan) -> list[Row]:
    rows = []
    with start_ret2(plan.ret2()) as url:
        for kind in plan.overload_kinds:
            target = Target(f"{url}/encode", ret2_bodies(items(kind, plan.distinct)))
            pairs = [_overload(plan, target) for _ in range(min(_ROUNDS, plan.rounds))]
            rows += _rows(kind, pairs)
    return rows


def _overload(plan: Plan, target: Target) -> tuple[Run, Run]:
    """The peak, and what became of twice that, once everything that can wait is waiting."""
    peak = closed_loop(target, _PEAK_CONNECTIONS, plan.seconds, plan.warm_up_s)
    waiting: int = Settings.model_fields["max_requests_in_flight"].default
    fill_s = min(_MAX_FILL_S, plan.warm_up_s + 1.2 * waiting / peak.rate)
    return peak, open_loop(target, _TIMES * peak.rate, plan.overload_s, fill_s)


def _rows(kind: Kind, pairs: list[tuple[Run, Run]]) -> list[Row]:
    answered = [one for _, run in pairs for one in run.answered]
    statuses = {status: sum(one.status == status for one in answered) for status in {one.status for one in answered}}
    refused = statuses.pop(429, 0) / len(answered)
    others = ", ".join(
        f"{count} × {status or 'no answer'}" for status, count in sorted(statuses.items()) if status != 200
    )
    peak, goodput = (median(run.rate for run in runs) for runs in zip(*pairs, strict=True))
    p50, p95 = (median(run.latency_ms(share) for _, run in pairs) for share in (50, 95))
    idle = median(run.latency_ms(95) for run, _ in pairs)
    arrived = f"{_TIMES:g}× {peak:.1f}/s arriving"
    ratio = Ratio.of((run.rate, before.rate) for before, run in pairs)
    return [
        Row("e", f"{kind}, goodput", f"{goodput:.1f}/s", arrived, ratio, _GOODPUT),
        Row("e", f"{kind}, of the accepted", f"p50 {p50:.0f} ms, p95 {p95:.0f} ms", f"p95 at the peak {idle:.0f} ms"),
        Row("e", f"{kind}, refused with 429", f"{refused:.0%}" + (f", other answers: {others}" if others else "")),
    ]
