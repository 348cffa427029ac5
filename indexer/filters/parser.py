"""Filters in JSON, as pydantic models: they read a filter, they describe it in OpenAPI, and they name the place of an
error.

    {"field": F, "equals": V}         V a string, a number or a boolean
    {"field": F, "in": [V, …]}        1 to 1,000 strings, or as many whole numbers
    {"field": F, "gte": N, …}         one or more of gt, gte, lt, lte; all numbers, or all times
    {"field": F, "match": "words"}    full text
    {"field": F, "exists": B}         B a boolean; so with "empty"
    {"field": F, "geo_radius": {"lat": N, "lon": N, "radius_m": N}}
    {"field": F, "geo_box": {"top_left": {"lat": N, "lon": N}, "bottom_right": {"lat": N, "lon": N}}}
    {"field": F, "nested": filter}    over the objects in a list
    {"all": [filter, …]}  {"any": [filter, …]}  {"not": filter}  {"at_least": 2, "of": [filter, …]}

F is a path to a metadata field: see `nodes.steps`. At most 8 levels and 100 conditions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypeAliasType

from indexer.filters import nodes
from indexer.filters.nodes import LAST_LATITUDE, LAST_LONGITUDE, MAX_PATH_CHARS, Scalar
from indexer.filters.values import EXACT_INTEGERS, WHOLE_NUMBERS, read_moment
from indexer.filters.words import words
from model.errors import InvalidInput

# A single condition has depth 1; every object of the tree is a condition.
MAX_DEPTH = 8
MAX_CONDITIONS = 100
# The values of one `in`.
MAX_VALUES = 1_000
MAX_TEXT_CHARS = 4_096

_BOUNDS = ("gt", "gte", "lt", "lte")
_FORMS = (
    "a filter is one of: field with equals, in, match, exists, empty, geo_radius, geo_box or nested; "
    "field with gt, gte, lt or lte; all; any; not; at_least with of"
)
# What an error shows of a wrong value.
_SHOWN_CHARS, _SHOWN_VALUES = 200, 50


def _refused(message: str) -> PydanticCustomError:
    # The text stands in a parameter, because braces in a template would be replaced.
    return PydanticCustomError("filter", "{message}", {"message": message})


# --- values


def _check_path(path: str) -> str:
    problem = nodes.path_problem(path)
    if problem is None and len(path) > MAX_PATH_CHARS:
        problem = f"has {len(path)} characters, at most {MAX_PATH_CHARS}"
    if problem is not None:
        raise _refused(problem)
    return path


def _check_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _refused("is text with lone surrogates, which is not valid Unicode") from error
    if len(text) > MAX_TEXT_CHARS:
        raise _refused(f"has {len(text)} characters, at most {MAX_TEXT_CHARS}")
    return text


def _check_words(text: str) -> str:
    if not words(text):
        raise _refused("needs at least one letter or digit")
    return text


def _scalar(value: object) -> Scalar:
    match value:
        case bool():
            return value
        case str():
            return _check_text(value)
        case int():
            return _check_whole(value)
        case float() if math.isfinite(value):
            return value
    raise _refused("must be a string, a boolean or a finite number")


def _check_whole(number: int) -> int:
    if number not in EXACT_INTEGERS:
        raise _refused(WHOLE_NUMBERS)
    return number


def _moment(value: object) -> datetime:
    moment = read_moment(value) if isinstance(value, str) else None
    if moment is None:
        raise _refused(
            "is not a time such as 2024-05-01T12:00:00Z or 2024-05-01; bounds are all times, or all numbers without "
            "quotes"
        )
    return moment


def _bound(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refused("must be a number")
    bound = float(_check_whole(value) if isinstance(value, int) else value)
    if not math.isfinite(bound):
        raise _refused("must be a finite number")
    return bound


def _values_form(value: object) -> str:
    texts = isinstance(value, list | tuple) and all(isinstance(part, str) for part in value)
    return "<texts>" if texts else "<numbers>"


FieldPath = Annotated[
    str,
    AfterValidator(_check_text),
    AfterValidator(_check_path),
    Field(
        description='a key of the metadata, or keys joined by dots; a key with a dot in it stands in quotes: "a.b".c',
        json_schema_extra={"pattern": nodes.PATH_PATTERN, "maxLength": MAX_PATH_CHARS},
    ),
]
_TEXT_LENGTH = Field(json_schema_extra={"maxLength": MAX_TEXT_CHARS})
Text = Annotated[str, AfterValidator(_check_text), _TEXT_LENGTH]
WordsText = Annotated[Text, AfterValidator(_check_words)]
WholeNumber = Annotated[
    int,
    AfterValidator(_check_whole),
    Field(json_schema_extra={"minimum": EXACT_INTEGERS.start, "maximum": EXACT_INTEGERS.stop - 1}),
]
Value = Annotated[
    Scalar,
    PlainValidator(_scalar),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "maxLength": MAX_TEXT_CHARS}, {"type": "number"}, {"type": "boolean"}]}
    ),
]
_LIST_LENGTH = Field(min_length=1, max_length=MAX_VALUES)
Values = Annotated[
    Annotated[list[Text], _LIST_LENGTH, Tag("<texts>")] | Annotated[list[WholeNumber], _LIST_LENGTH, Tag("<numbers>")],
    Discriminator(_values_form),
]
NumberBound = Annotated[float | None, PlainValidator(_bound), WithJsonSchema({"type": "number"})]
TimeBound = Annotated[datetime | None, PlainValidator(_moment), WithJsonSchema({"type": "string"})]
Latitude = Annotated[float, Field(ge=-90, le=90, description="degrees")]
Longitude = Annotated[float, Field(ge=-180, le=180, description="degrees")]


# --- conditions


def _without_defaults(schema: dict[str, Any]) -> None:
    """Remove the defaults from the schema: an absent bound is absent, and null is no bound."""
    for value in schema["properties"].values():
        value.pop("default", None)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Condition(_Part):
    tag: ClassVar[str]

    def tree(self) -> nodes.Filter:
        """Return what the condition means, as the stores read it."""
        raise NotImplementedError


class GeoPoint(_Part):
    """A place in degrees."""

    lat: Latitude
    lon: Longitude


class GeoCircle(GeoPoint):
    """A circle on the globe."""

    radius_m: float = Field(gt=0, description="metres")


class GeoBox(_Part):
    """A box, its edges excluded; it may cross the 180th meridian."""

    bottom_right: GeoPoint = Field(description="the south-eastern corner")
    top_left: GeoPoint = Field(description="the north-western corner")

    @field_validator("top_left")
    @classmethod
    def _check_height(cls, corner: GeoPoint, info: ValidationInfo) -> GeoPoint:
        opposite = info.data.get("bottom_right")
        if opposite is not None and corner.lat <= opposite.lat:
            raise _refused(f"has the latitude {corner.lat:g}, it must be over that of bottom_right, {opposite.lat:g}")
        return corner


class FilterEquals(_Condition):
    """The field is the value, letter by letter; of a list, one element is enough."""

    tag = "<equals>"
    field: FieldPath
    equals: Value = Field(description="a string, a number or a boolean")

    def tree(self) -> nodes.Filter:
        return nodes.Equals(self.field, self.equals)


class FilterIn(_Condition):
    """The field is one of the values."""

    tag = "<in>"
    field: FieldPath
    values: Values = Field(alias="in", description="all strings, or all whole numbers")

    def tree(self) -> nodes.Filter:
        return nodes.In(self.field, tuple(self.values))  # type: ignore[arg-type]


class FilterRange(_Condition):
    """The field is a number between the bounds, of which there is one or more."""

    tag = "<range>"
    model_config = ConfigDict(json_schema_extra=lambda schema: _range_schema(schema))
    field: FieldPath
    gt: NumberBound = Field(None, description="over this number")
    gte: NumberBound = Field(None, description="this number or more")
    lt: NumberBound = Field(None, description="under this number")
    lte: NumberBound = Field(None, description="this number or less")

    def tree(self) -> nodes.Filter:
        return nodes.Range(self.field, self.gt, self.gte, self.lt, self.lte)


class FilterDateRange(_Condition):
    """The field is a time between the bounds, of which there is one or more. Bounds are RFC 3339 times; one without an
    offset is in UTC, and a date is its midnight."""

    tag = "<date_range>"
    model_config = ConfigDict(json_schema_extra=lambda schema: _range_schema(schema))
    field: FieldPath
    gt: TimeBound = Field(None, description="after this time")
    gte: TimeBound = Field(None, description="at this time or after it")
    lt: TimeBound = Field(None, description="before this time")
    lte: TimeBound = Field(None, description="at this time or before it")

    def tree(self) -> nodes.Filter:
        return nodes.DateRange(self.field, self.gt, self.gte, self.lt, self.lte)


def _range_schema(schema: dict[str, Any]) -> None:
    _without_defaults(schema)
    schema["minProperties"] = 2


class FilterMatch(_Condition):
    """The field has every word of the text, in any order. Words are compared as in lexical search, without stemming."""

    tag = "<match>"
    field: FieldPath
    match: WordsText = Field(description="text with at least one letter or digit")

    def tree(self) -> nodes.Filter:
        return nodes.FullText(self.field, self.match)


class FilterExists(_Condition):
    """The field has a value, or with false it has none; null and [] are none."""

    tag = "<exists>"
    field: FieldPath
    exists: bool = Field(description="whether the field has a value")

    def tree(self) -> nodes.Filter:
        return nodes.Not(nodes.Empty(self.field)) if self.exists else nodes.Empty(self.field)


class FilterEmpty(_Condition):
    """The opposite of exists."""

    tag = "<empty>"
    field: FieldPath
    empty: bool = Field(description="whether the field has no value")

    def tree(self) -> nodes.Filter:
        return nodes.Empty(self.field) if self.empty else nodes.Not(nodes.Empty(self.field))


class FilterGeoRadius(_Condition):
    """The field is a place inside the circle."""

    tag = "<geo_radius>"
    field: FieldPath
    geo_radius: GeoCircle = Field(description="the circle")

    def tree(self) -> nodes.Filter:
        circle = self.geo_radius
        return nodes.GeoRadius(self.field, float(circle.lat), float(circle.lon), float(circle.radius_m))


class FilterGeoBox(_Condition):
    """The field is a place inside the box."""

    tag = "<geo_box>"
    field: FieldPath
    geo_box: GeoBox = Field(description="the box")

    def tree(self) -> nodes.Filter:
        top_left, bottom_right = self.geo_box.top_left, self.geo_box.bottom_right
        return nodes.GeoBox(
            self.field,
            _inside(top_left.lat, LAST_LATITUDE),
            _inside(top_left.lon, LAST_LONGITUDE),
            _inside(bottom_right.lat, LAST_LATITUDE),
            _inside(bottom_right.lon, LAST_LONGITUDE),
        )


def _inside(degrees: float, limit: float) -> float:
    return max(-limit, min(limit, float(degrees)))


class FilterNested(_Condition):
    """One object of the list in the field fulfils the whole filter."""

    tag = "<nested>"
    field: FieldPath
    nested: Filter = Field(description="a filter whose fields are those of the object")

    def tree(self) -> nodes.Filter:
        return nodes.Nested(self.field, self.nested.tree())


class FilterAll(_Condition):
    """Every filter is fulfilled."""

    tag = "<all>"
    filters: Filters = Field(alias="all", description="the filters")

    def tree(self) -> nodes.Filter:
        return nodes.AllOf(_trees(self.filters))


class FilterAny(_Condition):
    """One filter or more is fulfilled."""

    tag = "<any>"
    filters: Filters = Field(alias="any", description="the filters")

    def tree(self) -> nodes.Filter:
        return nodes.AnyOf(_trees(self.filters))


class FilterNot(_Condition):
    """The filter is not fulfilled."""

    tag = "<not>"
    negated: Filter = Field(alias="not", description="the filter")

    def tree(self) -> nodes.Filter:
        return nodes.Not(self.negated.tree())


class FilterAtLeast(_Condition):
    """So many of the filters are fulfilled."""

    tag = "<at_least>"
    filters: Filters = Field(alias="of", description="the filters")
    at_least: int = Field(ge=1, description="how many: 1 to the number of filters")

    @field_validator("at_least")
    @classmethod
    def _check_count(cls, count: int, info: ValidationInfo) -> int:
        filters = info.data.get("filters")
        if filters is not None and count > len(filters):
            raise _refused(f"is {count}, but `of` has {len(filters)} filters")
        return count

    def tree(self) -> nodes.Filter:
        return nodes.AtLeast(self.at_least, _trees(self.filters))


def _trees(filters: Sequence[_Condition]) -> tuple[nodes.Filter, ...]:
    return tuple(condition.tree() for condition in filters)


_FORM_OF_KEYS: dict[frozenset[str], str] = {
    frozenset({"all"}): FilterAll.tag,
    frozenset({"any"}): FilterAny.tag,
    frozenset({"not"}): FilterNot.tag,
    frozenset({"at_least", "of"}): FilterAtLeast.tag,
    **{
        frozenset({"field", operator}): f"<{operator}>"
        for operator in ("equals", "in", "match", "exists", "empty", "geo_radius", "geo_box", "nested")
    },
}


def _form(value: object) -> str | None:
    """Tell the kind of a condition by its keys; None for none."""
    if isinstance(value, _Condition):
        return value.tag
    if not isinstance(value, Mapping):
        return None
    if (tag := _FORM_OF_KEYS.get(frozenset(value))) is not None:
        return tag
    if not ("field" in value and len(value) > 1 and value.keys() <= {"field", *_BOUNDS}):
        return None
    bounds = [value[name] for name in _BOUNDS if name in value]
    return FilterDateRange.tag if any(isinstance(bound, str) for bound in bounds) else FilterRange.tag


_EXAMPLES: list[Any] = [
    {"field": "region", "equals": "Europe"},
    {
        "all": [
            {"field": "area_km2", "gte": 1000, "lt": 600000},
            {"not": {"field": "region", "in": ["Africa", "Asia"]}},
        ]
    },
    {
        "any": [
            {"field": "capital", "geo_radius": {"lat": 48.86, "lon": 2.35, "radius_m": 50000}},
            {
                "field": "capital",
                "geo_box": {"top_left": {"lat": 55, "lon": 5}, "bottom_right": {"lat": 47, "lon": 15}},
            },
            {"field": "adopted", "lt": "1949-05-23T00:00:00Z"},
            {"field": "caption", "match": "red gold"},
        ]
    },
    {"at_least": 1, "of": [{"field": "region", "exists": True}, {"field": "note", "empty": False}]},
    {"field": "bands", "nested": {"field": "colour", "equals": "gold"}},
]


Filter = TypeAliasType(
    "Filter",
    Annotated[
        Annotated[FilterEquals, Tag(FilterEquals.tag)]
        | Annotated[FilterIn, Tag(FilterIn.tag)]
        | Annotated[FilterRange, Tag(FilterRange.tag)]
        | Annotated[FilterDateRange, Tag(FilterDateRange.tag)]
        | Annotated[FilterMatch, Tag(FilterMatch.tag)]
        | Annotated[FilterExists, Tag(FilterExists.tag)]
        | Annotated[FilterEmpty, Tag(FilterEmpty.tag)]
        | Annotated[FilterGeoRadius, Tag(FilterGeoRadius.tag)]
        | Annotated[FilterGeoBox, Tag(FilterGeoBox.tag)]
        | Annotated[FilterNested, Tag(FilterNested.tag)]
        | Annotated[FilterAll, Tag(FilterAll.tag)]
        | Annotated[FilterAny, Tag(FilterAny.tag)]
        | Annotated[FilterNot, Tag(FilterNot.tag)]
        | Annotated[FilterAtLeast, Tag(FilterAtLeast.tag)],
        Discriminator(_form, custom_error_type="filter_form", custom_error_message=_FORMS),
        Field(
            description=f"A condition on metadata, or several joined: at most {MAX_DEPTH} levels and "
            f"{MAX_CONDITIONS} conditions.",
            examples=_EXAMPLES,
        ),
    ],
)
Filters = Annotated[list[Filter], Field(min_length=1, max_length=MAX_CONDITIONS)]

for _model in (FilterNested, FilterAll, FilterAny, FilterNot, FilterAtLeast):
    _model.model_rebuild()

_ADAPTER: TypeAdapter[_Condition] = TypeAdapter(Filter)


# --- reading


def parse(value: object) -> nodes.Filter:
    """Return the tree of a filter in JSON. Raise `InvalidInput` naming the place, the value and what is allowed
    there."""
    _check_size(value)
    try:
        return _ADAPTER.validate_python(value).tree()
    except ValidationError as error:
        raise _invalid(error) from error


def check_field(path: object, name: str) -> str:
    """Return a path to a metadata field that a store can look up. Raise `InvalidInput` naming the request's field
    `name`."""
    if not isinstance(path, str):
        raise InvalidInput(f"{name} must be a string", field=name, value=_shown(path), limit="string")
    try:
        return _check_path(_check_text(path))
    except PydanticCustomError as error:
        message = error.message()
        raise InvalidInput(f"{name} {message}", field=name, value=_shown(path), limit=message) from error


def _check_size(value: object) -> None:
    """Refuse a filter that is too deep or has too many conditions, before anything is built of it."""
    conditions = 0
    waiting: list[tuple[object, str, int]] = [(value, "filter", 1)]
    while waiting:
        condition, place, depth = waiting.pop()
        conditions += 1
        if depth > MAX_DEPTH:
            raise _too_large(place, "is nested too deep", depth, MAX_DEPTH)
        if conditions > MAX_CONDITIONS:
            raise _too_large(place, "is one condition too many", conditions, MAX_CONDITIONS)
        if not isinstance(condition, Mapping):
            continue
        for name in ("not", "nested"):
            if name in condition:
                waiting.append((condition[name], f"{place}.{name}", depth + 1))
        for name in ("all", "any", "of"):
            listed = condition.get(name)
            if isinstance(listed, list | tuple):
                first = listed[: MAX_CONDITIONS + 1]
                waiting += [(part, f"{place}.{name}[{index}]", depth + 1) for index, part in enumerate(first)]


def _too_large(place: str, problem: str, size: int, limit: int) -> InvalidInput:
    return InvalidInput(f"{place} {problem}, at most {limit}", field=place, value=size, limit=limit)


def _invalid(error: ValidationError) -> InvalidInput:
    first = error.errors(include_url=False)[0]
    place = _place(first["loc"])
    message = first["msg"]
    joined = f"{place} {message}" if first["type"] == "filter" else f"{place}: {message}"
    return InvalidInput(joined, field=place, value=_shown(first["input"]), limit=message)


def _place(location: Sequence[str | int]) -> str:
    """Write ("<all>", "all", 1, "<equals>", "equals") as filter.all[1].equals: tags of the union stay out."""
    place = "filter"
    for part in location:
        if isinstance(part, int):
            place += f"[{part}]"
        elif not part.startswith("<"):
            place += f".{part}"
    return place


def _shown(value: object) -> object:
    """Return the value for an error: as it is when it is short and JSON, else cut."""
    if isinstance(value, Mapping | list) and len(value) > _SHOWN_VALUES:
        return f"{len(value)} values"
    if isinstance(value, str):
        return value if len(value) <= _SHOWN_CHARS else f"{value[:_SHOWN_CHARS]}…"
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return str(value) if isinstance(value, float) else type(value).__name__
    return value if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
