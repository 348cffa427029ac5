"""The process that owns one data directory's Qdrant Edge shards: one request at a time over a pipe, tidying up when
idle.

`indexer.store.edge` starts it as `python -m indexer.store.edge.process FD PARENT_PID FOLDER LOCK_WAIT_S READS_PER_CALL
READABLE_DOCUMENTS SETTINGS`. It exists because every Edge call holds the GIL. It lives as long as its end of the pipe,
and dies with its parent. No torch.
"""

from __future__ import annotations

import fcntl
import gc
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from indexer.store.edge.child import live_with_parent
from indexer.store.edge.settings import EdgeSettings
from indexer.store.edge.shards import Shards
from model.errors import DependencyUnavailable, InvalidInput, RetrievalError

log = logging.getLogger(__name__)

# Without a call for this long, maintenance begins.
IDLE_S = 0.5
# While calls keep coming, a step of maintenance is followed by a pause this many times as long: it gets a fifth of the
# time.
BUSY_PAUSE = 4
# Objects between two collections of garbage: a call makes thousands that live as long as it, and Python would look
# through them several times (10 of 60 µs a document).
GARBAGE_THRESHOLD = 50_000


def main() -> None:
    fd, parent_pid, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    lock_wait_s, reads_per_call, readable_documents = float(sys.argv[4]), int(sys.argv[5]), int(sys.argv[6])
    settings = EdgeSettings(**json.loads(sys.argv[7]))
    live_with_parent(parent_pid)
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)
    with Connection(fd) as pipe:
        try:
            lock = _lock(folder, lock_wait_s)
            shards = Shards(folder, reads_per_call, readable_documents, settings=settings)
        except (RetrievalError, OSError) as error:
            pipe.send(
                error if isinstance(error, RetrievalError) else DependencyUnavailable(f"cannot open {folder}: {error}")
            )
            return
        pipe.send(None)
        try:
            _serve(pipe, shards)
        finally:
            shards.close()
            os.close(lock)


def _serve(pipe: Connection[Any, Any], shards: Shards) -> None:
    """Answer each (method, arguments) of a message with its result or a `RetrievalError`, until the other end is
    closed."""
    methods = served_methods(shards)
    stepped, took_s, pause_s = time.monotonic(), 0.0, IDLE_S
    while True:
        if shards.untidy:
            quiet = not pipe.poll(pause_s)
            began = time.monotonic()
            if quiet or began - stepped > BUSY_PAUSE * took_s:
                _tidy(shards, quiet)
                stepped = time.monotonic()
                took_s = stepped - began
                pause_s = IDLE_S if shards.waiting else took_s
            if quiet:
                continue
        pause_s = IDLE_S
        try:
            for name, arguments in pipe.recv():
                pipe.send(_answer(methods[name], *arguments))
        except (EOFError, ConnectionError):
            return


def served_methods(shards: Shards) -> dict[str, Callable[..., Any]]:
    """Return what the other end may call, by name."""
    s, r = shards, shards.reader
    methods: tuple[Callable[..., Any], ...] = (
        *(s.create, s.drop, s.copy, s.restore, s.layout, s.summaries, s.summary, s.ping),
        *(s.writing, s.write, s.set_metadata, s.delete),
        *(r.search, r.rank, r.ranked, r.rerank, r.boost, r.hits, r.best_parts, r.read, r.count),
        *(r.page, r.scroll, r.images, r.index_for, r.rows, r.scan, r.facet, r.ordered),
    )
    return {method.__name__: method for method in methods}


def _tidy(shards: Shards, quiet: bool) -> None:
    """Do one step of maintenance. No caller waits for it, so a failure is logged; the next write has it tried again."""
    failed = _answer(shards.tidy, quiet)
    if failed is not None:
        log.error("Qdrant Edge maintenance failed: %s", failed.detail)


def _answer(method: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return _translated(method, *arguments)
    except RetrievalError as error:
        return error


def _translated(method: Callable[..., Any], *arguments: Any) -> Any:
    """Call a method and turn the errors of Qdrant Edge into a `RetrievalError`; no other place does.

    Edge raises bare `Exception`, and three other kinds for Python values that it cannot convert. A Rust panic is a
    `BaseException`: it ends this process, and the client starts another.
    """
    try:
        return method(*arguments)
    except RetrievalError:
        raise
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"the store cannot hold or compare this value: {error}"[:300]) from error
    except Exception as error:
        unavailable = DependencyUnavailable(f"Qdrant Edge failed in {method.__name__}: {error}"[:500])
        unavailable.add_note(traceback.format_exc())  # a cause does not survive the pipe, a note does
        raise unavailable from error


def _lock(folder: Path, wait_s: float) -> int:
    """Lock the folder until this process ends, however it ends: one process per data directory."""
    folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    give_up_at = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > give_up_at:
                raise DependencyUnavailable(f"{folder} is in use by another process, waited {wait_s:g} s") from error
            time.sleep(0.05)
        else:
            return fd


if __name__ == "__main__":
    main()
