"""The process that builds shards."""

import errno
import os
import subprocess
import sys

import pytest

from indexer.store.edge import builder


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this policy")
def test_a_builder_computes_only_while_nobody_else_would() -> None:
    code = (
        "import os; from indexer.store.edge import builder; builder._yield_to_others(); "
        "print(os.sched_getscheduler(0), os.nice(0))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == [str(os.SCHED_IDLE), "19"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this policy")
@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL])
def test_a_builder_builds_where_that_policy_is_refused(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "nice", lambda _: 19)
    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    builder._yield_to_others()
