"""The wire form is refused wherever it strays, and the meaning of a filter obeys the laws of all, any and not."""

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.filters import MAX_CONDITIONS, MAX_DEPTH, AllOf, AnyOf, Equals, Filter, In, Not, Range, matches, parse
from model.errors import InvalidInput

KEYS = ["a", "b", "long name", "x-y", "é"]
numbers = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([-1.5, 0.0, 1.0, 2.5, 2.0**53]),
    st.sampled_from([2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)]),
)
scalars = st.one_of(st.booleans(), numbers, st.sampled_from(["", "1", "true", "Europe", "é"]))
fields = st.lists(st.sampled_from(KEYS), min_size=1, max_size=3).map(".".join)
bounds = st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), numbers.map(float), min_size=1)
leaves = st.one_of(
    st.builds(Equals, fields, scalars),
    st.builds(In, fields, st.lists(st.sampled_from(["1", "Europe"]), min_size=1).map(tuple)),
    st.builds(In, fields, st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4).map(tuple)),
    st.builds(lambda field, given: Range(field, **given), fields, bounds),
)


def combined(inner: st.SearchStrategy[Filter]) -> st.SearchStrategy[Filter]:
    several = st.lists(inner, min_size=1, max_size=3).map(tuple)
    return st.one_of(st.builds(AllOf, several), st.builds(AnyOf, several), st.builds(Not, inner))


trees = st.recursive(leaves, combined, max_leaves=8).filter(lambda tree: depth(tree) <= MAX_DEPTH)
elements = st.one_of(st.none(), scalars)
values = st.recursive(
    st.one_of(elements, st.lists(elements, max_size=3)), lambda v: st.dictionaries(st.sampled_from(KEYS), v, max_size=3)
)
metadata = st.dictionaries(st.sampled_from(KEYS), values, max_size=4)


def depth(tree: Filter) -> int:
    match tree:
        case AllOf(of) | AnyOf(of):
            return 1 + max(map(depth, of))
        case Not(of):
            return 1 + depth(of)
    return 1


def wire(tree: Filter) -> dict[str, Any]:
    match tree:
        case AllOf(of):
            return {"all": [wire(each) for each in of]}
        case AnyOf(of):
            return {"any": [wire(each) for each in of]}
        case Not(of):
            return {"not": wire(of)}
        case Equals(field, value):
            return {"field": field, "equals": value}
        case In(field, values):
            return {"field": field, "in": list(values)}
        case Range(field):
            given = {bound: getattr(tree, bound) for bound in ("gt", "gte", "lt", "lte")}
            return {"field": field} | {bound: value for bound, value in given.items() if value is not None}


# ---------------------------------------------------------------------------------------------------------- parse


@given(trees)
def test_parse_reads_what_was_written(tree: Filter) -> None:
    assert parse(json.loads(json.dumps(wire(tree)))) == tree


@given(
    st.recursive(
        st.one_of(elements, st.floats()), lambda v: st.lists(v) | st.dictionaries(st.text(max_size=5), v), max_leaves=10
    )
)
def test_parse_raises_nothing_but_invalid_input(value: object) -> None:
    with contextlib.suppress(InvalidInput):
        parse(value)


def leaf(**changes: object) -> dict[str, object]:
    return {"field": "a", "equals": 1} | changes


@pytest.mark.parametrize(
    ("value", "at"),
    [
        (None, "filter"),
        ([], "filter"),
        ({}, "filter"),
        ("region", "filter"),
        ({"field": "a"}, "filter"),
        ({"equals": 1}, "filter"),
        (leaf(gt=1), "filter"),
        (leaf(unknown=1), "filter"),
        ({"all": [leaf()], "any": [leaf()]}, "filter"),
        ({"all": [leaf()], "field": "a"}, "filter"),
        ({1: 2}, "filter"),
        ({"all": []}, "filter.all"),
        ({"any": []}, "filter.any"),
        ({"any": leaf()}, "filter.any"),
        ({"not": []}, "filter.not"),
        ({"all": [leaf(), {"not": {"any": [leaf(), 3]}}]}, "filter.all[1].not.any[1]"),
        (leaf(field=""), "filter.field"),
        (leaf(field="a..b"), "filter.field"),
        (leaf(field=".a"), "filter.field"),
        (leaf(field=3), "filter.field"),
        (leaf(field="x" * 129), "filter.field"),
        (leaf(field='a"b'), "filter.field"),
        (leaf(field="a\\b"), "filter.field"),
        (leaf(field="\ud800"), "filter.field"),
        (leaf(equals=None), "filter.equals"),
        (leaf(equals=[1]), "filter.equals"),
        (leaf(equals=math.nan), "filter.equals"),
        (leaf(equals=-math.inf), "filter.equals"),
        (leaf(equals=2**63), "filter.equals"),
        (leaf(equals="\udfff"), "filter.equals"),
        (leaf(equals="x" * 4097), "filter.equals"),
        ({"field": "a", "in": []}, "filter.in"),
        ({"field": "a", "in": "Europe"}, "filter.in"),
        ({"field": "a", "in": ["x"] * 1001}, "filter.in"),
        ({"field": "a", "in": ["x", 1]}, "filter.in[0]"),
        ({"field": "a", "in": [1, True]}, "filter.in[1]"),
        ({"field": "a", "in": [1, 2.0]}, "filter.in[1]"),
        ({"field": "a", "in": [1, -(2**63) - 1]}, "filter.in[1]"),
        ({"field": "a", "gt": math.nan}, "filter.gt"),
        ({"field": "a", "gte": 1, "lte": math.inf}, "filter.lte"),
        ({"field": "a", "lt": "5"}, "filter.lt"),
        ({"field": "a", "lt": True}, "filter.lt"),
        ({"field": "a", "lt": None}, "filter.lt"),
        ({"field": "a", "lt": 10**400}, "filter.lt"),
    ],
)
def test_parse_names_the_place(value: object, at: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        parse(value)
    assert raised.value.field == at
    assert raised.value.detail.startswith(at)
    assert raised.value.limit is not None
    json.dumps(raised.value.value, allow_nan=False)


def nested(levels: int) -> dict[str, object]:
    tree = leaf()
    for _ in range(levels - 1):
        tree = {"not": tree}
    return tree


def test_depth_and_number_of_conditions_are_bounded() -> None:
    parse(nested(MAX_DEPTH))
    with pytest.raises(InvalidInput, match="too deep"):
        parse(nested(MAX_DEPTH + 1))
    with pytest.raises(InvalidInput, match="too deep"):
        parse(nested(900))
    parse({"all": [leaf()] * (MAX_CONDITIONS - 1)})
    with pytest.raises(InvalidInput, match="too many"):
        parse({"all": [leaf()] * MAX_CONDITIONS})
    parse(leaf(field="x" * 128))
    parse(leaf(equals=2**63 - 1))


# ---------------------------------------------------------------------------------------------------------- matches


@given(trees, trees, metadata)
def test_matches_obeys_the_laws(f: Filter, g: Filter, data: dict[str, Any]) -> None:
    assert matches(Not(f), data) is (not matches(f, data))
    assert matches(AllOf((f, g)), data) is (matches(f, data) and matches(g, data))
    assert matches(AnyOf((f, g)), data) is (matches(f, data) or matches(g, data))
    assert matches(Not(AllOf((f, g))), data) is matches(AnyOf((Not(f), Not(g))), data)


@given(
    fields,
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.sampled_from([1, 2**53, 2**53 + 1]), min_size=1, max_size=3),
    metadata,
)
def test_in_is_any_of_equals(field: str, wanted: list[int], data: dict[str, Any]) -> None:
    assert matches(In(field, tuple(wanted)), data) is matches(
        AnyOf(tuple(Equals(field, each) for each in wanted)), data
    )


@given(fields, st.integers(-(2**53) + 1, 2**53 - 1) | st.sampled_from([1.0, 2.5]), metadata)
def test_equals_a_number_is_the_range_from_it_to_it(field: str, wanted: float, data: dict[str, Any]) -> None:
    assert matches(Equals(field, wanted), data) is matches(Range(field, gte=float(wanted), lte=float(wanted)), data)


@pytest.mark.parametrize(
    ("condition", "data", "expected"),
    [
        (Equals("a", 1), {"a": 1.0}, True),
        (Equals("a", 1.0), {"a": 1}, True),
        (Equals("a", 0.0), {"a": -0.0}, True),
        (Equals("a", 1), {"a": True}, False),
        (Equals("a", True), {"a": 1}, False),
        (Equals("a", True), {"a": True}, True),
        (Equals("a", "1"), {"a": 1}, False),
        (Equals("a", ""), {"a": None}, False),
        (Equals("a", 2**53), {"a": 2**53 + 1}, False),
        (Equals("a", 2**53 + 1), {"a": 2**53 + 1}, True),
        (Equals("a", 2), {"a": [1, 2]}, True),
        (Equals("a", 2), {"a": [[2]]}, False),
        (Equals("a", 2), {"a": []}, False),
        (Equals("a.b", 2), {"a": {"b": 2}}, True),
        (Equals("a.b", 2), {"a": [{"b": 2}]}, False),
        (Equals("a.b", 2), {"a.b": 2}, False),
        (Equals("a.b", 2), {"a": 2}, False),
        (Range("a"), {"a": 1}, True),
        (Range("a"), {"a": "1"}, False),
        (Range("a", gt=0), {"a": True}, False),
        (Range("a", gt=1, lt=3), {"a": [0, 4]}, False),
        (Range("a", gt=1, lt=3), {"a": [0, 2]}, True),
        (Not(Equals("a", 1)), {}, True),
        (AllOf(()), {}, True),
        (AnyOf(()), {}, False),
        (In("a", ()), {"a": 1}, False),
        (Equals("a", 1), None, False),
    ],
)
def test_matches(condition: Filter, data: object, expected: bool) -> None:
    assert matches(condition, data) is expected
