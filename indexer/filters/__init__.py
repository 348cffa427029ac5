"""Filters over metadata as a small tree that every store translates. `parser` has their JSON form, docs/filters.md
their meaning.

{"field": "region", "equals": "Europe"}          {"field": "area_km2", "gte": 1000, "lt": 50000}
{"field": "region", "in": ["Europe", "Asia"]}    {"all": [..]}   {"any": [..]}   {"not": {..}}   and more:
docs/filters.md
"""

from indexer.filters.field_types import FieldType, check_types
from indexer.filters.metadata import elements
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
from indexer.filters.parser import Filter as FilterModel

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
    "FilterModel",
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
    "parse",
    "steps",
    "tight_bounds",
    "whole_number_beyond_doubles",
]
