"""Scores between sets of latents."""

from __future__ import annotations

from torch import Tensor


def maxsim(queries: Tensor, documents: Tensor) -> Tensor:
    """Score by late interaction: the sum over query latents of the largest dot product with a document latent.

    queries (Q, K, E), documents (N, K', E) -> (Q, N), between -K and K for unit latents. Source: ColBERT (arXiv
    2004.12832), used by ReT v1.
    """
    return (queries[:, None] @ documents[None].transpose(-1, -2)).amax(dim=-1).sum(dim=-1)
