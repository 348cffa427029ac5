"""Recurrent cell: one gated step that folds a text layer and a vision layer into the latents. Shapes: B K D, T text tokens, P patches."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import Ret2Config


class Attention(nn.Module):
    """Multi-head attention with one packed input projection, as `nn.MultiheadAttention` stores it."""

    def __init__(self, size: int, heads: int, *, bias: bool, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * size, size))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * size)) if bias else None
        self.out_proj = nn.Linear(size, size, bias=bias)
        nn.init.xavier_uniform_(self.in_proj_weight)
        if bias:
            nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """query (B, K, D), context (B, T, D), mask (B, T) True where attended -> (B, K, D)."""
        weights = self.in_proj_weight.chunk(3)
        biases: tuple[Tensor | None, ...] = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # (B, H, ., D/H)
            for x, w, b in zip((query, context, context), weights, biases, strict=True)
        )
        attended = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if mask is None else mask[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        merged: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))  # (B, K, D)
        return merged


class RecurrentCell(nn.Module):
    """One step H -> H', the same weights at every step (DESIGN §5; ReT v1 `RetCell` with its settings).

    Gates are per latent and channel and come from the cross-attention outputs alone. A modality that is absent contributes nothing:
    neither its input gate nor its part of the forget gate.
    """

    positions: Tensor

    def __init__(self, config: Ret2Config) -> None:
        super().__init__()
        size = config.hidden_size
        self.latents = nn.Parameter(torch.randn(1, config.num_latents, size) * 0.2)
        positions = (
            sinusoids(config.num_latents, size) if config.latent_positions else torch.zeros(config.num_latents, size)
        )
        self.register_buffer("positions", positions[None], persistent=False)
        self.norm, self.text_norm, self.vision_norm, self.mlp_norm = (nn.LayerNorm(size) for _ in range(4))
        heads, dropout = config.num_heads, config.attention_dropout
        self.self_attention = Attention(size, heads, bias=True, dropout=dropout)
        self.text_attention = Attention(size, heads, bias=False, dropout=dropout)
        self.vision_attention = Attention(size, heads, bias=False, dropout=dropout)
        self.text_input_gate, self.text_forget_gate = nn.Linear(size, size), nn.Linear(size, size)
        self.vision_input_gate, self.vision_forget_gate = nn.Linear(size, size), nn.Linear(size, size)
        self.mlp = nn.Sequential(
            nn.Linear(size, config.intermediate_size),
            nn.Dropout(config.dropout),
            nn.GELU() if config.activation == "gelu" else nn.ReLU(),
            nn.Linear(config.intermediate_size, size),
            nn.Dropout(config.dropout),
        )
        self.input_gate_prior, self.forget_gate_prior = config.input_gate_prior, config.forget_gate_prior
        self.state_tanh = config.state_tanh

    def initial(self, batch: int) -> Tensor:
        return self.latents.expand(batch, -1, -1)  # (B, K, D)

    def forward(
        self,
        state: Tensor,  # (B, K, D)
        text: Tensor | None,  # (B, T, D)
        vision: Tensor | None,  # (B, P, D)
        text_mask: Tensor | None = None,  # (B, T) True where there is a token
        text_present: Tensor | None = None,  # (B,) 1 or 0; None: present in every row
        image_present: Tensor | None = None,
    ) -> Tensor:
        state = state + self.positions
        normed = self.norm(state)
        residual = state + self.self_attention(normed, normed)
        forget: Tensor | float = self.forget_gate_prior
        total = torch.zeros_like(residual)
        if text is not None:
            read = self.text_attention(normed, self.text_norm(text), text_mask)
            present = 1.0 if text_present is None else text_present[:, None, None]
            forget = forget + self.text_forget_gate(read) * present
            total = total + self._squash(read) * (
                torch.sigmoid(self.text_input_gate(read) + self.input_gate_prior) * present
            )
        if vision is not None:
            read = self.vision_attention(normed, self.vision_norm(vision))
            present = 1.0 if image_present is None else image_present[:, None, None]
            forget = forget + self.vision_forget_gate(read) * present
            total = total + self._squash(read) * (
                torch.sigmoid(self.vision_input_gate(read) + self.input_gate_prior) * present
            )
        state = self._squash(residual) * torch.sigmoid(torch.as_tensor(forget, dtype=residual.dtype)) + total
        return state + self.mlp(self.mlp_norm(state))  # type: ignore[no-any-return]

    def _squash(self, values: Tensor) -> Tensor:
        return values.tanh() if self.state_tanh else values


def sinusoids(positions: int, size: int) -> Tensor:
    """(positions, size): sine on even channels, cosine on odd ones, wavelengths up to 10000 · 2π."""
    angle = torch.arange(positions)[:, None] * torch.exp(torch.arange(0, size, 2) * (-math.log(10000.0) / size))
    table = torch.zeros(positions, size)
    table[:, 0::2], table[:, 1::2] = angle.sin(), angle.cos()
    return table
