"""The encoders that a process can reach. Each collection is served by the one whose model filled it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from indexer.encoding.encoder import Encoder
from model.errors import RetrievalError
from model.types import ModelInfo


@dataclass(frozen=True, slots=True)
class Encoders:
    """`first` is for whatever names no collection, and for new ones; `next` is the one that collections are reindexed
    with."""

    first: Encoder
    next: Encoder | None = None

    @classmethod
    def of(cls, encoder: Encoder | Self) -> Self:
        return encoder if isinstance(encoder, cls) else cls(encoder)  # type: ignore[arg-type]

    @property
    def all(self) -> tuple[Encoder, ...]:
        return (self.first,) if self.next is None else (self.first, self.next)

    async def by_fingerprint(self, fingerprint: str) -> tuple[Encoder, ModelInfo] | None:
        """None when every one of them is of another model; raises `DependencyUnavailable` when one that may be it is
        away."""
        away: RetrievalError | None = None
        for encoder in self.all:
            try:
                info = await encoder.info()
            except RetrievalError as error:
                away = error
                continue
            if info.fingerprint == fingerprint:
                return encoder, info
        if away is not None:
            raise away
        return None
