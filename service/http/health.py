"""The health of a process: whether its parts are alive, its dependencies answer, and it is stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from model.errors import DependencyUnavailable, RetrievalError

_CHECK_TIMEOUT_S = 5.0  # of one readiness check; over a forward on a slow CPU, under a probe's usual patience


@dataclass(frozen=True, slots=True)
class ReadyReport:
    """`ok`, or what is wrong, of each check and of each model. The checks alone decide on readiness."""

    checks: dict[str, str]
    models: dict[str, str]


@dataclass(frozen=True, slots=True)
class Health:
    """`alive` turns false when only a restart helps; a check that raises `RetrievalError` or takes too long makes it
    unready."""

    alive: Mapping[str, Callable[[], bool]]
    checks: Mapping[str, Callable[[], Awaitable[Any]]]
    # The state of each model, `ok` or what is wrong: one that does not work makes its own collections unavailable only.
    models: Callable[[], Awaitable[dict[str, str]]]
    draining: asyncio.Event

    def dead(self) -> list[str]:
        return [name for name, alive in self.alive.items() if not alive()]

    async def report(self) -> ReadyReport:
        """Run every check, then read the state of each model, which the checks have tried."""
        checks = {**self.checks, "draining": self._not_draining}
        states = await asyncio.gather(*(_state(check()) for check in checks.values()))
        # After the checks, which try the models.
        return ReadyReport(dict(zip(checks, states, strict=True)), await self.models())

    async def _not_draining(self) -> None:
        if self.draining.is_set():
            raise DependencyUnavailable("this process is stopping")


class Readiness:
    """Readiness checks that run once for all callers at a time, so that a flood of probes costs no more than one."""

    def __init__(self, health: Callable[[], Health]) -> None:
        self._health = health
        self._running: asyncio.Task[ReadyReport] | None = None

    async def report(self) -> ReadyReport:
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._health().report())
        return await asyncio.shield(self._running)


async def _state(check: Awaitable[Any]) -> str:
    try:
        await asyncio.wait_for(check, _CHECK_TIMEOUT_S)
    except TimeoutError:
        return f"no answer within {_CHECK_TIMEOUT_S:g} s"
    except RetrievalError as error:
        return error.detail
    return "ok"
