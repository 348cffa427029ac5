"""What the towers return and every fusion reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class States:
    """The states that the towers return for a batch: per tapped layer (B, T, Wt) and (B, P, Wv). A modality no row has
    is None.

    `text_present` and `image_present` (B,) mask rows of a mixed batch; None means every row has it.
    """

    text: Sequence[Tensor] | None = None
    text_mask: Tensor | None = None  # (B, T) True where there is a token
    vision: Sequence[Tensor] | None = None
    text_present: Tensor | None = None
    image_present: Tensor | None = None

    @property
    def batch(self) -> int:
        return (self.text or self.vision or ())[0].shape[0]
