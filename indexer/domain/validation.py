"""Turn validation errors into the fields of a problem."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from pydantic import ValidationError

from indexer.domain.names import IN_WORDS
from model.errors import InvalidInput

# Enough to recognise a wrong value, too few to echo an image or a document.
_SHOWN_CHARS = 100
# In a message of several errors: the name of a field, which may be the caller's invention, and its value.
_FIELD_CHARS, _SUMMARY_VALUE_CHARS = 30, 34
_MESSAGE_CHARS = 600
# Errors of one body that are looked at, and that are listed.
_MAX_ERRORS, _SHOWN_ERRORS = 100, 20

_brief = reprlib.Repr()
_brief.maxlevel, _brief.maxstring = 3, 60


Fields = list[dict[str, Any]]


def shown(value: Any) -> Any:
    """Return a value in a form that an answer can contain: short, and JSON."""
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**53):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = value if isinstance(value, str) else _outline(value)
    # Half a surrogate pair cannot be written as UTF-8.
    start = text[:_SHOWN_CHARS].encode("utf-8", "replace").decode()
    return start if len(text) <= _SHOWN_CHARS else f"{start}… ({len(text)} characters)"


def brief(message: str) -> str:
    """Shorten a message for an answer, whatever it quotes."""
    return message if len(message) <= _MESSAGE_CHARS else f"{message[: _MESSAGE_CHARS - 1]}…"


def _outline(value: object) -> str:
    """Describe a value in bounded time, however large or deep it is."""
    if isinstance(value, dict) and len(value) > _SHOWN_CHARS:
        return f"an object of {len(value)} fields"
    return _brief.repr(value)


def field_errors(errors: Iterable[Mapping[str, Any]]) -> Fields:
    """Return pydantic's errors as {field, value, limit}, the first ones of many; `limit` says what is allowed there."""
    fields: dict[tuple[str, str, str], dict[str, Any]] = {}
    for error in islice(errors, _MAX_ERRORS):
        # Of a field that is missing pydantic shows the whole object.
        value = None if error["type"] == "missing" else shown(error.get("input"))
        field: dict[str, Any] = {"field": _path(error["loc"]), "value": value, "limit": _allowed(error)}
        fields.setdefault((field["field"], repr(field["value"]), field["limit"]), field)
    return list(fields.values())[:_SHOWN_ERRORS]


def _allowed(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "no such field"
    if error["type"] == "string_pattern_mismatch" and (words := IN_WORDS.get(error["ctx"]["pattern"])):
        return words
    return str(error["msg"]).removeprefix("Value error, ")  # which pydantic puts before our own words


def summary(fields: Sequence[Mapping[str, Any]]) -> str:
    """Summarise the errors in one line, for people and for per-item details."""
    return "; ".join(_named(field) + f"{field['limit']} (got {_quoted(field['value'])})" for field in fields[:3])


def _quoted(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SUMMARY_VALUE_CHARS else f"{text[:_SUMMARY_VALUE_CHARS]}…"


def _named(field: Mapping[str, Any]) -> str:
    """Return the prefix that names the field of an error; an error of the whole has none."""
    return f"{field['field']}: " if field["field"] else ""


def invalid(error: ValidationError) -> InvalidInput:
    """Return a failed validation of one item as the error of that item."""
    if (count := error.error_count()) > _MAX_ERRORS:
        return InvalidInput(
            f"{count} fields or values are wrong, too many to list: see the API documentation for its form"
        )
    fields = field_errors(error.errors(include_url=False))
    return InvalidInput(summary(fields), field=fields[0]["field"] or None)


def _path(location: Sequence[str | int]) -> str:
    """Join a location such as ("query", "image") to "query.image", and ("inputs", 3) to "inputs[3]". Our tags of union
    branches, in <>, are left out."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith("<"):
            name = part if len(part) <= _FIELD_CHARS else f"{part[:_FIELD_CHARS]}…"
            path += f".{name}" if path else name
    return path
