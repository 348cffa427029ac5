"""What decoding pictures in child processes costs: `python -m benchmarks.decoding`. Prints a table.

Each picture is decoded in this process and in a child that is reused, in turn; CPU time of both processes is counted,
which a busy machine changes less than wall time.
"""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from PIL import Image, ImageFilter

from benchmarks.figures import Ratio
from model.images import child_process
from model.images.child_process import decode_in_child
from model.images.decoding import decode_image
from model.types import Limits

_TURNS, _TURN_CPU_S = 15, 0.3
_AT_LEAST_PX = 224
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def picture(size: tuple[int, int], kind: str) -> bytes:
    """Return a picture with the edges and gradients of a photograph."""
    noise = Image.frombytes("RGB", (32, 24), random.Random(0).randbytes(32 * 24 * 3))
    photograph = noise.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.EDGE_ENHANCE)
    file = io.BytesIO()
    photograph.save(file, kind)
    return file.getvalue()


def cpu_s() -> float:
    """Return the CPU time of this process and of the children that decode."""
    children = sum(_child_cpu_s(child._process.pid) for child in child_process._children._idle)
    return time.process_time() + children


def _child_cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


def costs(decode: Callable[[], object], times: int) -> tuple[float, float]:
    """Return (CPU, wall) seconds of one call."""
    before, began = cpu_s(), time.perf_counter()
    for _ in range(times):
        decode()
    return (cpu_s() - before) / times, (time.perf_counter() - began) / times


def main() -> None:
    limits = Limits()
    print(
        "| picture | in this process, CPU ms | in a child, CPU ms | ratio of CPU (min–max) | ratio of wall (min–max) |"
    )
    print("|---|---|---|---|---|")
    sizes = [("JPEG", (500, 375)), ("JPEG", (4000, 3000)), ("PNG", (500, 375)), ("PNG", (2000, 1500))]
    for kind, size in [*sizes, ("WEBP", (500, 375)), ("WEBP", (2000, 1500)), ("GIF", (2000, 1500))]:
        data = picture(size, kind)

        def here(data: bytes = data) -> object:
            return decode_image(data, limits, _AT_LEAST_PX)

        def in_child(data: bytes = data) -> object:
            return decode_in_child(data, limits, _AT_LEAST_PX)

        here(), in_child()
        times = max(3, int(_TURN_CPU_S / max(costs(here, 3)[0], 1e-4)))
        turns = [(costs(in_child, times), costs(here, times)) for _ in range(_TURNS)]
        cpu, wall = (Ratio.of((child[part], own[part]) for child, own in turns) for part in (0, 1))
        own_ms, child_ms = (median(turn[part][0] for turn in turns) * 1e3 for part in (1, 0))
        name = f"{kind} {size[0]} x {size[1]}, {len(data) / 1024:.0f} KiB"
        print(f"| {name} | {own_ms:.1f} | {child_ms:.1f} | {cpu} | {wall} |", flush=True)


if __name__ == "__main__":
    main()
