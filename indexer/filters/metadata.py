"""The values that a condition on a metadata field looks at."""

from __future__ import annotations

from collections.abc import Mapping

from indexer.filters.nodes import steps


def value_at(metadata: object, path: str) -> object:
    """Return the value of a field; None where it is absent."""
    value = metadata
    for key in steps(path):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def elements(metadata: object, path: str) -> list[object]:
    """Return what a condition on the field looks at: the elements of a list, or the value alone; None where it is
    absent."""
    value = value_at(metadata, path)
    return list(value) if isinstance(value, list | tuple) else [value]
