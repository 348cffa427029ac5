"""Who goes first where threads outnumber cores."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

_NICE = 5


def yield_to_others() -> None:
    """For a thread that computes for long. Those that answer callers, decode or read the index need a moment, and are
    to have it at once: otherwise each of their steps waits for a turn of several milliseconds behind it. On Linux a
    thread has a niceness of its own, and hands it on to those it starts."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            of_process = os.getpriority(os.PRIO_PROCESS, os.getpid())
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), of_process + _NICE)  # the kernel's limit is 19
