"""Fails the build of an encoder image whose torch cannot use the device it is for. Needs no device itself."""

import sys

import torch

wanted, built_for = sys.argv[1], torch.version.cuda or torch.version.hip
if wanted not in ("cpu", "cuda"):
    raise SystemExit(f"DEVICE={wanted!r}, known are cpu and cuda")
if wanted == "cuda" and not built_for:
    raise SystemExit(f"DEVICE=cuda, but torch {torch.__version__} is a CPU build; give another TORCH")
if wanted == "cpu" and built_for:
    raise SystemExit(
        f"DEVICE=cpu, but torch {torch.__version__} is a CUDA build, gigabytes too large; give another TORCH"
    )
