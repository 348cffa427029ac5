"""What is said of a collection without opening its shard, which takes 20 ms, threads and memory maps.

FOLDER/<name>/summary.json is written when a shard is closed and removed when it is opened. Where a process was killed
it is absent, and the shard is opened to know.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from indexer.filters import FieldType
from indexer.store.base import Layout, Summary

_FILE = "summary.json"


def write_summary(folder: Path, summary: Summary) -> None:
    """Write what is said of a collection. On a full disk there is half of it, which counts as none."""
    with contextlib.suppress(OSError):
        (folder / _FILE).write_text(json.dumps(asdict(summary)))


def read_summary(folder: Path) -> Summary | None:
    """Return None where there is none, or none that can be read: a disk that lost its power may have half of it."""
    try:
        noted = json.loads((folder / _FILE).read_text())
        indexed = {path: FieldType(kind) for path, kind in noted["indexed"].items()}
        return Summary(Layout(**noted["layout"]), int(noted["documents"]), int(noted["size_bytes"]), indexed)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def forget_summary(folder: Path) -> None:
    (folder / _FILE).unlink(missing_ok=True)


def bytes_on_disk(folder: Path) -> int:
    """Return the disk space of files without their holes, which are large.

    What is removed meanwhile takes none: a shard that was rebuilt is removed while the collection is in use.
    """
    total = 0
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            with contextlib.suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_blocks * 512
    return total
