"""The hosts of models as a process starts, stops and checks them: itself, or encoder processes behind URLs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from indexer.encoding.http_encoder import HttpEncoder
from indexer.encoding.registry import Encoders, ModelState
from model.errors import RetrievalError
from service.encoder.models import LocalModels

Host = LocalModels | HttpEncoder


async def check_any(hosts: Sequence[Host], max_age_s: float) -> None:
    """Raise the error of the first host unless one of them works."""
    checks = [asyncio.create_task(host.check(max_age_s)) for host in hosts]
    try:
        for check in asyncio.as_completed(checks):
            with suppress(RetrievalError):
                return await check
        await checks[0]
    finally:
        for task in checks:
            task.cancel()
        await asyncio.gather(*checks, return_exceptions=True)


async def model_states(encoders: Encoders) -> dict[str, str]:
    """Return `ok`, or what is wrong, of each model that is known."""
    with suppress(RetrievalError):
        return {
            model.name: "ok" if model.state is ModelState.READY else model.detail or model.state
            for model in await encoders.served()
        }
    return {}
