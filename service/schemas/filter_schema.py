"""The JSON Schema of a filter, for the OpenAPI document. What checks a filter is `indexer.filters.parser`; this only describes it."""

from __future__ import annotations

from typing import Any

from indexer.filters.parser import MAX_CONDITIONS, MAX_DEPTH, MAX_FIELD_CHARS, MAX_TEXT_CHARS, MAX_VALUES

_Schema = dict[str, Any]

REFERENCE: _Schema = {"$ref": "#/components/schemas/Filter"}

_FIELD: _Schema = {
    "type": "string",
    "pattern": r'^[^."\\]+(\.[^."\\]+)*$',
    "maxLength": MAX_FIELD_CHARS,
    "description": "a key of the metadata, or keys joined by dots",
}
_TEXT: _Schema = {"type": "string", "maxLength": MAX_TEXT_CHARS}
_BOOLEAN: _Schema = {"type": "boolean"}
_WHOLE: _Schema = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
_BOUND: _Schema = {"anyOf": [{"type": "number"}, {"type": "string", "format": "date-time"}]}
_FILTERS: _Schema = {"type": "array", "minItems": 1, "maxItems": MAX_CONDITIONS, "items": REFERENCE}


def _object(title: str, description: str, properties: _Schema, optional: frozenset[str] = frozenset()) -> _Schema:
    return {
        "title": title,
        "description": description,
        "type": "object",
        "properties": properties,
        "required": sorted(set(properties) - optional),
        "additionalProperties": False,
    }


def _degrees(limit: int) -> _Schema:
    return {"type": "number", "minimum": -limit, "maximum": limit, "description": "degrees"}


_PLACE: _Schema = {"lat": _degrees(90), "lon": _degrees(180)}
_CORNER = _object("Corner", "of a box", _PLACE)
_RADIUS = _object(
    "Circle", "on the globe", {**_PLACE, "radius_m": {"type": "number", "exclusiveMinimum": 0, "description": "metres"}}
)
_BOX = _object("Box", "edges excluded; may cross the 180th meridian", {"top_left": _CORNER, "bottom_right": _CORNER})
_BOUNDS = dict.fromkeys(("gt", "gte", "lt", "lte"), _BOUND)

SCHEMA: _Schema = {
    "title": "Filter",
    "description": f"A condition on metadata, or several joined: at most {MAX_DEPTH} levels and {MAX_CONDITIONS} conditions.",
    "anyOf": [
        _object(
            "Equals",
            "the value, letter by letter; of a list, one element is enough",
            {"field": _FIELD, "equals": {"anyOf": [_TEXT, {"type": "number"}, _BOOLEAN]}},
        ),
        _object(
            "In",
            "one of the values: all texts, or all whole numbers",
            {
                "field": _FIELD,
                "in": {
                    "anyOf": [
                        {"type": "array", "minItems": 1, "maxItems": MAX_VALUES, "items": items}
                        for items in (_TEXT, _WHOLE)
                    ]
                },
            },
        ),
        {
            **_object(
                "Range",
                "between bounds, one or more of them: all numbers, or all RFC 3339 times with their offset",
                {"field": _FIELD, **_BOUNDS},
                frozenset(_BOUNDS),
            ),
            "minProperties": 2,
        },
        _object(
            "FullText",
            "every word of it, in any order and case; at least one letter or digit",
            {"field": _FIELD, "match": _TEXT},
        ),
        _object("Exists", "whether it has a value; null and [] are none", {"field": _FIELD, "exists": _BOOLEAN}),
        _object("Empty", "the opposite of exists", {"field": _FIELD, "empty": _BOOLEAN}),
        _object("GeoRadius", "a place nearer than that", {"field": _FIELD, "geo_radius": _RADIUS}),
        _object("GeoBox", "a place inside", {"field": _FIELD, "geo_box": _BOX}),
        _object("Nested", "one object of the list fulfils it all", {"field": _FIELD, "nested": REFERENCE}),
        _object("All", "every one", {"all": _FILTERS}),
        _object("Any", "one or more", {"any": _FILTERS}),
        _object("Not", "not this", {"not": REFERENCE}),
        _object("AtLeast", "so many of them", {"at_least": {"type": "integer", "minimum": 1}, "of": _FILTERS}),
    ],
}
