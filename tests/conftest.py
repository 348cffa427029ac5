"""Fixtures that unit and integration tests share."""

import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import structlog
from fake_runtime import FakeRuntime, until
from hypothesis import settings as hypothesis_settings
from needs import need
from PIL import Image
from postgres_server import postgres, postgres_process, postgres_url  # noqa: F401 - fixtures
from prometheus_client import CollectorRegistry
from store_cases import CASES

from service.encoder.batcher import Batcher
from service.observability.metrics import Metrics
from service.settings import QueueSettings

# Machines are shared and noisy: how long an example takes says nothing, and a failure must be repeatable.
hypothesis_settings.register_profile("ret2", deadline=None, derandomize=True)
hypothesis_settings.load_profile("ret2")


def pytest_configure(config: pytest.Config) -> None:
    """Keep compiled models beside the tests, also for the processes that they start, and compare exact embeddings."""
    cache = config.rootpath / ".pytest_cache" / "ret2"
    os.environ.setdefault("RET2_CACHE_DIR", str(cache))
    os.environ.setdefault("RET2_PRECISION", "float32")


@pytest.fixture(autouse=True, scope="session")
def plain_logs() -> None:
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.KeyValueRenderer()])


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture
async def make_batcher(runtime: FakeRuntime) -> AsyncIterator[Callable[..., Awaitable[Batcher]]]:
    started: list[Batcher] = []

    async def make(*, start: bool = True, **options: Any) -> Batcher:
        keywords = {
            key: options.pop(key) for key in ("budget", "prepare_threads", "stuck_after_s", "clock") if key in options
        }
        batcher = Batcher(runtime, QueueSettings(**options), Metrics(CollectorRegistry()), **keywords)
        if start:
            batcher.start()
            started.append(batcher)
        return batcher

    yield make
    runtime.gate.set()
    for batcher in started:
        await batcher.stop(grace_s=5)


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    return until


@pytest.fixture
def make_image() -> Callable[..., bytes]:
    def make(
        color: Any = "red", size: tuple[int, int] = (8, 8), mode: str = "RGB", kind: str = "PNG", **options: Any
    ) -> bytes:
        file = io.BytesIO()
        Image.new(mode, size, color).save(file, kind, **options)
        return file.getvalue()

    return make


@pytest.fixture(scope="session", name="need")
def need_as_fixture() -> Callable[[bool, str], None]:
    return need


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of pytest-xdist hands its counts to the one that prints."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["store_cases"] = dict(CASES)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    CASES.update(getattr(node, "workeroutput", {}).get("store_cases", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if CASES:
        counts = ", ".join(f"{store} {count:,}" for store, count in sorted(CASES.items()))
        terminalreporter.write_line(f"store contract, searches compared with plain Python: {counts}")
