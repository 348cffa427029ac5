"""Readiness: one run of the checks for everybody who asks meanwhile."""

import asyncio

from service.http.health import Health, Readiness


async def test_a_flood_of_probes_is_one_check() -> None:
    runs = 0

    async def check() -> None:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.01)

    readiness = Readiness(lambda: Health({}, {"store": check}, asyncio.Event()))
    answers = await asyncio.gather(*(readiness.states() for _ in range(200)))
    assert answers == [{"store": "ok", "draining": "ok"}] * 200
    assert runs == 1
    await readiness.states()
    assert runs == 2
