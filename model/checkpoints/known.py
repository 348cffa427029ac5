"""Models that are bundled, and published ones of a format that is tested here: what somebody needs to choose among
them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KnownModel:
    """`source` is what `--model` takes. Sizes are of the weights as published."""

    source: str
    kind: str
    size_bytes: int
    dimensions: int
    licence: str
    languages: str
    note: str = ""


_MB = 10**6
BUNDLED_MODELS = (
    KnownModel(
        "bundled:everyday",
        "conse",
        1 * _MB,
        384,
        "Apache-2.0 and WordNet's",
        "English",
        "anyone's own data: texts, objects, animals, scenes, colours; its towers are in Python packages",
    ),
    KnownModel(
        "bundled:atlas",
        "ret2",
        4 * _MB,
        256,
        "Apache-2.0",
        "English",
        "flags and emoji, a benchmark; its towers are in Python packages",
    ),
)
# The published files were not at hand when this was written: sizes, licences and languages are their authors'.
PUBLISHED_MODELS = (
    KnownModel("hub:google/siglip-base-patch16-256", "siglip", 813 * _MB, 768, "Apache-2.0", "English"),
    KnownModel("hub:google/siglip-so400m-patch14-384", "siglip", 3_510 * _MB, 1152, "Apache-2.0", "English"),
    KnownModel("hub:google/siglip2-base-patch16-224", "siglip", 1_500 * _MB, 768, "Apache-2.0", "109 languages"),
    KnownModel(
        "hub:google/siglip2-base-patch16-naflex",
        "siglip2",
        1_500 * _MB,
        768,
        "Apache-2.0",
        "109 languages",
        "keeps the aspect ratio",
    ),
    KnownModel("hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "clip", 605 * _MB, 512, "MIT", "English"),
    KnownModel("hub:laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "clip", 3_940 * _MB, 1024, "MIT", "English"),
    KnownModel("hub:openai/clip-vit-large-patch14", "clip", 1_710 * _MB, 768, "not on its page", "English"),
    KnownModel(
        "hub:openai/clip-vit-base-patch32",
        "clip",
        605 * _MB,
        512,
        "not on its page",
        "English",
        "main has pickles alone: pin a pull request with safetensors, @refs/pr/NUMBER",
    ),
)
