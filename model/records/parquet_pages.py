"""What the pages of a Parquet row group unpack to, from their headers alone: a few kilobytes of file may be gigabytes
of values.

The footer says sizes too, but it is not bound to tell the truth; pages cannot be read at other sizes than their headers
have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from model.errors import InvalidInput, TooLarge

# A page is unpacked as a whole. A hundred photographs of 5 MB are one page.
_MAX_PAGE_BYTES = 512 * 2**20
# What one batch of rows may unpack to, beside the pages themselves.
_BATCH_BYTES = 128 * 2**20
# Values of lists beyond those that their bytes can stand for.
_MAX_FREE_VALUES = 16 * 2**20
_VALUES_PER_BYTE = 64
# A list repeats a value of its dictionary at will; from this size on the dictionary is kept as one.
_LIST_DICTIONARY_BYTES = 2**16
_DICTIONARY_BYTES = 3 * 2**19
_HEADER_BYTES, _MAX_HEADER_BYTES = 2**14, 2**24
_DICTIONARY_PAGE = 2
_DELTA_BYTE_ARRAY = 7


@dataclass(frozen=True, slots=True)
class Page:
    """One page header."""

    kind: int
    unpacked_bytes: int
    packed_bytes: int
    values: int
    encoding: int


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """A way to read a row group within bounds: the rows at a time, and the columns to keep as dictionaries."""

    rows: int
    dictionaries: tuple[str, ...]


def plan_row_group(file: BinaryIO, metadata: Any, group: int, columns: list[str], rows: int) -> ReadPlan:
    """Look at every page of the columns. Raises `TooLarge` for a row group that cannot be read within bounds."""
    row_group = metadata.row_group(group)
    value_bytes, dictionaries = 0, []
    for place in range(row_group.num_columns):
        chunk, schema = row_group.column(place), metadata.schema.column(place)
        if not any(chunk.path_in_schema == name or chunk.path_in_schema.startswith(f"{name}.") for name in columns):
            continue
        pages = list(_pages(file, chunk))
        is_list = schema.max_repetition_level > 0
        if is_list:
            _refuse_endless_lists(pages, row_group.num_rows, chunk.path_in_schema)
        if schema.physical_type == "FIXED_LEN_BYTE_ARRAY":
            value_bytes += schema.length
            if is_list and schema.length > _LIST_DICTIONARY_BYTES:
                raise TooLarge(f"column {chunk.path_in_schema!r:.100} has lists of values of {schema.length} bytes")
        if schema.physical_type != "BYTE_ARRAY":
            continue
        dictionary = max((page.unpacked_bytes for page in pages if page.kind == _DICTIONARY_PAGE), default=0)
        if dictionary > (_LIST_DICTIONARY_BYTES if is_list else _DICTIONARY_BYTES):
            dictionaries.append(chunk.path_in_schema)
        else:
            value_bytes += dictionary
        value_bytes += max((page.unpacked_bytes for page in pages if page.encoding == _DELTA_BYTE_ARRAY), default=0)
    return ReadPlan(max(1, min(rows, _BATCH_BYTES // max(1, value_bytes))), tuple(dictionaries))


def _refuse_endless_lists(pages: list[Page], rows: int, name: str) -> None:
    values = sum(page.values for page in pages if page.kind != _DICTIONARY_PAGE)
    limit = rows + _MAX_FREE_VALUES + _VALUES_PER_BYTE * sum(page.unpacked_bytes for page in pages)
    if values > limit:
        raise TooLarge(f"column {name!r:.100} has lists of {values} values, limit is {limit}", limit=limit)


def _pages(file: BinaryIO, chunk: Any) -> Iterator[Page]:
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
        start = min(start, chunk.dictionary_page_offset or start)
    end, seen = start + chunk.total_compressed_size, 0
    while start < end and seen < chunk.num_values:
        page, header_bytes = _page_at(file, start, end)
        if page.unpacked_bytes > _MAX_PAGE_BYTES:
            limit = _MAX_PAGE_BYTES
            raise TooLarge(
                f"column {chunk.path_in_schema!r:.100} has a page that unpacks to {page.unpacked_bytes} bytes, limit "
                f"is {limit}",
                limit=limit,
            )
        yield page
        start += header_bytes + page.packed_bytes
        seen += 0 if page.kind == _DICTIONARY_PAGE else page.values


def _page_at(file: BinaryIO, start: int, end: int) -> tuple[Page, int]:
    size = _HEADER_BYTES
    while True:
        file.seek(start)
        data = file.read(min(size, end - start))
        try:
            header = _Compact(data)
            page = _page(header.struct())
        except IndexError:
            if size >= min(_MAX_HEADER_BYTES, end - start):
                raise InvalidInput(f"a page header at byte {start} is damaged") from None
            size *= 16
            continue
        if min(page.unpacked_bytes, page.packed_bytes, page.values) < 0:
            raise InvalidInput(f"a page header at byte {start} is damaged")
        return page, header.place


def _page(fields: dict[int, Any]) -> Page:
    """Name the fields that a page header has by number: 5 is a data page's, 7 a dictionary's, 8 a data page's of
    version 2."""
    details: dict[int, Any] = next((fields[number] for number in (5, 7, 8) if isinstance(fields.get(number), dict)), {})
    encoding = details.get(4 if 8 in fields else 2, 0)
    return Page(
        _number(fields.get(1)), _number(fields.get(2)), _number(fields.get(3)), _number(details.get(1)), encoding
    )


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


class _Compact:
    """Thrift's compact protocol, as far as page headers need it. Raises `IndexError` where the bytes end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.place = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """Read a struct: its values by the numbers of their fields."""
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            fields[number] = self._value(head & 0x0F, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2):
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._zigzag()
        if kind == 7:
            return self._skip(8)
        if kind == 8:
            return self._skip(self._varint())
        if kind == 12 and depth < 8:
            return self.struct(depth + 1)
        raise IndexError("a type that page headers do not have")

    def _byte(self) -> int:
        self.place += 1
        return self._data[self.place - 1]

    def _varint(self) -> int:
        result = shift = 0
        while True:
            byte = self._byte()
            result |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return result
            if shift > 63:
                raise IndexError("a number that is too long")

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _skip(self, size_bytes: int) -> None:
        self.place += size_bytes
        if self.place > len(self._data):
            raise IndexError
