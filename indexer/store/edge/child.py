"""Starting a child process of our own with a pipe to it, and being one."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


def start(
    module: str, arguments: Sequence[object], *, stderr: int | None = None
) -> tuple[subprocess.Popen[bytes], Connection[Any, Any]]:
    """Start `python -m MODULE FD PARENT_PID ARGUMENTS…`, where FD is the child's end of the pipe that is returned."""
    # A plain command, not multiprocessing: that would import the parent's main module, torch and all.
    own_end, child_end = socket.socketpair()
    with own_end, child_end:
        fd = child_end.fileno()
        process = subprocess.Popen(
            [sys.executable, "-P", "-X", "faulthandler", "-m", module, *map(str, (fd, os.getpid(), *arguments))],
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)},
        )
        return process, Connection(own_end.detach())


def live_with_parent(parent_pid: int) -> None:
    """End this process in order when the pipe is closed, not at a signal to the group, and at once when its parent
    dies.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        pr_set_pdeathsig = 1  # linux/prctl.h; elsewhere the pipe's end is noticed when the call in hand is done
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the line above
        sys.exit(1)
