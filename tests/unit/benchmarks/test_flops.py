"""The formulas against what torch counts in transformers' own modules."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import CLIP_SHAPES, Encoder, VisionShape

ENCODER = Encoder(layers=3, width=24, heads=2, intermediate=40)
SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 40}


def counted(module: torch.nn.Module, **inputs: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(**inputs)
    return int(counter.get_total_flops())


def test_a_vit() -> None:
    config = transformers.CLIPVisionConfig(**SIZES, image_size=32, patch_size=8, attn_implementation="eager")
    model = transformers.CLIPVisionModel(config).eval()
    shape = VisionShape("toy", ENCODER, patch_px=8, image_px=32)
    assert counted(model, pixel_values=torch.zeros(2, 3, 32, 32)) == 2 * shape.flops()


@pytest.mark.parametrize("tokens", [5, 16])
def test_a_text_tower(tokens: int) -> None:
    config = transformers.CLIPTextConfig(
        **SIZES, vocab_size=40, max_position_embeddings=16, attn_implementation="eager"
    )
    model = transformers.CLIPTextModel(config).eval()
    assert counted(model, input_ids=torch.zeros(1, tokens, dtype=torch.long)) == ENCODER.flops(tokens)


@pytest.mark.parametrize(("name", "gflops"), [("B/32", 14.78), ("L/14", 175.33), ("H/14", 381.68)])
def test_known_shapes(name: str, gflops: float) -> None:
    """Both towers, 77 tokens: column gflops of OpenCLIP's docs/model_profile.csv."""
    shape = CLIP_SHAPES[name]
    assert (shape.vision.flops() + shape.text.flops(77)) / 1e9 == pytest.approx(gflops, rel=0.001)
