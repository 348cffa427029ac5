"""The shares of text and image in an embedding, read from the gates of the recurrent cell during the forward.

At each tapped layer the cell adds C_t = act(Z_t) · i_t of the text and C_v = act(Z_v) · i_v of the image to its state
(docs/explain.md). What came in of each is the mean of |C| over latents and channels, and its share is that
divided by what
came in of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def magnitudes(text: Tensor, image: Tensor) -> Tensor:
    """Return what one step adds to the latents: (B, K, D) of each modality -> (B, 2). A modality that is absent or shut
    out has exactly 0."""
    return torch.stack([part.detach().float().abs().mean(dim=(1, 2)) for part in (text, image)], dim=1)


def shares(steps: Sequence[Tensor]) -> Tensor:
    """Return the shares of text and image: `magnitudes` of each step -> (B, L, 2). They sum to 1, or are both 0 where
    the gates let nothing in."""
    stacked = torch.stack(tuple(steps), dim=1)
    return stacked / stacked.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(stacked.dtype).tiny)
