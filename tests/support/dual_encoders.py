"""CLIP, SigLIP and SigLIP 2 as transformers saves them: a few kilobytes, every weight random. For tests only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

WORDS = ("a", "red", "green", "blue", "square", "of", "photo", "the", "cat", "dog", "on", "two", "flags", "and", "one")
TEXT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
NAFLEX = {key: value for key, value in VISION.items() if key != "image_size"} | {"num_patches": 16}
# OpenCLIP's larger towers have gelu, unlike widths and an eos_token_id that is the tokeniser's.
_OPENCLIP = {"hidden_act": "gelu", "eos_token_id": 39}
FAMILIES = ("clip", "openclip", "siglip", "siglip2")


def model_of(family: str) -> Any:
    T = transformers
    if family == "clip":
        return T.CLIPModel(T.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8))
    if family == "openclip":
        vision = VISION | {"hidden_act": "gelu", "hidden_size": 24}
        return T.CLIPModel(T.CLIPConfig(text_config=TEXT | _OPENCLIP, vision_config=vision, projection_dim=8))
    if family == "siglip":
        return T.SiglipModel(T.SiglipConfig(text_config=TEXT, vision_config=VISION))
    return T.Siglip2Model(T.Siglip2Config(text_config=TEXT, vision_config=NAFLEX))


def processor_of(family: str) -> Any:
    if family in ("clip", "openclip"):
        return transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    if family == "siglip":
        return transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16)


def write_dual_encoder(folder: Path, family: str = "clip", *, seed: int = 0, **saving: Any) -> Path:
    """The model, its image processor's file and a tokeniser of words; `saving` goes to `save_pretrained`."""
    torch.manual_seed(seed)
    model = model_of(family).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.copy_(torch.randn_like(value) * 0.2)
    dtype = saving.pop("dtype", torch.float32)
    model.to(dtype).save_pretrained(folder, **saving)
    processor_of(family).save_pretrained(folder)
    tokenizer(family).save(str(folder / "tokenizer.json"))
    return folder


def tokenizer(family: str) -> Tokenizer:
    """Ids end with 2, or with 39 for OpenCLIP: the highest, as the end of a text is in every CLIP."""
    end = {"clip": 39, "openclip": 39}.get(family, 2)
    vocabulary = {"[PAD]": 0, "[BOS]": 1, "[EOS]": end, "[UNK]": 3, **{word: 4 + n for n, word in enumerate(WORDS)}}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.decoder = decoders.WordPiece()
    made.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 1), ("[EOS]", end)]
    )
    made.enable_padding(pad_id=0, pad_token="[PAD]")
    return made
