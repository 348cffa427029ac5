"""Random filters and the metadata they are asked of, drawn from one pool of values so that they often meet."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from indexer.filters import Filter, nodes

KEYS = ["x", "a b", "br[0]", "xs"]
FIELDS = ["x", "x", *KEYS, "o.x", '"d.t"', 'o."d.t"', "absent"]
INNER = ["x", "y", "o.x"]  # of the objects in a list

NUMBERS = [0, 1, 1.0, 2, 2.5, -3, -1.5, 1e300]
BEYOND_DOUBLES = [2**53, 2**53 + 1, float(2**53), 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 2**64 - 2]
WORDS = ["", "1", "true", "Europe", "é", "2024-05-01"]
TIMES = [
    "2024-05-01",
    "2024-05-01T00:00:00",
    "2024-05-01 00:00:00",
    "2024-05-01T00:00:00Z",
    "2024-05-01T02:00:00+02:00",
    "2024-04-30T23:59:59.999999-00:30",
    "2024-05-01T00:00:00.123456789Z",
    "1969-12-31T23:59:59Z",
    "2024-13-01T00:00:00Z",
    "May 2024",
]
TEXTS = [
    "A red kite over the Red Sea",
    "red, blue; GREEN-yellow",
    "Ünïcode straße ΣΊΣΥΦΟΣ",
    "don't snake_case x² 3.14",
    "kite",
    "cafe\u0301 東京タワー ＡＢＣ",
    "...",
]
PLACES = [
    {"lat": 0, "lon": 0},
    {"lat": 52.52, "lon": 13.405},
    {"lat": 48.8566, "lon": 2.3522, "name": "Paris"},
    {"lat": -17.7, "lon": 178.8},
    {"lat": -13.8, "lon": -171.8},
    {"lat": 89.5, "lon": -10.0},
    {"lat": "52", "lon": 13},
    {"lat": 52},
]
ODD: list[Any] = [None, [], {}, [[1]], [None], [[]]]

scalars = st.sampled_from([*NUMBERS, *WORDS, *TIMES, *TEXTS, True, False])
plain = scalars | st.sampled_from(PLACES) | st.sampled_from(ODD)
inner_objects = st.dictionaries(st.sampled_from(["x", "y"]), plain | st.lists(scalars, max_size=2), max_size=2)
objects = st.builds(
    lambda flat, deep: flat | ({"o": deep} if deep else {}), inner_objects, st.none() | inner_objects
) | st.builds(lambda flat, deep: flat | {"xs": deep}, inner_objects, st.lists(inner_objects, max_size=2))
values = st.one_of(plain, plain, st.lists(plain, max_size=3), st.lists(objects, max_size=3), objects)


def metadata(value: st.SearchStrategy[Any] = values) -> st.SearchStrategy[dict[str, Any]]:
    inside = st.dictionaries(st.sampled_from(["x", "a b", "y"]), value, max_size=2)
    return st.dictionaries(st.sampled_from([*KEYS, "d.t", "o"]), value | inside, max_size=5)


def corpus(numbers: list[Any] = NUMBERS) -> list[dict[str, Any]]:
    """Every value of the pool in every place where a filter can look, each beside another one: most filters tell these apart."""
    pool: list[Any] = [*numbers, *WORDS, *TIMES, *TEXTS, True, False, *PLACES, *ODD]
    documents: list[dict[str, Any]] = [{}]
    for value, other in zip(pool, [*pool[7:], *pool[:7]], strict=True):
        documents += [
            {"x": value, "a b": other, "d.t": other},
            {"x": [other, value], "br[0]": value},
            {"o": {"x": value, "y": other, "d.t": value}, "xs": [other]},
            {"xs": [{"x": value, "y": other}, {"x": other, "y": [value]}], "o": [{"x": value}]},
            {"xs": [{"o": {"x": value}, "xs": [{"x": other}, {"y": value}]}, value], "a b": [value]},
        ]
    return documents


# ---------------------------------------------------------------------------------------------------------- filters

_BOUNDS = ["gt", "gte", "lt", "lte"]
MOMENTS = [
    datetime(2024, 5, 1, tzinfo=UTC),
    datetime(2024, 5, 1, 2, tzinfo=timezone(timedelta(hours=2))),
    datetime(2024, 5, 1, 0, 0, 0, 123456, tzinfo=UTC),
    datetime(2024, 4, 30, 0, 0, 1, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2100, 1, 1, tzinfo=UTC),
]
moments = st.sampled_from(MOMENTS).map(lambda moment: moment.astimezone(UTC))
SOUGHT = [
    "red",
    "RED kite",
    "sea red",
    "green yellow",
    "straße",
    "Σίσυφος",
    "t",
    "case snake",
    "x²",
    "1",
    "caf\u00e9",
    "strasse",
    "東京",
    "abc",
]
sought = st.sampled_from(SOUGHT)
# No edge of a circle or a box goes through a place: what lies on it depends on the last bit.
boxes = st.sampled_from(
    [(60, -20, 40, 20), (89.9, -179.9, -89.9, 179.9), (0.5, 170, -20, -170), (53, 10, 52, 10), (60, 100, -60, 50)]
).map(lambda edges: tuple(map(float, edges)))


def leaves(fields: list[str], numbers: list[Any]) -> st.SearchStrategy[Filter]:
    field = st.sampled_from(fields)
    number = st.sampled_from(numbers)
    whole = st.sampled_from([each for each in numbers if isinstance(each, int)])
    return st.one_of(
        st.builds(nodes.Equals, field, number | st.sampled_from([*WORDS, *TIMES, *TEXTS, True, False])),
        st.builds(nodes.In, field, st.lists(st.sampled_from([*WORDS, *TEXTS]), min_size=1, max_size=3).map(tuple)),
        st.builds(nodes.In, field, st.lists(whole, min_size=1, max_size=3).map(tuple)),
        _range(nodes.Range, field, number.map(float)),
        _range(nodes.DateRange, field, moments),
        st.builds(nodes.Empty, field),
        st.builds(nodes.FullText, field, sought),
        st.builds(
            lambda f, place, radius: nodes.GeoRadius(f, float(place["lat"]), float(place["lon"]), radius),
            field,
            st.sampled_from(PLACES[:6]),
            st.sampled_from(
                [1.0, 870_000.0, 880_000.0, 1e7, 5e7]  # Berlin to Paris are 877 km
            ),
        ),
        st.builds(lambda f, box: nodes.GeoBox(f, *box), field, boxes),
    )


def every_leaf(field: str) -> list[Filter]:
    """Conditions of every kind on a field, with every value of the pool."""
    scalars: list[Any] = [*NUMBERS, *BEYOND_DOUBLES, *WORDS, *TIMES, *TEXTS, True, False]
    leaves: list[Filter] = [nodes.Equals(field, value) for value in scalars]
    leaves += [
        nodes.In(field, ("Europe", "kite", "1")),
        nodes.In(field, (1, 2)),
        nodes.In(field, (2**53 + 1, 0)),
        nodes.Empty(field),
    ]
    leaves += [nodes.Range(field, gte=float(number)) for number in NUMBERS] + [nodes.Range(field, gt=0.0, lt=2.0)]
    leaves += [nodes.DateRange(field, lte=moment.astimezone(UTC)) for moment in MOMENTS]
    leaves += [nodes.FullText(field, text) for text in SOUGHT]
    leaves += [nodes.GeoRadius(field, 52.52, 13.405, 880_000.0), nodes.GeoBox(field, 60.0, -20.0, 40.0, 20.0)]
    return leaves


def _range(of: Any, field: st.SearchStrategy[str], bound: st.SearchStrategy[Any]) -> st.SearchStrategy[Filter]:
    bounds = st.dictionaries(st.sampled_from(_BOUNDS), bound, min_size=1, max_size=2)
    return st.builds(lambda f, given: of(f, **given), field, bounds)


def _combined(inner: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    several = st.lists(inner, min_size=1, max_size=3).map(tuple)
    at_least = several.flatmap(lambda of: st.builds(nodes.AtLeast, st.integers(1, len(of)), st.just(of)))
    return st.one_of(
        st.builds(nodes.AllOf, several), st.builds(nodes.AnyOf, several), at_least, st.builds(nodes.Not, inner)
    )


def filters(numbers: list[Any] = NUMBERS) -> st.SearchStrategy[Filter]:
    inside = st.recursive(leaves(INNER, numbers), _combined, max_leaves=3)
    twice = st.builds(nodes.Nested, st.just("xs"), inside)
    nested = st.builds(nodes.Nested, st.sampled_from(["xs", "xs", "xs", "o", "x"]), inside | twice)
    leaf = leaves(FIELDS, numbers) | nested
    return leaf | st.recursive(leaf, _combined, max_leaves=5)


def wire(tree: Filter) -> dict[str, Any]:
    """The JSON that `parse` reads as the tree."""
    match tree:
        case nodes.AllOf(of):
            return {"all": [wire(each) for each in of]}
        case nodes.AnyOf(of):
            return {"any": [wire(each) for each in of]}
        case nodes.AtLeast(n, of):
            return {"at_least": n, "of": [wire(each) for each in of]}
        case nodes.Not(of):
            return {"not": wire(of)}
        case nodes.Nested(field, of):
            return {"field": field, "nested": wire(of)}
        case nodes.Equals(field, value):
            return {"field": field, "equals": value}
        case nodes.In(field, values_):
            return {"field": field, "in": list(values_)}
        case nodes.Range(field):
            return {"field": field} | {each: getattr(tree, each) for each in _BOUNDS if getattr(tree, each) is not None}
        case nodes.DateRange(field):
            given = {each: getattr(tree, each) for each in _BOUNDS}
            return {"field": field} | {each: bound.isoformat() for each, bound in given.items() if bound is not None}
        case nodes.Empty(field):
            return {"field": field, "empty": True}
        case nodes.FullText(field, text):
            return {"field": field, "match": text}
        case nodes.GeoRadius(field, lat, lon, radius_m):
            return {"field": field, "geo_radius": {"lat": lat, "lon": lon, "radius_m": radius_m}}
        case nodes.GeoBox(field, top, left, bottom, right):
            corners = {"top_left": {"lat": top, "lon": left}, "bottom_right": {"lat": bottom, "lon": right}}
            return {"field": field, "geo_box": corners}
