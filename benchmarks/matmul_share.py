"""(f) The machine's matmul rate in the precision used, and how much of it images reach: a ViT has almost nothing else to do.

Counted are the operations of the ViT alone, up to the last block: what fusion costs ours on top is no work to be proud of.
"""

from __future__ import annotations

import torch
import transformers

from benchmarks.bare import best_batch, rate
from benchmarks.figures import Bar, Ratio, Row
from benchmarks.flops import CLIP_SHAPES
from benchmarks.inputs import Kind, items, ret2_bodies
from benchmarks.load import Target, closed_loop
from benchmarks.machine import matmul_peak, precision
from benchmarks.plan import Plan
from benchmarks.servers import start_ret2
from model.retriever import Retriever, dtype_of

_BARS = {"float32": Bar(0.8), "bfloat16": Bar(0.5)}
_CONNECTIONS = 32


def measure(plan: Plan) -> list[Row]:
    dtype = dtype_of(precision())
    bar = _BARS.get(precision())
    flops = CLIP_SHAPES[plan.shape].vision.flops()
    retriever = Retriever.load(str(plan.ret2())).compiled(precision())
    batch = best_batch(retriever, Kind.IMAGE, plan.seconds / 4)
    with start_ret2(plan.ret2()) as url, torch.inference_mode():
        target = Target(f"{url}/encode", ret2_bodies(items(Kind.IMAGE, plan.distinct)))
        tower = transformers.CLIPVisionModelWithProjection.from_pretrained(plan.clip).eval()
        pixels = torch.stack([torch.from_numpy(one.pixels) for one in batch if one.pixels is not None])
        rounds = [
            (
                matmul_peak(dtype=dtype),
                rate(lambda: tower(pixel_values=pixels), len(batch), plan.seconds / 2),
                rate(lambda: retriever.encode(batch), len(batch), plan.seconds / 2),
                closed_loop(target, _CONNECTIONS, plan.seconds, plan.warm_up_s).rate,
            )
            for _ in range(plan.rounds)
        ]
    peak = max(one[0] for one in rounds)
    names = ("transformers' ViT alone", "this encoder, bare", f"over HTTP, {_CONNECTIONS} connections")
    rows = [Row("f", f"{precision()} matmul peak", f"{peak / 1e9:.0f} GFLOP/s")]
    for place, name in enumerate(names, start=1):
        ratio = Ratio.of((one[place] * flops, one[0]) for one in rounds)
        middle = sorted(one[place] for one in rounds)[len(rounds) // 2]
        rows.append(Row("f", f"images, {name}", f"{middle:.1f}/s × {flops / 1e9:.2f} GFLOP", "peak", ratio, bar))
    return rows
