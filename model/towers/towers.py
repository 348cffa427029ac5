"""The two towers as one small interface: token ids or pixels in, states of the tapped layers out, stopping after the
last of them.

Two families: encoders that `transformers` loads (CLIP, SigLIP, BERT, ViT, DINOv2, …) and EfficientNet-Lite, whose
feature maps are tokens.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import safetensors
import torch
import torch.nn.functional as F
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from model.checkpoints.weights import (
    WEIGHTS_FILE,
    incomplete,
    load_strict,
    misfits,
    read_efficientnet_lite0,
    weight_files,
)
from model.config import BackboneConfig, Ret2Config
from model.errors import InvalidInput
from model.towers.efficientnet import BLOCK_CHANNELS, CPU_PASS, EfficientNetLite0, grid_positions

Modality = Literal["text", "vision"]

EFFICIENTNET_GRID = 7  # feature maps are averaged to 7 x 7 tokens, the size of the last one at 224 px

# Not known to transformers' AutoModel by themselves.
SIGLIP_TEXT = {"siglip_text_model": "SiglipTextModel", "siglip2_text_model": "Siglip2TextModel"}
NAFLEX = "siglip2_vision_model"
# Their position embeddings are interpolated to the grid; the others take the one size they were made for.
_RESIZABLE = (NAFLEX, "dinov2", "dinov2_with_registers")


class _Tapped(threading.local):
    """States of the forward of this thread, by layer."""

    def __init__(self) -> None:
        self.states: dict[int, Tensor] = {}


class TransformersEncoder(nn.Module):
    """A text or vision encoder of transformers, and how it is called: what both kinds of tower over one have in common.

    `patches` counts an image's tokens, class and register tokens too.
    """

    def __init__(self, encoder: Any, modality: Modality, image_px: int | None = None) -> None:
        super().__init__()
        self.modality = modality
        self.encoder = encoder
        config = encoder.config
        self.patches = _patches(encoder, image_px or own_px(config)) if modality == "vision" else 0
        self.text_positions: int | None = getattr(config, "max_position_embeddings", None)
        # SigLIP was trained on texts of full length, the pad token attended like any other: there is no mask to give
        # it.
        self.full_length = self.text_positions if config.model_type in SIGLIP_TEXT else None
        self.pad_id: int | None = config.pad_token_id if self.full_length else None  # a tokeniser knows better

    def read(self, values: Tensor | Sequence[Tensor], mask: Tensor | None = None) -> Any:
        """Return the encoder's own output for ids (B, T) with mask (B, T), pixels (B, 3, S, S), or NaFlex images of
        several shapes; with a mask NaFlex patches (B, P, ...)."""
        if self.modality == "text":
            return self._read_text(cast(Tensor, values), mask)
        if self.encoder.config.model_type == NAFLEX:
            if mask is not None:
                return self.encoder(pixel_values=values, pixel_attention_mask=mask, spatial_shapes=None)
            return self.encoder(**naflex_inputs(values, self.encoder.config.patch_size))
        return self.encoder(pixel_values=values)

    def _read_text(self, ids: Tensor, mask: Tensor | None) -> Any:
        if self.full_length is None:
            return self.encoder(input_ids=ids, attention_mask=mask)
        if self.pad_id is None or ids.shape[1] > self.full_length:
            raise InvalidInput(
                f"a SigLIP text needs a pad token (it is {self.pad_id}) and at most {self.full_length} tokens, "
                f"got {ids.shape[1]}"
            )
        ids = ids if mask is None else ids.masked_fill(mask == 0, self.pad_id)
        return self.encoder(input_ids=F.pad(ids, (0, self.full_length - ids.shape[1]), value=self.pad_id))  # (B, L)


class TransformersTower(TransformersEncoder):
    """Hidden states of chosen blocks of a transformers encoder, raw: before any final norm, pooler or projection.

    Thread-safe: each thread's tapped states are its own. `widths` has one entry per tapped layer.
    """

    def __init__(self, encoder: Any, layers: tuple[int, ...], modality: Modality, image_px: int | None = None) -> None:
        super().__init__(encoder, modality, image_px)
        blocks = blocks_of(encoder)
        if max(layers) >= len(blocks) or min(layers) < 0:
            raise InvalidInput(
                f"{modality} layer {max(layers)} is tapped, the tower has {len(blocks)} (0 to {len(blocks) - 1})"
            )
        del blocks[max(layers) + 1 :]
        self.widths = (encoder.config.hidden_size,) * len(layers)
        self._layers = layers
        self._tapped = _Tapped()
        for index in set(layers):
            blocks[index].register_forward_hook(self._tap(index))

    def forward(self, values: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Map ids (B, T) with mask (B, T), or pixels (B, 3, S, S), to one (B, T or P, W) for each tapped layer."""
        self.read(values, mask)
        states = [self._tapped.states[index] for index in self._layers]
        self._tapped.states = {}
        return states if self.full_length is None else [layer[:, : values.shape[1]] for layer in states]

    def _tap(self, index: int) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._tapped.states[index] = output[0] if isinstance(output, tuple) else output

        return keep


def naflex_inputs(pixels: Tensor | Sequence[Tensor], patch: int) -> dict[str, Tensor | None]:
    """Return the inputs of SigLIP 2 NaFlex: patches, the mask of patches that are no padding, and the rows and columns
    of each image."""
    if isinstance(pixels, Tensor):
        patches, grid = flat_patches(pixels, patch)
        return {"pixel_values": patches, "pixel_attention_mask": None, "spatial_shapes": grid}
    images = [flat_patches(image[None], patch) for image in pixels]
    counts = torch.tensor([flat.shape[1] for flat, _ in images])  # (B,)
    longest = int(counts.max())
    padded = [F.pad(flat, (0, 0, 0, longest - flat.shape[1])) for flat, _ in images]
    return {
        "pixel_values": torch.cat(padded),  # (B, P, patch * patch * 3)
        "pixel_attention_mask": (torch.arange(longest)[None] < counts[:, None]).long().to(padded[0].device),
        "spatial_shapes": torch.cat([grid for _, grid in images]),
    }


def flat_patches(pixels: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Cut pixels (B, 3, S, S) into patches as SigLIP 2 NaFlex reads them: (B, P, patch * patch * 3), channels last, and
    the grid (B, 2)."""
    batch, channels, height, width = pixels.shape
    rows, columns = height // patch, width // patch
    cells = pixels.reshape(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
    grid = torch.tensor([[rows, columns]], device=pixels.device).expand(batch, 2)
    return cells.reshape(batch, rows * columns, patch * patch * channels), grid


class EfficientNetTower(nn.Module):
    """Feature maps of chosen blocks as tokens: averaged to a 7 x 7 grid, with the grid position appended."""

    positions: Tensor

    def __init__(self, layers: tuple[int, ...]) -> None:
        super().__init__()
        if max(layers) >= len(BLOCK_CHANNELS):
            raise InvalidInput(f"vision layer {max(layers)} is tapped, the tower has {len(BLOCK_CHANNELS)}")
        self.network = EfficientNetLite0(depth=max(layers) + 1)
        positions = position_features()  # (P, 8)
        self.register_buffer("positions", positions[None], persistent=False)
        self.widths = tuple(BLOCK_CHANNELS[index] + positions.shape[-1] for index in layers)
        self.patches = EFFICIENTNET_GRID**2
        self._layers = layers

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Map pixels (B, 3, S, S) to one (B, 49, C + 8) for each tapped block."""
        if pixels.device.type == "cpu" and len(pixels) > CPU_PASS:
            passes = [self(part) for part in torch.split(pixels, CPU_PASS)]
            return [torch.cat(layer) for layer in zip(*passes, strict=True)]
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return [grid_tokens(feature_map, self.positions) for feature_map in self.network(pixels, self._layers)]


def position_features() -> Tensor:
    """Return sines and cosines of row and column for each token of the grid."""
    return grid_positions(EFFICIENTNET_GRID)


def grid_tokens(feature_map: Tensor, positions: Tensor) -> Tensor:
    """Map a feature map (B, C, h, w) and positions (1, P, 8) to tokens (B, P, C + 8)."""
    tokens = F.adaptive_avg_pool2d(feature_map, EFFICIENTNET_GRID).flatten(2).transpose(1, 2)  # (B, P, C)
    return torch.cat([tokens, positions.to(tokens).expand(tokens.shape[0], -1, -1)], dim=-1)


Tower = TransformersTower | EfficientNetTower


def build_tower(
    config: BackboneConfig,
    modality: Modality,
    folder: Path | None,
    tensors: Mapping[str, Tensor],
    image_px: int | None = None,
) -> Tower:
    """Build a tower with its weights, in eval mode: from `folder`, or from the checkpoint's `tensors` if `source` is
    `checkpoint`.

    `image_px` is the size of the images that the tower will read; None stands for the size that its weights were made
    for.
    """
    if config.family == "efficientnet_lite0":
        if modality == "text":
            raise InvalidInput("family 'efficientnet_lite0' reads images, so it cannot be the text tower")
        weights = read_efficientnet_lite0(folder) if folder else tensors
        return _efficientnet(config.layers, weights).eval().requires_grad_(False)
    encoder = _from_folder(folder, modality) if folder else _from_tensors(config, tensors, modality)
    input_name = "input_ids" if modality == "text" else "pixel_values"
    if encoder.main_input_name != input_name:
        raise InvalidInput(f"the {modality} tower is a {type(encoder).__name__}, which does not read {input_name}")
    return TransformersTower(encoder, config.layers, modality, image_px).eval().requires_grad_(False)


def _efficientnet(layers: tuple[int, ...], weights: Mapping[str, Tensor]) -> EfficientNetTower:
    tower = EfficientNetTower(layers)
    expected_keys = tower.network.state_dict().keys()
    load_strict(
        tower.network, {key: value for key, value in weights.items() if key in expected_keys}, "EfficientNet-Lite0"
    )
    tower.network.eval().fold_norms()
    tower.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return tower


def build_towers(
    config: Ret2Config, folders: Mapping[Modality, Path | None], tensors: Mapping[str, Tensor]
) -> tuple[Tower, Tower]:
    """Build the text and the vision tower, shared or of the query side. `tensors` are those of a checkpoint, under
    `text.` and `vision.`."""
    text = build_tower(config.text, "text", folders["text"], with_prefix(tensors, "text."))
    positions = text.text_positions if isinstance(text, TransformersTower) else None
    if positions is not None and config.max_text_tokens > positions:
        raise InvalidInput(f"max_text_tokens is {config.max_text_tokens}, the text tower has {positions} positions")
    weights = with_prefix(tensors, "vision.")
    return text, build_tower(config.vision, "vision", folders["vision"], weights, config.image.size_px)


def build_document_towers(config: Ret2Config, tensors: Mapping[str, Tensor]) -> dict[str, Tower]:
    """Build the towers that the document side does not share, under `document_text.` and `document_vision.`. Most
    models have none."""
    towers = {}
    if not config.shared_text_tower:
        towers["text"] = build_tower(config.text, "text", None, with_prefix(tensors, "document_text."))
    if not config.shared_vision_tower:
        weights = with_prefix(tensors, "document_vision.")
        towers["vision"] = build_tower(config.vision, "vision", None, weights, config.image.size_px)
    return towers


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _from_folder(folder: Path, modality: Modality) -> Any:
    """Read one tower of a transformers folder; of a two-tower model (CLIP, SigLIP) read the half for `modality`.

    The other half, and heads on top (ColBERT's `linear`, a classifier), stay in the file.
    """
    weight_files(folder)
    with transformers_errors(folder):
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        encoder, problems, _ = load_pretrained(getattr(config, f"{modality}_config", config), folder, None)
    if problems:
        raise InvalidInput(misfits(f"{folder.name}: {modality} tower", problems), field="model")
    return encoder


@contextlib.contextmanager
def transformers_errors(folder: Path) -> Iterator[None]:
    """Raise `InvalidInput` for what transformers says of a folder: no config.json, an unknown model_type or one that
    needs its own code, a value that does not fit, a file that is not safetensors."""
    try:
        yield
    except safetensors.SafetensorError as error:
        raise InvalidInput(incomplete(f"{folder.name}/{WEIGHTS_FILE}", error), field="model") from error
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        lines = str(error).strip().splitlines()
        raise InvalidInput(f"{folder.name}: {lines[0] if lines else type(error).__name__}", field="model") from error


def _from_tensors(config: BackboneConfig, tensors: Mapping[str, Tensor], modality: Modality) -> Any:
    if config.architecture is None:
        raise InvalidInput(f"{modality} source is 'checkpoint', so `architecture` is needed")
    architecture = dict(config.architecture)
    part = transformers.AutoConfig.for_model(architecture.pop("model_type"), **architecture)
    encoder, problems, unexpected = load_pretrained(part, None, dict(tensors))
    if problems := [*problems, *(f"unexpected {key}" for key in unexpected)]:
        raise InvalidInput(misfits(f"{modality} tower", problems), field="model")
    return encoder


def load_pretrained(
    config: Any, folder: Path | None, tensors: dict[str, Tensor] | None
) -> tuple[Any, list[str], list[str]]:
    """Return the encoder in float32, the weights that are missing or misshapen, and the keys that have no place.

    transformers maps the names of its own earlier versions and of models with heads. Poolers are never read, so they
    may be missing.
    """
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # its report of unused keys; what matters in it is raised here
    encoder, report = _model_class(config).from_pretrained(
        folder,
        config=config,
        state_dict=tensors,
        local_files_only=True,
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        dtype=torch.float32,
    )
    problems = [f"missing {key}" for key in sorted(report["missing_keys"]) if "pooler" not in key]
    problems += [
        f"{key} is {tuple(actual)}, expected {tuple(expected)}"
        for key, actual, expected in sorted(report["mismatched_keys"])
    ]
    return encoder, problems, sorted(report["unexpected_keys"])


def _model_class(config: Any) -> Any:
    if name := SIGLIP_TEXT.get(config.model_type):
        return getattr(transformers, name)
    with torch.device("meta"):
        return type(transformers.AutoModel.from_config(config))


def blocks_of(encoder: Any) -> nn.ModuleList:
    depth = encoder.config.num_hidden_layers
    for module in encoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise InvalidInput(f"{type(encoder).__name__} has no list of {depth} blocks to tap")


def own_px(config: Any) -> int:
    """Return the image size that a tower's weights were made for; NaFlex states it as a number of patches."""
    if config.model_type == NAFLEX:
        return int(math.isqrt(config.num_patches) * config.patch_size)
    return int(config.image_size)


def _patches(encoder: Any, image_px: int) -> int:
    """Return the number of tokens of an image of `image_px`: patches, and the class and register tokens before them."""
    config = encoder.config
    resizable = config.model_type in _RESIZABLE
    if not resizable and image_px != own_px(config):
        raise InvalidInput(f"image.size_px is {image_px}, the vision tower takes {own_px(config)}")
    if resizable and image_px % config.patch_size:
        raise InvalidInput(
            f"image.size_px {image_px} is not a multiple of the vision tower's patch {config.patch_size}"
        )
    extra = sum(
        value.shape[-2] if value.dim() > 1 else 1
        for key, value in encoder.named_parameters()
        if key.endswith(("class_embedding", "cls_token", "register_tokens", "distillation_token"))
    )
    return int((image_px // config.patch_size) ** 2) + extra
