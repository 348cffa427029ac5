"""(a) This encoder against the v1 way, in one process and on the same prepared inputs: what each batch of twenty costs.

All in torch, so that only the work differs.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from benchmarks.bare import prepared
from benchmarks.checkpoints import RET2, V1
from benchmarks.figures import Bar, Ratio, Row
from benchmarks.inputs import Kind, items, mixed
from benchmarks.plan import Plan
from benchmarks.v1_way import V1Way
from model.retriever import Retriever
from model.types import Float32, Input

_BATCH = 20
_MIX = "70/15/15 mix"
_BARS = {Kind.TEXT.value: Bar(8), _MIX: Bar(2.5)}


def measure(plan: Plan) -> list[Row]:
    """Two rows for each kind of input: the v1 settings in both, and the settings of ReT-2 in ours."""
    v1_way = V1Way(plan.ret2(V1))
    same, ours = (Retriever.load(str(plan.ret2(fusion))) for fusion in (V1, RET2))
    rows = []
    for name, batch in batches().items():
        ready = prepared(same, batch)  # the preprocessing is the same for all three
        ways: list[Callable[[], Float32]] = [
            lambda ready=ready: v1_way.encode(ready),  # type: ignore[misc]
            lambda ready=ready: same.encode(ready),  # type: ignore[misc]
            lambda ready=ready: ours.encode(ready),  # type: ignore[misc]
        ]
        theirs, mine, _ = (way() for way in ways)
        difference = float(np.abs(theirs - mine).max())
        times = [[_seconds(way) for way in ways] for _ in range(plan.rounds)]
        rates = [_BATCH / float(np.median(column)) for column in zip(*times, strict=True)]
        against = f"v1 way {rates[0]:.2f}/s"
        rows += [
            Row(
                "a", f"{name}: ReT-2's 3 steps, 1 latent", f"{rates[2]:.2f}/s", against,
                Ratio.of((slow, fast) for slow, _, fast in times), _BARS.get(name),
            ),
            Row(
                "a", f"{name}: v1's 12 steps, 32 latents", f"{rates[1]:.2f}/s", f"{against}, vectors differ by {difference:.0e}",
                Ratio.of((slow, fast) for slow, fast, _ in times),
            ),
        ]  # fmt: skip
    return rows


def batches() -> dict[str, list[Input]]:
    """A batch of each kind and of the mix: 70 % text, 15 % image, 15 % both."""
    return {**{kind.value: items(kind, _BATCH) for kind in Kind}, _MIX: mixed(14, 3, 3)}


def _seconds(way: Callable[[], object]) -> float:
    began = time.perf_counter()
    way()
    return time.perf_counter() - began
