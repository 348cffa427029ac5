"""JSON: an object a line, or one array of objects as the whole file. Parts are ranges of bytes that end where a record
does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from model.errors import InvalidInput, TooLarge
from model.records import strict_json
from model.records.base import (
    MAX_RECORD_BYTES,
    MAX_SKIPPED_BYTES,
    Cut,
    FieldFilter,
    Record,
    Span,
    every_field,
)
from model.records.opened_file import OpenedFile

BOM = b"\xef\xbb\xbf"
NO_END = 2**63
Loads = Callable[[bytes], Any]
# (number of the line or element, where it ends, its bytes); None for one that is longer than may be held, which is
# skipped.
Piece = tuple[int, int, bytes | None]


def spans(opened: OpenedFile, cut: Cut) -> Iterator[Span]:
    """Cut the file into parts."""
    is_array = _is_array(opened)
    pieces = _elements(opened.file) if is_array else _lines(opened.file)
    ends = ((number, end) for number, end, data in pieces if data is None or is_array or _stripped(data))
    yield from cut_spans(ends, 0, 1, opened, cut)


def records(
    opened: OpenedFile, span: Span | None = None, is_used: FieldFilter = every_field, *, loads: Loads | None = None
) -> Iterator[Record]:
    """Read strict JSON, every field of it. `loads=lenient` takes the NaN that pandas writes."""
    del is_used
    noun = "line"
    start, number, end = (0, 1, NO_END) if span is None or opened.whole else (span.start, span.number, span.end)
    if _is_array(opened):
        noun, pieces = "element", _elements(opened.file, start, number, end)
    else:
        pieces = _lines(opened.file, start, number, end)
    for number, _, data in pieces:
        where = f"{opened.name} {noun} {number}"
        if data is None:
            yield Record(where, TooLarge(f"{where} is over {MAX_RECORD_BYTES} bytes", limit=MAX_RECORD_BYTES))
        elif noun == "element" or (data := _stripped(data)):
            yield Record(where, _parsed(data, where, loads or strict))


def strict(data: bytes) -> Any:
    """Parse JSON as the standard has it."""
    return strict_json.loads(data)


def lenient(data: bytes) -> Any:
    """Parse JSON as Python does, which takes NaN."""
    return json.loads(data)


def cut_spans(ends: Iterator[tuple[int, int]], start: int, number: int, opened: OpenedFile, cut: Cut) -> Iterator[Span]:
    """Put records together to spans. `ends` has the last line of each and where it ends; a whole file is one span.

    Where `ends` raises for damage, the records before it are a span of their own first.
    """
    count, end = 0, start
    try:
        for last, place in ends:
            count, end = count + 1, place
            if not opened.whole and (count >= cut.rows or end - start >= cut.size_bytes):
                yield Span(start, end, count, number)
                start, number, count = end, last + 1, 0
    except InvalidInput:
        if count:
            yield Span(start, end, count, number)
        raise
    if count:
        yield Span(start, end, count, number)


def refuse_utf16(opened: OpenedFile) -> None:
    """Raise `InvalidInput` for a file in UTF-16 or UTF-32, which JSON files are not in."""
    if (encoding := wide_encoding(opened.beginning(4))) is not None:
        raise InvalidInput(
            f"{opened.name} is encoded in {encoding}, JSON must be in UTF-8; "
            f"convert it, for example with iconv -f {encoding} -t UTF-8"
        )


def wide_encoding(start: bytes) -> str | None:
    """Return the encoding of two or four bytes a character that a file with this beginning is in; None for none."""
    for mark, encoding in ((b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32")):
        if start.startswith(mark):
            return encoding
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    if len(start) == 4 and start[0] and not start[1] and start[2] and not start[3]:
        return "UTF-16LE"
    if len(start) == 4 and not start[0] and start[1] and not start[2] and start[3]:
        return "UTF-16BE"
    return None


def _is_array(opened: OpenedFile) -> bool:
    refuse_utf16(opened)
    return opened.beginning().removeprefix(BOM).lstrip().startswith(b"[")


def _lines(file: BinaryIO, start: int = 0, number: int = 1, end: int = NO_END) -> Iterator[Piece]:
    if start:
        file.seek(start)
    offset, number = start, number - 1
    while offset < end and (line := file.readline(MAX_RECORD_BYTES + 1)):
        number += 1
        offset += len(line)
        if len(line) <= MAX_RECORD_BYTES:
            yield number, offset, line
            continue
        offset += skip_line(file, line)
        yield number, offset, None


def skip_line(file: BinaryIO, line: bytes) -> int:
    """Read on to the end of a line of which `line` was read. Return how many bytes that were."""
    skipped = 0
    while line and not line.endswith(b"\n"):
        line = file.readline(2**20)
        skipped += len(line)
        if skipped > MAX_SKIPPED_BYTES:
            raise TooLarge(f"a line goes on for more than {MAX_SKIPPED_BYTES} bytes", limit=MAX_SKIPPED_BYTES)
    return skipped


def _stripped(line: bytes) -> bytes:
    return line.removeprefix(BOM).strip()


def _parsed(data: bytes, where: str, loads: Loads) -> dict[str, Any] | InvalidInput:
    try:
        record = loads(data)
    except (ValueError, RecursionError) as error:
        return InvalidInput(f"{where} is not JSON: {error}")
    if not isinstance(record, dict):
        return InvalidInput(f"{where} is a JSON {type(record).__name__}, it must be an object")
    return record


# --- one array

_READ_BYTES = 2**18
_STRUCTURE = re.compile(rb'["{}\[\],]')
_STRING_END = re.compile(rb'["\\]')
_WHITE = b" \t\r\n"


def _elements(file: BinaryIO, start: int = 0, number: int = 1, end: int = NO_END) -> Iterator[Piece]:
    """Split the array at the commas of its first level. `start` is 0 or where an element ends, before its comma.

    Raises `InvalidInput` where the file ends before the array, or goes on after it.
    """
    scanner = _Elements()
    if start:
        file.seek(start)
        scanner.begin_inside(start)
    while scanner.offset <= end and not scanner.closed and (data := file.read(_READ_BYTES)):
        for place, element in scanner.feed(data):
            yield number, place, element
            number += 1
            if place >= end:
                return
    if scanner.offset > end:
        return
    if not scanner.closed:
        raise InvalidInput(f"the JSON array ends in the middle of element {number}; the file was cut off")
    if scanner.after.strip(_WHITE) or any(data.strip(_WHITE) for data in iter(lambda: file.read(_READ_BYTES), b"")):
        raise InvalidInput("the file goes on after its JSON array; what follows was not read")


class _Elements:
    """The elements of an array whose bytes come in pieces of any size. No more of one than may be held is held."""

    def __init__(self) -> None:
        # 0 is before the array, 1 inside it, more inside an element.
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._held: bytearray | None = bytearray()
        self._element_bytes = 0
        self._skip_comma = False
        self.offset = 0
        self.closed = False
        self.after = b""

    def begin_inside(self, offset: int) -> None:
        """Begin at the end of an element, whose comma comes next."""
        self._depth, self._skip_comma, self.offset = 1, True, offset

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes | None]]:
        """Yield (where it ends, element) of those that end in `data`."""
        base, begin, place = self.offset, 0, 0
        while (next_mark := self._next_mark(data, place)) is not None:
            place = next_mark
            mark = data[place : place + 1]
            if mark == b'"':
                self._in_string = not self._in_string
            elif mark in b"{[":
                self._depth += 1
                if self._depth == 1:
                    begin = place + 1
            elif mark in b"}]":
                self._depth -= 1
            if self._depth == 1 and mark == b"," and self._skip_comma:
                self._skip_comma, begin = False, place + 1
            elif (self._depth == 1 and mark == b",") or (self._depth == 0 and mark in b"]}"):
                self._hold(data[begin:place])
                element = self._taken()
                is_nothing = element is not None and not element and mark != b","
                if not is_nothing:
                    yield base + place, element
                begin = place + 1
            place += 1
            if self._depth == 0 and mark in b"]}":
                self.closed, self.after, self.offset = True, data[place:], base + place
                return
        if self._depth > 0:
            self._hold(data[begin:])
        self.offset = base + len(data)

    def _next_mark(self, data: bytes, place: int) -> int | None:
        while place < len(data):
            if self._escaped:
                self._escaped = False
                place += 1
                continue
            match = (_STRING_END if self._in_string else _STRUCTURE).search(data, place)
            if match is None:
                return None
            if match[0] == b"\\":
                self._escaped = True
                place = match.start() + 1
                continue
            return match.start()
        return None

    def _hold(self, data: bytes) -> None:
        self._element_bytes += len(data)
        if self._element_bytes > MAX_SKIPPED_BYTES:
            raise TooLarge(f"an element goes on for more than {MAX_SKIPPED_BYTES} bytes", limit=MAX_SKIPPED_BYTES)
        if self._element_bytes > MAX_RECORD_BYTES:
            self._held = None
        elif self._held is not None:
            self._held += data

    def _taken(self) -> bytes | None:
        element = None if self._held is None else bytes(self._held).strip(_WHITE)
        self._held, self._element_bytes = bytearray(), 0
        return element
