"""Turn validation errors into the fields of a problem."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from model.errors import InvalidInput
from service.schemas.names import IN_WORDS

_SHOWN_CHARS = 100  # of a wrong value: enough to recognise it, too few to echo an image or a document


_SHOWN_ERRORS = 20


Fields = list[dict[str, Any]]


def shown(value: Any) -> Any:
    """A value as it may stand in an answer: short, and JSON."""
    if value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 2**53):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    text = value if isinstance(value, str) else repr(value)
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}… ({len(text)} characters)"


def field_errors(errors: Iterable[Mapping[str, Any]]) -> Fields:
    """Pydantic's errors as {field, value, limit}; `limit` says what is allowed there."""
    fields: Fields = []
    for error in errors:
        field = {"field": _path(error["loc"]), "value": shown(error.get("input")), "limit": _allowed(error)}
        if field not in fields:
            fields.append(field)
    return fields[:_SHOWN_ERRORS]


def _allowed(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "no such field"
    if error["type"] == "string_pattern_mismatch" and (words := IN_WORDS.get(error["ctx"]["pattern"])):
        return words
    return str(error["msg"]).removeprefix("Value error, ")  # which pydantic puts before our own words


def summary(fields: Sequence[Mapping[str, Any]]) -> str:
    """The errors in one line, for people and for per-item details."""
    return "; ".join(_named(field) + f"{field['limit']} (got {field['value']!r})" for field in fields[:3])


def _named(field: Mapping[str, Any]) -> str:
    """Nothing for an error of the whole."""
    return f"{field['field']}: " if field["field"] else ""


def invalid(errors: Iterable[Mapping[str, Any]]) -> InvalidInput:
    """A failed validation of one item as the error of that item."""
    fields = field_errors(errors)
    return InvalidInput(summary(fields), field=fields[0]["field"] or None)


def _path(location: Sequence[str | int]) -> str:
    """("query", "image") as "query.image", ("inputs", 3) as "inputs[3]". Our tags of union branches, in <>, stay out."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith("<"):
            path += f".{part}" if path else part
    return path
