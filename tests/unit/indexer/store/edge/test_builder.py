"""The process that builds shards."""

import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this policy")
def test_a_builder_computes_only_while_nobody_else_would() -> None:
    code = (
        "import os; from indexer.store.edge import builder; builder._yield_to_others(); "
        "print(os.sched_getscheduler(0), os.nice(0))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == [str(os.SCHED_IDLE), "19"]
