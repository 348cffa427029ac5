"""The common parts of all formats: the bounds of one record, the parts of a file (spans), and records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from model.errors import InvalidInput

# A document at the default bounds: a 20 MiB image in base64 and 100,000 characters of text.
MAX_RECORD_BYTES = 64 * 2**20

# Of a file that a document names; the service has its own, lower bound.
MAX_IMAGE_BYTES = 64 * 2**20

# A line or an element that goes on for longer than this is not skipped: the rest of its file fails.
MAX_SKIPPED_BYTES = 4 * 2**30

FieldFilter = Callable[[str], bool]  # whether a field of this name is used; what is not need not be read


def every_field(_name: str) -> bool:
    """Return True: every field is used."""
    return True


class ReadingStopped(Exception):
    """The reading of a file was stopped: its job is being cancelled, or the process ends."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The size at which a part of a file becomes a unit of work."""

    # About a minute of a GPU's work, so a restart repeats little and the ledger holds little.
    rows: int = 1000
    size_bytes: int = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Span:
    """`count` records from `start` to `end`: bytes of the file, or rows of Parquet row group `group`.

    `number` is the line, row or sample that the first record is in the file, from 1, for messages. `scattered` marks a
    whole WebDataset shard in which the members of a sample do not stand together.
    """

    start: int
    end: int
    count: int
    number: int = 1
    group: int | None = None
    scattered: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """One record, or why it cannot be read. `where` is for messages: `pairs.jsonl line 3`.

    `left_out` says what of a readable record is not in its fields, each in words that are the same for every record of
    a kind.
    """

    where: str
    fields: dict[str, Any] | InvalidInput
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """Stands in a record for a value that JSON cannot hold: the field is left out, for this reason."""

    reason: str


class FixedBytes(bytes):
    """The bytes of a column whose values all have one length, such as the 16 of a UUID."""
