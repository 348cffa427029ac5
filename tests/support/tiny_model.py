"""A complete checkpoint of a few kilobytes: random CLIP-like towers, a word tokeniser, one step more than none. For tests only."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from model.checkpoints.weights import save_checkpoint
from model.config import BackboneConfig, ImageConfig, Ret2Config
from model.ret2 import build_fusion
from model.towers.towers import build_tower

WORDS = (
    "a",
    "red",
    "green",
    "blue",
    "square",
    "of",
    "what",
    "is",
    "the",
    "capital",
    "this",
    "country",
    "flag",
    "one",
    "two",
)
_TEXT = {
    "model_type": "clip_text_model",
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}

CONFIG = Ret2Config(
    name="tiny",
    text=BackboneConfig("transformers", "checkpoint", (0, 2), architecture=_TEXT),
    vision=BackboneConfig("transformers", "checkpoint", (1, 3), architecture=_VISION),
    image=ImageConfig(size_px=32, resize="pad"),
    max_text_tokens=16,
    hidden_size=32,
    intermediate_size=64,
    num_heads=2,
    num_latents=3,
    output_size=16,
    input_gate_prior=0.1,
    forget_gate_prior=0.5,
)


def write_tiny_checkpoint(folder: Path, config: Ret2Config = CONFIG, *, seed: int = 0) -> Path:
    """Random weights drawn from `seed`; returns the folder."""
    import transformers

    torch.manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    towers = []
    for name, part in (("text", config.text), ("vision", config.vision)):
        architecture = dict(part.architecture or {})
        auto = transformers.AutoConfig.for_model(architecture.pop("model_type"), **architecture)
        weights = transformers.AutoModel.from_config(auto).state_dict()
        tensors |= {f"{name}.{key}": value for key, value in weights.items()}
        towers.append(build_tower(part, name, None, weights))
    for prefix in ("shared",) if config.shared_sides else ("query", "document"):
        side = build_fusion(config, towers[0].widths, towers[1].widths)
        tensors |= {f"{prefix}.{key}": value for key, value in side.state_dict().items()}
    save_checkpoint(folder, config.to_json(), tensors)
    _tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def _tokenizer() -> Tokenizer:
    vocabulary = {
        "[PAD]": 0,
        "[BOS]": 1,
        "[EOS]": 2,
        "[UNK]": 3,
        **{word: 4 + place for place, word in enumerate(WORDS)},
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 1), ("[EOS]", 2)]
    )
    return tokenizer
