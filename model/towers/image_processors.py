"""Read how a transformers folder wants its images: `preprocessor_config.json` as our `ImageConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.checkpoints.weights import read_config
from model.config import ImageConfig, NaflexConfig, Resample, Resize
from model.errors import InvalidInput
from model.towers.towers import NAFLEX

PREPROCESSOR_FILE = "preprocessor_config.json"
_PROCESSOR_FILE = "processor_config.json"  # transformers 5 keeps the same under `image_processor` in here
_RESAMPLE: dict[int, Resample] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_HALF = (0.5, 0.5, 0.5)
_NAFLEX_PATCHES = 256  # transformers' default


def image_config(folder: Path, config: Any, *, naflex: bool = False) -> ImageConfig:
    """Return how a vision tower's own processor makes its pixels. Without a file, use the family's defaults at the
    tower's own size.

    `naflex` keeps the aspect ratio where the family does, instead of squashing to a square.
    """
    value = processor_settings(folder)
    _refuse_what_is_always_done(folder, value)
    if config.model_type == NAFLEX and naflex:
        return _naflex(config, value)
    size = _own_size(config)
    siglip = config.model_type.startswith("siglip")
    if not value:
        return ImageConfig(size_px=size, resize="squash", mean=_HALF, std=_HALF) if siglip else ImageConfig(size)
    crops = bool(value.get("do_center_crop"))
    if crops and config.model_type.startswith("dinov2"):  # made at 518 px, used at what its processor says
        size = _side(value.get("crop_size")) or size
    scaled = value.get("size")
    shortest = scaled.get("shortest_edge") if isinstance(scaled, dict) else scaled if crops else None
    resize: Resize = "crop" if crops or shortest else "squash"
    plain = ImageConfig()
    return ImageConfig(
        size_px=size,
        resize=resize,
        resample=_RESAMPLE.get(value.get("resample", 3), "bicubic"),
        crop_from_px=int(shortest) if resize == "crop" and shortest and int(shortest) > size else None,
        mean=tuple(value.get("image_mean") or plain.mean),
        std=tuple(value.get("image_std") or plain.std),
    )


def processor_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of the image processor, empty if the folder has none."""
    if (folder / PREPROCESSOR_FILE).exists():
        return read_config(folder, PREPROCESSOR_FILE)
    if (folder / _PROCESSOR_FILE).exists():
        inner = read_config(folder, _PROCESSOR_FILE).get("image_processor")
        return dict(inner) if isinstance(inner, Mapping) else {}
    return {}


def processor_files(folder: Path) -> list[Path]:
    return [folder / name for name in (PREPROCESSOR_FILE, _PROCESSOR_FILE) if (folder / name).exists()]


def _naflex(config: Any, value: Mapping[str, Any]) -> NaflexConfig:
    patch, patches = int(config.patch_size), int(value.get("max_num_patches") or _NAFLEX_PATCHES)
    if (stated := value.get("patch_size", patch)) != patch:
        raise InvalidInput(f"patch_size is {stated} in the image processor and {patch} in config.json", field="model")
    return NaflexConfig(
        size_px=int(patches**0.5) * patch,
        resize="squash",
        resample=_RESAMPLE.get(value.get("resample", 2), "bilinear"),
        patch_px=patch,
        max_patches=patches,
        mean=tuple(value.get("image_mean") or _HALF),
        std=tuple(value.get("image_std") or _HALF),
    )


def _refuse_what_is_always_done(folder: Path, value: Mapping[str, Any]) -> None:
    for name in ("do_resize", "do_rescale", "do_normalize"):
        if value.get(name) is False:
            raise InvalidInput(
                f"{folder.name}: {name} is false in its image processor; here images are always resized, rescaled "
                "and normalised",
                field="model",
            )


def _own_size(config: Any) -> int:
    size = getattr(config, "image_size", None)
    if size is None:  # SigLIP 2 NaFlex states a number of patches
        return int(round(config.num_patches**0.5) * config.patch_size)
    return int(size[0] if isinstance(size, list | tuple) else size)


def _side(size: Any) -> int | None:
    return size.get("height") if isinstance(size, dict) else size
