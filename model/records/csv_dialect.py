"""The dialect of a CSV file: its encoding, its delimiter and its line ends.

Found in the first lines, or named by the mapping.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from model.errors import InvalidInput
from model.records.jsonl import BOM, wide_encoding
from model.records.opened_file import OpenedFile

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
ENCODINGS = (
    "utf-8", "utf-16", "utf-16-le", "utf-16-be", "iso-8859-1", "iso-8859-2", "iso-8859-15", "windows-1250", "windows-1251",
    "windows-1252", "windows-1253", "windows-1254", "koi8-r", "mac-roman", "shift_jis", "euc-jp", "euc-kr", "gb18030", "big5",
)  # fmt: skip
_SAMPLE_ROWS = 20
_CONVERTED_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Dialect:
    """`skip_space`: blanks after a delimiter do not belong to the cell. `skip_lines` stand before the header."""

    delimiter: str = ","
    skip_space: bool = False
    skip_lines: int = 0


def find_dialect(opened: OpenedFile, delimiter: str | None = None, encoding: str | None = None) -> Dialect:
    """Find out how the file is written, and convert it to UTF-8 with `\\n` where it is not.

    Raises `InvalidInput` where that cannot be told, with what to set.
    """
    start = opened.beginning()
    encoding = encoding or wide_encoding(start[:4])
    if encoding is not None and encoding.lower() not in ("utf-8", "utf8"):
        opened.convert(_Converted(opened.file, encoding, opened.name))
        start = opened.beginning()
    if b"\r" in start and b"\n" not in start:
        opened.convert(_NewLines(opened.file))
        start = opened.beginning()
    text = start.removeprefix(BOM).decode("utf-8", "replace").replace("\r\n", "\n")
    first, _, following = text.partition("\n")
    skip_lines = 0
    # Excel writes and reads such a line.
    if first.lower().startswith("sep=") and len(first) == 5:
        delimiter, skip_lines, text = delimiter or first[4], 1, following
    # The last line of the sample may be cut off; a single line may be the whole file.
    lines = text.split("\n")
    sample = "\n".join(lines[:-1] or lines)
    delimiter = delimiter or _delimiter(sample, opened.name)
    header = sample.lstrip("\n").partition("\n")[0].split(delimiter)
    skip_space = len(header) > 1 and all(cell.startswith(" ") for cell in header[1:])
    return Dialect(delimiter, skip_space, skip_lines)


def _delimiter(sample: str, name: str) -> str:
    """Return the delimiter that splits the header; if several do, the one that splits the rows below it in the same
    way."""
    header = sample.lstrip("\n").partition("\n")[0]
    splitting = [mark for mark in DELIMITERS if mark in _outside_quotes(header)]
    if len(splitting) < 2:
        return (splitting or [","])[0]
    alike = [mark for mark in splitting if _is_regular(sample, mark)]
    if len(alike) == 1:
        return alike[0]
    names = " or ".join(DELIMITERS[mark] for mark in splitting)
    raise InvalidInput(
        f"{name} may be delimited by {names}: the first row has each of them; name it with mapping.delimiter",
        field="mapping.delimiter",
    )


def _rows(sample: str, delimiter: str) -> Iterator[list[str]]:
    return (row for row in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter) if row)


def _outside_quotes(header: str) -> str:
    return "".join(header.split('"')[::2])


def _is_regular(sample: str, delimiter: str) -> bool:
    """Return whether the first rows have as many cells as the header."""
    try:
        widths = [len(row) for row, _ in zip(_rows(sample, delimiter), range(_SAMPLE_ROWS), strict=False)]
    except csv.Error:
        return False
    return len(widths) > 1 and len(set(widths)) == 1


class _Converted(io.RawIOBase):
    """A file in another encoding, read as UTF-8.

    A character that cannot be decoded becomes a byte that is not UTF-8.
    """

    def __init__(self, file: BinaryIO, encoding: str, name: str) -> None:
        self._file, self._encoding, self._name = file, encoding, name
        errors = "surrogatepass" if encoding.lower().startswith(("utf-16", "utf-32")) else "surrogateescape"
        self._decoder = codecs.getincrementaldecoder(encoding)(errors)
        self._output = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output and not self._ended:
            data = self._file.read(_CONVERTED_BYTES)
            self._ended = not data
            try:
                text = self._decoder.decode(data, final=self._ended)
            except UnicodeDecodeError as error:
                raise InvalidInput(f"{self._name} is not {self._encoding}: {error.reason}") from error
            self._output = text.encode("utf-8", "surrogatepass")
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        return size


class _NewLines(io.RawIOBase):
    """A file whose lines end with `\\r`, as old Macs wrote them, with `\\n` in its place."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer)).replace(b"\r", b"\n")
        buffer[: len(data)] = data
        return len(data)
