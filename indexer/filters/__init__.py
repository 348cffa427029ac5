"""Filters over metadata as a small tree that every store translates. The wire form is in `wire`, the meaning in `meaning`.

{"field": "region", "equals": "Europe"}          {"field": "area_km2", "gte": 1000, "lt": 50000}
{"field": "region", "in": ["Europe", "Asia"]}    {"all": [..]}   {"any": [..]}   {"not": {..}}   and more: docs/filters.md
"""

from indexer.filters.field_types import FieldType, check_types, types_asked_of
from indexer.filters.meaning import elements, matches
from indexer.filters.nodes import (
    AllOf,
    AnyOf,
    AtLeast,
    DateRange,
    Empty,
    Equals,
    Filter,
    FullText,
    GeoBox,
    GeoRadius,
    In,
    Leaf,
    Nested,
    Not,
    Range,
    Scalar,
    steps,
    tight_bounds,
    whole_number_beyond_doubles,
)
from indexer.filters.parser import MAX_CONDITIONS, MAX_DEPTH, check_field, parse

__all__ = [
    "MAX_CONDITIONS",
    "MAX_DEPTH",
    "AllOf",
    "AnyOf",
    "AtLeast",
    "DateRange",
    "Empty",
    "Equals",
    "FieldType",
    "Filter",
    "FullText",
    "GeoBox",
    "GeoRadius",
    "In",
    "Leaf",
    "Nested",
    "Not",
    "Range",
    "Scalar",
    "check_field",
    "check_types",
    "elements",
    "matches",
    "parse",
    "steps",
    "tight_bounds",
    "types_asked_of",
    "whole_number_beyond_doubles",
]
