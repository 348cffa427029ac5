"""Readiness: one run of the checks for everybody who asks meanwhile."""

import asyncio

from service.http.health import Health, Readiness, ReadyReport


async def test_a_flood_of_probes_is_one_check() -> None:
    runs = 0

    async def check() -> None:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0.01)

    async def models() -> dict[str, str]:
        return {"m": "ok"}

    readiness = Readiness(lambda: Health({}, {"store": check}, models, asyncio.Event()))
    answers = await asyncio.gather(*(readiness.report() for _ in range(200)))
    assert answers == [ReadyReport({"store": "ok", "draining": "ok"}, {"m": "ok"})] * 200
    assert runs == 1
    await readiness.report()
    assert runs == 2
