"""Measuring a store: the duration, the span and the failures of each operation, under one name on every engine."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from opentelemetry.trace import SpanKind

from indexer.observability import tracing
from indexer.observability.watch import Watch
from model.errors import DependencyUnavailable


class Measured(Protocol):
    """An object whose operations are reported to `watch`."""

    @property
    def watch(self) -> Watch: ...


Owner = TypeVar("Owner", bound=Measured)
Parameters = ParamSpec("Parameters")
Answer = TypeVar("Answer")
Operation = Callable[Concatenate[Owner, Parameters], Coroutine[Any, Any, Answer]]


def measured(operation: Operation[Owner, Parameters, Answer]) -> Operation[Owner, Parameters, Answer]:
    """Report every call of this method, under the method's name."""
    name = operation.__name__

    @functools.wraps(operation)
    async def call(owner: Owner, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Answer:
        began, failed = time.perf_counter(), False
        try:
            with tracing.span(f"store {name}", SpanKind.CLIENT):
                return await operation(owner, *args, **kwargs)
        except DependencyUnavailable:
            failed = True
            raise
        finally:
            owner.watch.called_store(name, time.perf_counter() - began, failed=failed)

    return call
