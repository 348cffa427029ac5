"""A loaded checkpoint with its towers and preprocessing: inputs in, embeddings out. What the encoder service drives."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from model import preprocess, ret_v1
from model.backbones import Modality, Tower, build_towers, with_prefix
from model.config import BackboneConfig, Ret2Config
from model.errors import InvalidInput
from model.inputs import Float32, Input, Limits, ModelInfo, Prepared, Role
from model.ret2 import States, build_fusion
from model.weights import WEIGHTS_FILE, fingerprint, load_strict, locate, read_config, read_tensors

TOKENIZER_FILE = "tokenizer.json"


class Retriever(nn.Module):
    """`prepare` is thread-safe; `encode` belongs to one thread. Always in eval mode, gradients off, unless a trainer turns them on."""

    def __init__(
        self,
        config: Ret2Config,
        towers: tuple[Tower, Tower],
        sides: dict[str, nn.Module],
        preprocessor: preprocess.Preprocessor,
        checkpoint_fingerprint: str,
    ) -> None:
        super().__init__()
        self.config = config
        self.text_tower, self.vision_tower = towers
        self.sides = nn.ModuleDict(sides)
        self.preprocessor = preprocessor
        self.info = ModelInfo(
            name=config.name,
            fingerprint=checkpoint_fingerprint,
            dimensions=config.dimensions,
            max_text_tokens=config.max_text_tokens,
            image_size_px=config.image.size_px,
        )

    @classmethod
    def load(cls, source: str, *, device: str = "cpu", threads: int | None = None) -> Retriever:
        """A checkpoint folder, `bundled`, or `hub:ORG/NAME@COMMIT`. Raises `InvalidInput` with all that does not fit."""
        if threads:
            torch.set_num_threads(threads)
        folder = locate(source)
        raw = read_config(folder)
        tensors = read_tensors(folder / WEIGHTS_FILE)
        if ret_v1.is_v1(raw):
            config = ret_v1.convert_config(raw)
            tensors = ret_v1.convert_tensors(config, tensors)
        else:
            config = Ret2Config.from_json(raw)
        retriever = cls.assemble(config, tensors, folder)
        return retriever.to(device).eval()

    @classmethod
    def assemble(cls, config: Ret2Config, tensors: dict[str, Tensor], folder: Path) -> Retriever:
        """Towers and sides with their weights; `tensors` in our names, every one of them used."""
        folders = _tower_folders(config, folder)
        known = (*side_prefixes(config), *(f"{modality}." for modality, path in folders.items() if path is None))
        if unknown := [key for key in tensors if not key.startswith(known)]:
            raise InvalidInput(
                f"{folder.name}: {len(unknown)} weights have no place, the first is {sorted(unknown)[0]}"
            )
        retriever = cls._build(config, folders, tensors, [folder, *folders.values()], [folder / WEIGHTS_FILE])
        for prefix in side_prefixes(config):
            name = prefix.rstrip(".")
            load_strict(retriever.sides[name], with_prefix(tensors, prefix), f"{folder.name}: {name} cell")
        return retriever

    @classmethod
    def untrained(cls, config: Ret2Config) -> Retriever:
        """Pretrained towers under a cell with fresh weights: where training starts."""
        folders = _tower_folders(config, None)
        return cls._build(config, folders, {}, list(folders.values()), [])

    @classmethod
    def _build(
        cls,
        config: Ret2Config,
        folders: dict[Modality, Path | None],
        tensors: dict[str, Tensor],
        tokenizer_places: Sequence[Path | None],
        weight_files: Sequence[Path],
    ) -> Retriever:
        towers = build_towers(config, folders, tensors)
        sides = {
            prefix.rstrip("."): build_fusion(config, towers[0].widths, towers[1].widths).requires_grad_(False)
            for prefix in side_prefixes(config)
        }
        candidates = (place / TOKENIZER_FILE for place in tokenizer_places if place)
        tokenizer_file = next((path for path in candidates if path.exists()), None)
        preprocessor = preprocess.Preprocessor(
            tokenizer=_tokenizer(tokenizer_file),
            max_text_tokens=config.max_text_tokens,
            image=config.image,
            patches=towers[1].patches,
        )
        files = [*weight_files, *([tokenizer_file] if tokenizer_file else [])]
        files += [
            path
            for place in folders.values()
            if place
            for path in place.glob("*")
            if path.suffix in (".safetensors", ".pth")
        ]
        return cls(config, towers, sides, preprocessor, fingerprint(config.to_json(), files, preprocess.VERSION))

    def prepare(self, item: Input, role: Role, limits: Limits) -> Prepared:
        return self.preprocessor.prepare(item, role, limits)

    def side(self, role: Role) -> nn.Module:
        return self.sides["shared" if self.config.shared_sides else role.value]

    @torch.inference_mode()
    def encode(self, batch: Sequence[Prepared]) -> Float32:
        """(B, E) float32 of unit length: the mean of an input's latents.

        Each tower runs once, over the rows that have its modality, and not at all where none has. Rows of one kind then go through
        the cell together, so that no mask is needed and an absent modality costs nothing (promise 8).
        """
        result = torch.empty(len(batch), self.config.dimensions)
        texts = {row: item.tokens for row, item in enumerate(batch) if item.tokens is not None}
        images = {row: item.pixels for row, item in enumerate(batch) if item.pixels is not None}
        text, mask = self.text_states(list(texts.values())) if texts else (None, None)
        vision = self.vision_states(list(images.values())) if images else None
        text_place = {row: place for place, row in enumerate(texts)}
        image_place = {row: place for place, row in enumerate(images)}

        def kind(row: int) -> tuple[str, bool, bool]:
            item = batch[row]
            return item.role.value, item.tokens is not None, item.pixels is not None

        for (role, has_text, has_image), group in groupby(sorted(range(len(batch)), key=kind), key=kind):
            rows = list(group)
            states = States()
            if has_text and text is not None and mask is not None:
                places = [text_place[row] for row in rows]
                states = States([layer[places] for layer in text], mask[places])
            if has_image and vision is not None:
                places = [image_place[row] for row in rows]
                states = States(states.text, states.text_mask, [layer[places] for layer in vision])
            latents = self.side(Role(role))(states)  # (b, K, E)
            result[rows] = F.normalize(latents.float().mean(dim=1), dim=-1).cpu()
        values: Float32 = result.numpy()
        return values

    def text_states(self, tokens: Sequence[NDArray[np.int64]]) -> tuple[list[Tensor], Tensor]:
        """Token ids of several lengths -> tapped states (B, T, Wt) padded to the longest, and the mask (B, T)."""
        rows = [torch.as_tensor(ids) for ids in tokens]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)  # (B, T)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        mask = torch.arange(ids.shape[1], device=self.device)[None] < lengths[:, None]  # (B, T)
        return self.text_tower(ids, mask.long()), mask

    def vision_states(self, pixels: Sequence[Float32]) -> list[Tensor]:
        """Pixels (3, S, S) each -> tapped states (B, P, Wv)."""
        states: list[Tensor] = self.vision_tower(
            torch.stack([torch.as_tensor(image) for image in pixels]).to(self.device)
        )
        return states

    @property
    def device(self) -> torch.device:
        return next(self.sides.parameters()).device


def side_prefixes(config: Ret2Config) -> tuple[str, ...]:
    return ("shared.",) if config.shared_sides else ("query.", "document.")


def _tower_folders(config: Ret2Config, checkpoint: Path | None) -> dict[Modality, Path | None]:
    """Where each tower's weights are; None where the checkpoint holds them itself."""
    parts: tuple[tuple[Modality, BackboneConfig], ...] = (("text", config.text), ("vision", config.vision))
    return {
        modality: None if part.source == "checkpoint" else locate(part.source, part.revision, checkpoint)
        for modality, part in parts
    }


def _tokenizer(path: Path | None) -> preprocess.Tokenizer:
    if path is None:
        return _NoTokenizer()
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class _NoTokenizer:
    """A checkpoint of cells alone can be verified without one, but not be given text."""

    def encode(self, sequence: Any, /) -> preprocess.Encoding:
        raise InvalidInput(
            f"this checkpoint has no {TOKENIZER_FILE}, so text of {len(sequence)} characters cannot be encoded"
        )
