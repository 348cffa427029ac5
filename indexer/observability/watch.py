"""The events of the index that the service turns into metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Watch(Protocol):
    """A receiver of events. Its methods are called from any thread, return at once and never raise."""

    def settled(self, result: str, documents: int) -> None:
        """Count documents that were indexed, deleted, skipped or failed."""

    def truncated(self, documents: int) -> None:
        """Count indexed documents of whose text a part has no embedding."""

    def tried_again(self, cause: str) -> None:
        """Count a batch that goes back: `waiting` for a dependency, or after an `attempt` that failed."""

    def called_store(self, operation: str, seconds: float, *, failed: bool) -> None: ...

    def called_ledger(self, seconds: float, *, failed: bool) -> None: ...

    def saw_collections(self, states: Mapping[str, int]) -> None:
        """Take how many collections of a Qdrant server are in each state, of those used in the last minute."""


class Nobody:
    def settled(self, result: str, documents: int) -> None: ...

    def truncated(self, documents: int) -> None: ...

    def tried_again(self, cause: str) -> None: ...

    def called_store(self, operation: str, seconds: float, *, failed: bool) -> None: ...

    def called_ledger(self, seconds: float, *, failed: bool) -> None: ...

    def saw_collections(self, states: Mapping[str, int]) -> None: ...


NOBODY: Watch = Nobody()
