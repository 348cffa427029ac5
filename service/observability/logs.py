"""Logs: one JSON object a line on standard error, ours at the level that was asked for, others' only when something is
wrong. The audit log is written at every level."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from service.observability.tracing import add_trace

_OURS = ("service", "indexer", "model", "uvicorn")


def configure_logs(level: str, log_format: str | None = None) -> None:
    """Write the events of structlog and of the standard library alike to standard error: a JSON object a line, or text
    for people.

    Events of structlog, of which each request has one, do not pass through the standard library's records and handlers,
    which would take twice as long. Only the levels are asked of its loggers.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        add_trace,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    text = log_format == "text" or (log_format is None and sys.stderr.isatty())
    renderer: structlog.typing.Processor
    if text:
        # It formats exceptions itself.
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    else:
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    handler = logging.StreamHandler(sys.stderr)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, renderer],
        logger_factory=lambda name: _LineLogger(name, handler),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                _drop_color,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    # Others say at DEBUG and INFO what they send and where: addresses, headers, bodies, some of it secret.
    root.setLevel(logging.WARNING)
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper())
    logging.getLogger("audit").setLevel(logging.INFO)  # who wants fewer lines still has to know who changed what
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).propagate = name != "uvicorn.access"  # RequestLog writes that line


class _LineLogger:
    """Writes lines that are rendered already, in turn with those of a handler.

    The logger of the standard library with the same name has its level.
    """

    disabled = False

    def __init__(self, name: str, handler: logging.StreamHandler[TextIO]) -> None:
        self.name = name
        self._handler = handler
        self.getEffectiveLevel = logging.getLogger(name).getEffectiveLevel

    def _write(self, line: str) -> None:
        self._handler.acquire()
        try:
            self._handler.stream.write(line + "\n")
            self._handler.flush()
        except (OSError, ValueError):
            # Nobody reads the log any more. Callers are answered all the same.
            pass
        finally:
            self._handler.release()

    debug = info = warning = error = critical = exception = _write


def _drop_color(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event.pop("color_message", None)  # uvicorn's, for terminals
    return event
