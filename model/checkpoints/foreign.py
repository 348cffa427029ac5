"""Folders and hub models that are no checkpoint of a kind that loads: what they are, and what to do with them."""

from __future__ import annotations

from collections.abc import Sequence

_TEXT_ENCODERS = (
    "bert",
    "camembert",
    "clip_text_model",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "roberta",
    "siglip2_text_model",
    "siglip_text_model",
    "xlm-roberta",
)
_IMAGE_ENCODERS = (
    "beit",
    "clip_vision_model",
    "convnext",
    "deit",
    "dinov2",
    "dinov2_with_registers",
    "siglip2_vision_model",
    "siglip_vision_model",
    "swin",
    "vit",
)
_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".heic", ".avif", ".tif", ".tiff", ".bmp")
_SERVED = "clip, siglip and siglip2 as they are, ReT v1, ReT-2, and what `ret2 train` has written"


def other_kind(name: str, model_type: object) -> str:
    """Return the message for a model whose config.json is of another kind."""
    if model_type in _TEXT_ENCODERS:
        return (
            f"{name} is a {model_type}: a text encoder alone, which reads no images. It can be the text tower of a "
            "model "
            "that you train: ret2 train --text-backbone SOURCE --vision-backbone SOURCE --data FILE"
        )
    if model_type in _IMAGE_ENCODERS:
        return (
            f"{name} is a {model_type}: an image encoder alone, which reads no text. It can be the vision tower of a "
            "model "
            "that you train: ret2 train --text-backbone SOURCE --vision-backbone SOURCE --data FILE"
        )
    return f"{name} is a model of type {model_type!r}, which ret2 does not serve. It serves {_SERVED}"


def without_config(name: str, files: Sequence[str]) -> str:
    """Return the message for a folder or hub model without a config.json. `files` may include files of its folders."""
    lower = [file.lower() for file in files]
    if "open_clip_config.json" in lower:
        return (
            f"{name} is a CLIP in OpenCLIP's own format. Take the same model in transformers' format: "
            "a folder with config.json (model_type clip or siglip), model.safetensors and tokenizer.json"
        )
    if "modules.json" in lower:
        inner = next((file.partition("/")[0] for file in files if file.startswith("0_CLIPModel")), None)
        if inner:
            return f"{name} is a sentence-transformers model, its CLIP lies in {inner}: name that folder"
        return f"{name} is a sentence-transformers model, which ret2 does not serve. It serves {_SERVED}"
    if "adapter_config.json" in lower:
        return (
            f"{name} is an adapter without the model it was trained on. Merge the two and name the folder of the result"
        )
    if "model_index.json" in lower:
        return f"{name} is a pipeline that makes images, which ret2 does not serve. It serves {_SERVED}"
    if "run.json" in lower:
        return f"{name} is a training run that has kept no checkpoint yet: start it again with the same command"
    if pictures := sum(file.endswith(_PICTURES) for file in lower):
        return f"{name} holds {pictures} images and no model. To search them: ret2 load FOLDER --collection NAME"
    if not files:
        return f"{name} is empty. A model is a folder with config.json and model.safetensors"
    examples = ", ".join(sorted(files)[:5])
    return f"{name} has no config.json, so it is no model (found {examples}). ret2 serves {_SERVED}"
