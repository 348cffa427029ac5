"""Which lines are written at which level."""

import logging
from collections.abc import Iterator

import pytest
import structlog

from service.observability.logs import configure_logs


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root, configured = logging.getLogger(), structlog.get_config()
    handlers = list(root.handlers)
    loggers = [root, *map(logging.getLogger, ("audit", "service", "indexer", "model", "uvicorn"))]
    levels = [logger.level for logger in loggers]
    yield
    root.handlers = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    structlog.configure(**configured)


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_audit_log_is_written_at_every_level(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(level)
    structlog.get_logger("audit").info("audit", action="DELETE /collections/{name}")
    structlog.get_logger("service.api").info("request")
    written = capsys.readouterr().err
    assert '"event": "audit"' in written
    assert ('"event": "request"' in written) == (level in ("debug", "info"))


def test_extra_fields_of_the_standard_library_appear(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info")
    logging.getLogger("indexer.store").warning("Edge process died", extra={"exit_code": -9})
    assert '"exit_code": -9' in capsys.readouterr().err


def test_text_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "text")
    structlog.get_logger("service.api").info("ready", url="http://127.0.0.1:8080/")
    written = capsys.readouterr().err
    assert "ready" in written
    assert "url=http://127.0.0.1:8080/" in written
    assert "{" not in written
