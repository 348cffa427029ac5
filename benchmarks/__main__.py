"""`python -m benchmarks [a b c …] [--quick | --smoke]`: the sections, the one table, and its file under benchmarks/results."""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks import against_peer, against_v1, indexing, matmul_share, over_http, overload, search_under_load
from benchmarks.figures import Row, markdown
from benchmarks.machine import Machine, load_average
from benchmarks.plan import FULL, QUICK, SMOKE, Plan

RESULTS = Path(__file__).with_name("results")
SECTIONS: dict[str, Callable[[Plan], list[Row]]] = {
    "a": against_v1.measure,
    "b": over_http.measure,
    "c": against_peer.measure,
    "d": search_under_load.measure,
    "e": overload.measure,
    "f": matmul_share.measure,
    "g": indexing.measure,
}
_EXPLANATIONS = {
    "a": "batches of 20 prepared inputs, against the v1 way: both towers always, all hidden states, black image or empty text",
    "b": "HTTP, one input a request, JSON, the client counted; against the bare model in this process at its best batch",
    "c": "infinity 0.0.78 by torch in float32, the same CLIP folder and load generator, in turn; at one connection the ratio is of p50",
    "d": "the bundled model and atlas, one caller searching with text and picture",
    "e": "open loop, Poisson arrivals at twice the measured peak",
    "f": "only the ViT's own operations are counted",
    "g": "the bundled model and atlas, images in the requests; the bare model decodes and encodes in turn",
}


def main() -> None:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server stays behind
    plan = SMOKE if arguments.smoke else QUICK if arguments.quick else FULL
    wanted = sorted(set(arguments.sections)) or list(SECTIONS)
    machine, began = Machine.read(), time.perf_counter()
    rows: list[Row] = []
    for name in wanted:
        print(f"({name}) {_EXPLANATIONS[name]}", flush=True)
        found = _section(name, plan)
        print(markdown(found), flush=True)
        rows += found
    report = _report(plan, machine, wanted, rows, time.perf_counter() - began)
    print(report)
    if not arguments.smoke:
        print(f"appended to {_append(machine, report)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION", choices=[*SECTIONS, []], help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="ten minutes instead of forty, and wider spreads")
    parser.add_argument("--smoke", action="store_true", help="toy shapes, figures without meaning, nothing written")
    return parser.parse_args()


def _section(name: str, plan: Plan) -> list[Row]:
    """A section that fails says so in its row; the others go on."""
    try:
        return SECTIONS[name](plan)
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return [Row(name, "not measured", f"{type(error).__name__}: {error}".splitlines()[0][:200])]


def _report(plan: Plan, machine: Machine, wanted: list[str], rows: list[Row], seconds: float) -> str:
    extent = "smoke" if plan is SMOKE else "quick" if plan is QUICK else "full"
    shape = f"CLIP {plan.shape} shapes, random weights, texts of 16 tokens, JPEGs of 500x375 px"
    explained = "\n".join(f"- ({name}) {_EXPLANATIONS[name]}" for name in wanted)
    return (
        f"## {machine.date}, {extent}\n\n{machine}; load average {machine.load_average:.2f} at the start, {load_average():.2f} at the end, "
        f"{seconds / 60:.0f} minutes.\n{shape}. Ratios are the median of {plan.rounds} pairs measured in turn, and their extremes.\n\n"
        f"{explained}\n\n{markdown(rows)}"
    )


def _append(machine: Machine, report: str) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{machine.date[:10]}-{machine.slug}.md"
    with path.open("a") as file:
        file.write(report + "\n")
    return path


if __name__ == "__main__":
    main()
