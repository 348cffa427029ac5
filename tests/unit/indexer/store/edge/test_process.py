"""The two ends of the pipe to Edge's process."""

import re
from pathlib import Path

from indexer.store.edge import client, columns
from indexer.store.edge.process import served_methods
from indexer.store.edge.shards import Shards


def test_whatever_is_called_is_served(tmp_path: Path) -> None:
    """A name that is not served ends the process, and that of every other caller with it."""
    code = "".join(Path(module.__file__).read_text() for module in (client, columns))
    called = set(re.findall(r'_call\(\s*"(\w+)"', code))
    assert len(called) > 20
    assert called <= served_methods(Shards(tmp_path)).keys()
