"""What the index tells of itself while it works; the service makes metrics of it. Nobody has to listen."""

from __future__ import annotations

from typing import Protocol


class Watch(Protocol):
    """Called from any thread; returns at once and never raises."""

    def settled(self, result: str, documents: int) -> None:
        """What became of documents: indexed, deleted, skipped or failed."""

    def tried_again(self, cause: str) -> None:
        """A batch goes back: `waiting` for what does not answer, or after an `attempt` that failed."""

    def called_store(self, operation: str, seconds: float, *, failed: bool) -> None: ...

    def called_ledger(self, seconds: float, *, failed: bool) -> None: ...


class Nobody:
    def settled(self, result: str, documents: int) -> None: ...

    def tried_again(self, cause: str) -> None: ...

    def called_store(self, operation: str, seconds: float, *, failed: bool) -> None: ...

    def called_ledger(self, seconds: float, *, failed: bool) -> None: ...


NOBODY: Watch = Nobody()
