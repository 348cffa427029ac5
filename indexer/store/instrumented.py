"""A store that reports the duration of every call."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from opentelemetry.trace import SpanKind

from indexer.observability import tracing
from indexer.observability.watch import Watch
from indexer.store.base import Store
from model.errors import DependencyUnavailable

AnyStore = TypeVar("AnyStore", bound=Store)


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
