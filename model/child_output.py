"""The standard error of a child process, for the log of its parent: a child that dies says why there."""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
from collections import deque
from typing import IO

log = logging.getLogger(__name__)

_KEPT_LINES, _MAX_LINE_BYTES = 20, 1000
_END_S = 1.0


class ChildOutput:
    """The lines of one child's standard error, read by a thread until the child ends; the last of them are kept.

    With `logged` each line is a warning of its own as it comes.
    """

    def __init__(self, stream: IO[bytes], process_name: str, *, logged: bool) -> None:
        self._stream, self._process_name, self._logged = stream, process_name, logged
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._thread = threading.Thread(target=self._read, name=f"stderr of {process_name}", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._stream:
            while data := self._stream.readline(_MAX_LINE_BYTES):
                line = data.decode(errors="replace").rstrip()
                self._lines.append(line)
                if self._logged and line:
                    log.warning("child process wrote", extra={"child": self._process_name, "line": line})

    def last_words(self) -> str:
        """Return the last lines, of a child that has ended."""
        self._thread.join(_END_S)
        return "\n".join(self._lines)


def ending(process: subprocess.Popen[bytes], patience_s: float = _END_S) -> str:
    """Return how a process ended, for people. One that still runs after `patience_s` is killed."""
    try:
        code = process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"it did not end within {patience_s:g} s and was killed"
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"signal {-code} ({signal.Signals(-code).name})"
    except ValueError:
        return f"signal {-code}"
