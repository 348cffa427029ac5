"""What the index tells of itself while it works; the service makes metrics of it. Nobody has to listen."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast

from opentelemetry.trace import SpanKind

from indexer import tracing
from indexer.store import Store
from model.errors import DependencyUnavailable

AnyStore = TypeVar("AnyStore", bound=Store)


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


def watched(store: AnyStore, watch: Watch) -> AnyStore:
    """The same store, each call of which is told of."""
    return cast(AnyStore, _Watched(store, watch))


class _Watched:
    """Whatever calls the two seams of a store have or will have: those that are awaited are measured, `points` is watched too."""

    def __init__(self, inner: Any, watch: Watch) -> None:
        self._inner, self._watch = inner, watch

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._inner, name)
        if name == "points":
            return lambda collection: _Watched(member(collection), self._watch)
        return self._measured(name, member) if inspect.iscoroutinefunction(member) else member

    def _measured(self, name: str, member: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            began, failed = time.perf_counter(), False
            try:
                with tracing.span(f"store {name}", SpanKind.CLIENT):
                    return await member(*args, **kwargs)
            except DependencyUnavailable:
                failed = True
                raise
            finally:
                self._watch.called_store(name, time.perf_counter() - began, failed=failed)

        return call
