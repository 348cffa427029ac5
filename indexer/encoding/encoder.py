"""The seam between the index and the model: whoever can embed. In process it is the batcher, across processes an HTTP
client."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

from model.errors import RetrievalError
from model.passages import Cut, Passages
from model.types import Embedding, Input, ModelInfo, Role


class Lane(StrEnum):
    """The queue in which an input waits. Searches go before bulk work; bulk never starves."""

    SEARCH = "search"
    BULK = "bulk"


class Encoder(Protocol):
    """Safe to call from many tasks at once. One result or one error per input, in order."""

    async def encode(self, inputs: Sequence[Input], *, role: Role, lane: Lane) -> list[Embedding | RetrievalError]:
        """Embed inputs, with a result or an error for each. Raises `Overloaded` (for the whole call; nothing is encoded
        then) or `DependencyUnavailable`."""
        ...

    async def passages(self, texts: Sequence[str], cut: Cut) -> list[Passages]:
        """Cut texts into passages that the model reads whole. Raises `DependencyUnavailable`."""
        ...

    async def info(self) -> ModelInfo:
        """Return what the model is. Raises `DependencyUnavailable` if no encoder answers."""
        ...
