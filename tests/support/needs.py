"""What a test cannot do without: absent, it skips and says so; where CI promises everything to be there, that is a failure."""

import importlib
import os
from types import ModuleType

import pytest


def need(present: bool, what: str) -> None:
    if present:
        return
    if os.environ.get("REQUIRE_INTEGRATION") == "1":
        pytest.fail(f"REQUIRE_INTEGRATION=1, but {what} is absent")
    pytest.skip(f"needs {what}")


def needed(module: str) -> ModuleType:
    """The module; at the top of a file it stands for every test of it."""
    if os.environ.get("REQUIRE_INTEGRATION") == "1":
        return importlib.import_module(module)
    return pytest.importorskip(module)
