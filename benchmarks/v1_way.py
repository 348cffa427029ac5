"""How ReT v1 encodes: both towers for every input, a black picture or an empty text in place of what is absent, every hidden state kept,
and masks in the cell (aimagelab/ReT @ 3fee6aab, `modeling_ret.py`). The same weights and kernels as ours, so the vectors are the same
too; only the work differs. Left out in its favour: v1 prepares the placeholder anew each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.preprocess import Preprocessor
from model.retriever import Retriever
from model.states import States
from model.types import Float32, Prepared


class V1Way:
    """A checkpoint, driven as v1 drives its own."""

    def __init__(self, source: Path) -> None:
        retriever = Retriever.load(str(source))
        self._retriever = retriever
        self._side = retriever.sides["shared"]
        self._text, self._vision = (
            _untapped(tower.encoder) for tower in (retriever.text_tower, retriever.vision_tower)
        )
        self._no_text, self._no_image = _placeholders(retriever.preprocessor, retriever.info.image_size_px)

    @torch.inference_mode()
    def encode(self, batch: Sequence[Prepared]) -> Float32:
        """(B, E) float32 of unit length."""
        ids, mask = _padded([self._no_text if item.tokens is None else item.tokens for item in batch])
        pixels = torch.from_numpy(np.stack([self._no_image if item.pixels is None else item.pixels for item in batch]))
        text = self._text(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states[1:]
        vision = self._vision(pixel_values=pixels, output_hidden_states=True).hidden_states[1:]
        config = self._retriever.ret2_config
        states = States(
            text=[text[layer] for layer in config.text.layers],
            text_mask=mask,
            vision=[vision[layer] for layer in config.vision.layers],
            text_present=torch.tensor([item.tokens is not None for item in batch]).float(),
            image_present=torch.tensor([item.pixels is not None for item in batch]).float(),
        )
        vectors: Float32 = F.normalize(self._side(states).mean(dim=1), dim=-1).numpy()
        return vectors


def _untapped(encoder: Any) -> Any:
    """Without our hooks: transformers keeps the states itself here."""
    for module in encoder.modules():
        module._forward_hooks.clear()
    return encoder


def _placeholders(preprocessor: Preprocessor, size_px: int) -> tuple[np.ndarray[Any, np.dtype[np.int64]], Float32]:
    """Token ids of an empty text, and the pixels of a black picture."""
    ids = np.asarray(preprocessor.tokenizer.encode("").ids, np.int64)
    mean, std = (
        np.asarray(part, np.float32)[:, None, None] for part in (preprocessor.image.mean, preprocessor.image.std)
    )
    return ids, np.broadcast_to(-mean / std, (3, size_px, size_px)).copy()


def _padded(tokens: Sequence[np.ndarray[Any, np.dtype[np.int64]]]) -> tuple[Tensor, Tensor]:
    """Ids (B, T) and mask (B, T), to the longest."""
    longest = max(map(len, tokens))
    ids, mask = np.zeros((len(tokens), longest), np.int64), np.zeros((len(tokens), longest), bool)
    for row, values in enumerate(tokens):
        ids[row, : len(values)], mask[row, : len(values)] = values, True
    return torch.from_numpy(ids), torch.from_numpy(mask)
