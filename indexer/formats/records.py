"""What passes between the formats: a part of a file, a record of it, and bounds on both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from model.errors import InvalidInput

MAX_LINE_BYTES = 64 * 2**20  # a document at the default bounds: a 20 MiB image in base64 and 100,000 characters of text
MAX_IMAGE_BYTES = 64 * 2**20  # of a file named by a document; the service has its own, lower bound

Wanted = Callable[[str], bool]  # whether a field of this name is used; what is not need not be read


def everything(_name: str) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Cut:
    """When a part of a file is large enough to be a unit of work."""

    rows: int = 1000  # about a minute of a GPU's work, so a restart repeats little and the ledger holds little
    size_bytes: int = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Span:
    """`count` records from `start` to `end`: bytes of the file, or rows of Parquet row group `group`.

    `number` is the line, row or sample that the first is in the file, from 1, for messages.
    """

    start: int
    end: int
    count: int
    number: int = 1
    group: int | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One record, or why it cannot be read. `where` is for messages: `pairs.jsonl line 3`."""

    where: str
    fields: dict[str, Any] | InvalidInput
