"""Recurrent cell: one gated step that folds a text layer and a vision layer into the latents. Shapes: B K D, T text
tokens, P patches."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import Ret2Config
from model.contributions import magnitudes


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
        """Attend from query (B, K, D) to context (B, T, D), where mask (B, T) is True for the tokens to attend to.
        Return (B, K, D)."""
        queries, tokens = query.shape[1], context.shape[1]
        if tokens == 1 and mask is None and not self.training:
            read = self._of_one(context).expand(-1, queries, -1)
        elif self._queries_are_few(queries, tokens):
            read = self._by_query(query, context, mask)
        else:
            read = self._by_context(query, context, mask)
        merged: Tensor = self.out_proj(read)
        return merged

    def _project(self, values: Tensor, part: int) -> Tensor:
        """Project values by the weights of queries (part 0), keys (1) or values (2)."""
        weights, biases = self._parts()
        return F.linear(values, weights[part], biases[part])

    def _of_one(self, context: Tensor) -> Tensor:
        """Attend to a single token. All attention goes to it whatever the query is, as in the self-attention of one
        latent."""
        return self._project(context, 2)

    def _queries_are_few(self, queries: int, tokens: int) -> bool:
        """Return whether projecting the queries into the space of the context is less work than projecting the context
        into that of each head.

        The multiplications of the two ways, apart from what they share, are 2KD^2 + 2KTHD and 2TD^2 + 2KTD.
        """
        size = self.out_proj.in_features
        return queries * (size + self.heads * tokens) < tokens * (size + queries)

    def _by_context(self, query: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """Attend in the usual way, with keys and values of every token."""
        q, k, v = (
            self._project(x, part).view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # (B, H, ., D/H)
            for part, x in enumerate((query, context, context))
        )
        attended = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=None if mask is None else mask[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return attended.transpose(1, 2).flatten(2)

    def _by_query(self, query: Tensor, context: Tensor, mask: Tensor | None) -> Tensor:
        """Attend with few queries: q (W c) = (q W) c and sum a (W c) = W (sum a c), so no token is projected.

        A bias of the keys adds the same number to every score of a query, which softmax cancels. The bias of the values
        is added once, because the attention sums to 1.
        """
        (_, wk, wv), (_, _, bv) = self._parts()
        batch, queries, size = query.shape
        heads = self.heads, size // self.heads, size  # (H, D/H, D)
        q = self._project(query, 0).view(batch * queries, self.heads, -1).transpose(0, 1)  # (H, BK, D/H)
        projected = torch.bmm(q, wk.view(heads)).view(self.heads, batch, queries, size)
        projected = projected.permute(1, 0, 2, 3).flatten(1, 2)  # (B, HK, D)
        scores = torch.bmm(projected, context.transpose(1, 2)) * (size // self.heads) ** -0.5  # (B, HK, T)
        if mask is not None:  # not -inf: a row that attends to nothing is finite, and its presence is 0
            scores = scores.masked_fill(~mask[:, None, :], torch.finfo(scores.dtype).min)
        attended = F.dropout(scores.softmax(dim=-1), self.dropout, self.training)
        read = torch.bmm(attended, context).view(batch, self.heads, queries, size)
        read = read.transpose(0, 1).reshape(self.heads, batch * queries, size)  # (H, BK, D)
        values = torch.bmm(read, wv.view(heads).transpose(1, 2)).transpose(0, 1).reshape(batch, queries, size)
        return values if bv is None else values + bv

    def _parts(self) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
        """Return the weights (D, D) and biases (D) of queries, keys and values."""
        biases = self.in_proj_bias
        return self.in_proj_weight.chunk(3), (None,) * 3 if biases is None else biases.chunk(3)


class RecurrentCell(nn.Module):
    """One step H -> H', the same weights at every step (docs/explain.md; ReT v1 `RetCell` with its settings).

    Gates are per latent and channel and come from the cross-attention outputs alone. A modality that is absent
    contributes nothing: neither its input gate nor its part of the forget gate.
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
        contributions: list[Tensor]
        | None = None,  # where given, what this step took in is appended: `model.contributions`
    ) -> Tensor:
        state = state + self.positions
        normed = self.norm(state)
        residual = state + self.self_attention(normed, normed)
        forget: Tensor | float = self.forget_gate_prior
        text_in = image_in = torch.zeros_like(residual)
        if text is not None:
            read = self.text_attention(normed, self.text_norm(text), text_mask)
            present = 1.0 if text_present is None else text_present[:, None, None]
            forget = forget + self.text_forget_gate(read) * present
            text_in = self._squash(read) * (torch.sigmoid(self.text_input_gate(read) + self.input_gate_prior) * present)
        if vision is not None:
            read = self.vision_attention(normed, self.vision_norm(vision))
            present = 1.0 if image_present is None else image_present[:, None, None]
            forget = forget + self.vision_forget_gate(read) * present
            image_in = self._squash(read) * (
                torch.sigmoid(self.vision_input_gate(read) + self.input_gate_prior) * present
            )
        if contributions is not None:
            contributions.append(magnitudes(text_in, image_in))
        gated = self._squash(residual) * torch.sigmoid(torch.as_tensor(forget, dtype=residual.dtype))
        state = gated + text_in + image_in
        return state + self.mlp(self.mlp_norm(state))  # type: ignore[no-any-return]

    def _squash(self, values: Tensor) -> Tensor:
        return values.tanh() if self.state_tanh else values


def sinusoids(positions: int, size: int) -> Tensor:
    """Return sinusoidal position embeddings (positions, size): sines on even channels, cosines on odd ones, wavelengths
    up to 10000 · 2π."""
    angle = torch.arange(positions)[:, None] * torch.exp(torch.arange(0, size, 2) * (-math.log(10000.0) / size))
    table = torch.zeros(positions, size)
    table[:, 0::2], table[:, 1::2] = angle.sin(), angle.cos()
    return table
