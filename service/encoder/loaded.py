"""A loaded model as the batcher uses it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from model.passages import Cut, Passages
from model.types import Encoded, Input, ModelInfo, Prepared, Role
from service.encoder.budget import Budget


class Runtime(Protocol):
    """A model on its device. `launch` is called by a single thread, everything else by several at once.

    Models of one batcher share a device: `in_flight` and `broken` are the device's.
    """

    @property
    def info(self) -> ModelInfo: ...

    @property
    def in_flight(self) -> int:
        """The number of batches that may be launched and not yet done."""
        ...

    @property
    def broken(self) -> bool:
        """Whether the device fails every call until the process is replaced."""
        ...

    def estimate(self, item: Input) -> int:
        """Return an upper bound, at least 1, of the cost that `prepare` will find, without decoding or tokenising."""
        ...

    def prepare(self, item: Input, role: Role) -> Prepared:
        """Decode and tokenise. Raises `InvalidInput` or `TooLarge`."""
        ...

    def passages(self, text: str, cut: Cut) -> Passages:
        """Cut a text into passages that the model reads whole."""
        ...

    def launch(self, batch: Sequence[Prepared]) -> Callable[[], Encoded]:
        """Start the forward and return a function that waits for the result, in any thread."""
        ...


@dataclass(slots=True, eq=False)
class LoadedModel:
    """A model in the batcher: what a batch of it may cost, and when a forward of it last worked."""

    runtime: Runtime
    budget: Budget
    last_success: float | None = None
