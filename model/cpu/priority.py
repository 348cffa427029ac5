"""The priority of threads where they outnumber the cores."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

_NICE = 5


def yield_to_others() -> None:
    """Lower the priority of the calling thread, which computes for long.

    Threads that answer callers, decode or read the index need short moments and must get them at once; otherwise each
    of their steps waits several milliseconds for its turn. On Linux each thread has a niceness of its own and passes it
    on to the threads that it starts.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            of_process = os.getpriority(os.PRIO_PROCESS, os.getpid())
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), of_process + _NICE)  # the kernel's limit is 19
