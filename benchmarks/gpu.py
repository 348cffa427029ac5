"""The same on an accelerator, in one call of under ten minutes: `python -m benchmarks.gpu`.

Images at the shapes of ViT-B/32, L/14 and H/14 in bfloat16, with random weights: the tower alone, this encoder from prepared inputs in
the host's memory, decoding, and JPEGs over HTTP. It needs torch, transformers, tokenizers, safetensors, numpy and pillow; what is
over HTTP needs the service's packages too, and is left out with a line where they are absent.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.bare import batch_of, rate
from benchmarks.checkpoints import RET2, ret2_folder
from benchmarks.figures import Bar, Ratio, Row, markdown
from benchmarks.flops import CLIP_SHAPES
from benchmarks.inputs import Kind, items, ret2_bodies
from benchmarks.load import Target, closed_loop
from benchmarks.machine import Machine, finish, load_average, matmul_peak
from benchmarks.servers import ServerFailed, start_ret2
from model.retriever import Retriever
from model.types import Input, Limits, Prepared, Role

_SERVICE = ("fastapi", "uvicorn", "structlog", "pydantic_settings", "prometheus_client")
_BARS = {"L/14": Bar(0.5)}
_CONNECTIONS = (1, 32, 128)  # the service answers 256 at once
_DISTINCT = 64


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """`until` is when no further part is begun, by `time.monotonic`."""

    device: str
    dtype: torch.dtype
    shapes: tuple[str, ...]
    batches: tuple[int, ...]
    matmul_sizes: tuple[int, ...]
    rounds: int
    seconds: float
    until: float

    @property
    def on_gpu(self) -> bool:
        return self.device.startswith("cuda")

    @property
    def late(self) -> bool:
        return time.monotonic() > self.until


def main() -> None:
    arguments = _arguments()
    plan = _plan(arguments)
    machine, began = Machine.read(), time.perf_counter()
    rows: list[Row] = []
    for row in measure(plan):
        print(" | ".join(row.cells()), flush=True)  # at once: a call that is cut off has said what it knew
        rows.append(row)
    report = (
        f"## {machine.date}, {_device_name(plan)}\n\n{machine}; load average {machine.load_average:.2f} at the start, "
        f"{load_average():.2f} at the end, {(time.perf_counter() - began) / 60:.1f} minutes.\n"
        f"CLIP shapes, random weights, {plan.dtype}, JPEGs of 500x375 px. Shares are of the measured matmul rate; counted are the "
        f"ViT's own operations.\n\n{markdown(rows)}"
    )
    print(report)
    if "toy" not in plan.shapes:
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / f"{machine.date[:10]}-{_device_name(plan).lower().replace(' ', '-')}.md"
        with path.open("a") as file:
            file.write(report + "\n")
        print(f"appended to {path}")


def measure(plan: GpuPlan) -> Iterator[Row]:
    peak = matmul_peak(plan.device, plan.dtype, plan.matmul_sizes)
    yield Row("gpu", f"{plan.dtype} matmul rate", f"{peak / 1e12:.2f} TFLOP/s")
    for shape in plan.shapes:
        if plan.late:
            yield Row("gpu", shape, "not measured: out of time")
            continue
        yield from _forwards(plan, shape)
        yield from _over_http(plan, shape)


def _decoding(plan: GpuPlan, retriever: Retriever) -> Row:
    """What the host's cores can feed: JPEG to pixels, in threads."""
    images, threads = items(Kind.IMAGE, _DISTINCT), os.cpu_count() or 1

    def one(item: Input) -> Prepared:
        return retriever.prepare(item, Role.QUERY, Limits())

    with ThreadPoolExecutor(threads) as pool:
        found = rate(lambda: list(pool.map(one, images)), len(images), plan.seconds)
    return Row("gpu", f"JPEG to {retriever.info.image_size_px} px, {threads} threads", f"{found:.0f} images/s")


def _forwards(plan: GpuPlan, shape: str) -> Iterator[Row]:
    """The tower with pixels on the device, and the encoder with pixels in the host's memory; each at its best batch."""
    retriever = Retriever.load(str(ret2_folder(shape, RET2, vocabulary="words")), device=plan.device, dtype=plan.dtype)
    flops = CLIP_SHAPES[shape].vision.flops()
    if shape == plan.shapes[0]:  # the same for all
        yield _decoding(plan, retriever)
    found: dict[str, tuple[float, int]] = {"tower alone": (0.0, 0), "encoder": (0.0, 0)}
    if plan.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for size in plan.batches:
        batch = batch_of(retriever, Kind.IMAGE, size)
        for name, one in (
            ("tower alone", _tower(plan, retriever, batch)),
            ("encoder", _encoder(plan, retriever, batch)),
        ):
            found[name] = max(found[name], (one, size))
    memory = (
        f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at batch {max(plan.batches)}" if plan.on_gpu else ""
    )
    # The rate anew beside each: a device that is warm is slower than one that has just begun.
    for name, measured in (("tower alone", _tower), ("encoder", _encoder)):
        batch = batch_of(retriever, Kind.IMAGE, found[name][1])
        pairs = [
            (measured(plan, retriever, batch) * flops, matmul_peak(plan.device, plan.dtype, plan.matmul_sizes))
            for _ in range(plan.rounds)
        ]
        best = sorted(work for work, _ in pairs)[len(pairs) // 2] / flops
        what = f"{shape} images, {name}, batch {len(batch)}"
        measured_words = f"{best:.0f}/s × {flops / 1e9:.1f} GFLOP" + (memory if name == "encoder" else "")
        yield Row("gpu", what, measured_words, "matmul", Ratio.of(pairs), _BARS.get(shape))
    texts = batch_of(retriever, Kind.TEXT, max(plan.batches))
    retriever.encode(texts)
    yield Row("gpu", f"{shape} texts, encoder, batch {len(texts)}", f"{_encoder(plan, retriever, texts):.0f}/s")


@torch.inference_mode()
def _tower(plan: GpuPlan, retriever: Retriever, batch: list[Prepared]) -> float:
    pixels = torch.stack([torch.from_numpy(one.pixels) for one in batch if one.pixels is not None])
    pixels = pixels.to(plan.device, plan.dtype)
    return _rate(plan, lambda: retriever.vision_tower(pixels), len(batch))


def _encoder(plan: GpuPlan, retriever: Retriever, batch: list[Prepared]) -> float:
    return _rate(plan, lambda: retriever.encode(batch), len(batch))


def _over_http(plan: GpuPlan, shape: str) -> Iterator[Row]:
    if absent := [name for name in _SERVICE if importlib.util.find_spec(name) is None]:
        yield Row("gpu", f"{shape} JPEGs over HTTP", f"not measured: no {', '.join(absent)} here")
        return
    if plan.late:
        yield Row("gpu", f"{shape} JPEGs over HTTP", "not measured: out of time")
        return
    try:
        with start_ret2(ret2_folder(shape, RET2, vocabulary="words"), role="encoder", device=plan.device) as url:
            target = Target(f"{url}/encode", ret2_bodies(items(Kind.IMAGE, _DISTINCT)))
            for connections in _CONNECTIONS:
                run = closed_loop(target, connections, plan.seconds, plan.seconds / 2)
                failed = f", {run.failed} failed" if run.failed else ""
                words = f"{run.rate:.0f}/s, {run.percentiles()}{failed}"
                yield Row("gpu", f"{shape} JPEGs over HTTP, {connections} connections", words)
    except ServerFailed as error:
        yield Row("gpu", f"{shape} JPEGs over HTTP", f"not measured: {str(error).splitlines()[-1]:.200}")


def _rate(plan: GpuPlan, launch: Callable[[], object], size: int) -> float:
    def work() -> None:
        launch()
        finish(plan.device)

    work()
    return rate(work, size, plan.seconds / 4)


def _plan(arguments: argparse.Namespace) -> GpuPlan:
    toy = "toy" in arguments.shapes
    return GpuPlan(
        device=arguments.device,
        dtype=torch.bfloat16,
        shapes=tuple(arguments.shapes),
        batches=(1, 4) if toy else (1, 8, 32, 64, 128, 256),
        matmul_sizes=(256,) if toy else (4096, 8192),
        rounds=2 if toy else 3,
        seconds=0.4 if toy else 4.0,
        until=time.monotonic() + 60 * arguments.minutes,
    )


def _device_name(plan: GpuPlan) -> str:
    return torch.cuda.get_device_name(plan.device) if plan.on_gpu else plan.device


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to see that it runs")
    parser.add_argument("--shapes", nargs="+", choices=list(CLIP_SHAPES), default=["B/32", "L/14", "H/14"])
    parser.add_argument("--minutes", type=float, default=7.0, help="after these no further part is begun")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"), help="folder of the table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
