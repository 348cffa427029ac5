"""The wire form is refused wherever it strays, and the meaning of a filter obeys the laws of all, any and not."""

import contextlib
import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from filter_strategies import BEYOND_DOUBLES, FIELDS, NUMBERS, corpus, filters, metadata, wire
from hypothesis import given
from hypothesis import strategies as st

from indexer.filters import (
    MAX_CONDITIONS,
    MAX_DEPTH,
    FieldType,
    Filter,
    check_field,
    check_types,
    nodes,
    parse,
    steps,
    tight_bounds,
)
from indexer.filters.meaning import matches
from indexer.filters.values import read_moment
from indexer.filters.words import words
from model.errors import InvalidInput

DOCS = Path(__file__).parents[4] / "docs" / "filters.md"

trees = filters([*NUMBERS, *BEYOND_DOUBLES]).filter(lambda tree: depth(tree) <= MAX_DEPTH)
fields = st.sampled_from(FIELDS)
documents = metadata()


def depth(tree: Filter) -> int:
    match tree:
        case nodes.AllOf(of) | nodes.AnyOf(of) | nodes.AtLeast(_, of):
            return 1 + max(map(depth, of))
        case nodes.Not(of) | nodes.Nested(_, of):
            return 1 + depth(of)
    return 1


# ---------------------------------------------------------------------------------------------------------- parse


@given(trees)
def test_parse_reads_what_was_written(tree: Filter) -> None:
    assert repr(parse(json.loads(json.dumps(wire(tree))))) == repr(tree)


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.floats()),
        lambda v: st.lists(v) | st.dictionaries(st.text(max_size=5), v),
        max_leaves=10,
    )
)
def test_parse_raises_nothing_but_invalid_input(value: object) -> None:
    with contextlib.suppress(InvalidInput):
        parse(value)


def leaf(**changes: object) -> dict[str, object]:
    return {"field": "a", "equals": 1} | changes


def box(top_left: object, bottom_right: object) -> dict[str, object]:
    return {"field": "a", "geo_box": {"top_left": top_left, "bottom_right": bottom_right}}


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
        (leaf(equals=2**64), "filter.equals"),
        (leaf(equals=-(2**63) - 1), "filter.equals"),
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
        ({"field": "a", "gt": "2024-13-01T00:00:00Z"}, "filter.gt"),
        ({"field": "a", "gt": "2024-05-01T00:00:00Z", "lt": 5}, "filter.lt"),
        ({"field": "a", "gt": "0001-01-01T00:00:00+01:00"}, "filter.gt"),
        ({"at_least": 0, "of": [leaf()]}, "filter.at_least"),
        ({"at_least": 2, "of": [leaf()]}, "filter.at_least"),
        ({"at_least": True, "of": [leaf()]}, "filter.at_least"),
        ({"at_least": 1, "of": []}, "filter.of"),
        ({"at_least": 1, "of": [{}]}, "filter.of[0]"),
        ({"at_least": 1}, "filter"),
        ({"field": "a", "exists": 1}, "filter.exists"),
        ({"field": "a", "empty": None}, "filter.empty"),
        ({"field": "a", "match": 3}, "filter.match"),
        ({"field": "a", "match": "..."}, "filter.match"),
        ({"field": "a", "match": "x" * 4097}, "filter.match"),
        ({"field": "a", "nested": []}, "filter.nested"),
        ({"field": "", "nested": leaf()}, "filter.field"),
        ({"field": "a", "nested": leaf(equals=None)}, "filter.nested.equals"),
        ({"field": "a", "geo_radius": {"lat": 1, "lon": 2}}, "filter.geo_radius.radius_m"),
        ({"field": "a", "geo_radius": {"lat": 91, "lon": 2, "radius_m": 3}}, "filter.geo_radius.lat"),
        ({"field": "a", "geo_radius": {"lat": 1, "lon": -181, "radius_m": 3}}, "filter.geo_radius.lon"),
        ({"field": "a", "geo_radius": {"lat": 1, "lon": "2", "radius_m": 3}}, "filter.geo_radius.lon"),
        ({"field": "a", "geo_radius": {"lat": 1, "lon": 2, "radius_m": 0}}, "filter.geo_radius.radius_m"),
        ({"field": "a", "geo_radius": 5}, "filter.geo_radius"),
        ({"field": 'a."b"c', "equals": 1}, "filter.field"),
        ({"field": '"a', "equals": 1}, "filter.field"),
        ({"field": "a", "geo_box": {"top_left": {"lat": 1, "lon": 2}}}, "filter.geo_box.bottom_right"),
        (box({"lat": 1, "lon": 2}, {"lat": 1, "lon": 3}), "filter.geo_box.top_left"),
        (box({"lat": 1, "lon": 2}, {"lat": -91, "lon": 3}), "filter.geo_box.bottom_right.lat"),
        (box({"lat": 1}, {"lat": -1, "lon": 3}), "filter.geo_box.top_left.lon"),
        (box([1, 2], {"lat": -1, "lon": 3}), "filter.geo_box.top_left"),
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


@given(trees, trees, documents)
def test_matches_obeys_the_laws(f: Filter, g: Filter, data: dict[str, Any]) -> None:
    assert matches(nodes.Not(f), data) is (not matches(f, data))
    assert matches(nodes.AllOf((f, g)), data) is (matches(f, data) and matches(g, data))
    assert matches(nodes.AnyOf((f, g)), data) is (matches(f, data) or matches(g, data))
    assert matches(nodes.Not(nodes.AllOf((f, g))), data) is matches(nodes.AnyOf((nodes.Not(f), nodes.Not(g))), data)


@given(
    fields,
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.sampled_from([1, 2**53, 2**53 + 1]), min_size=1, max_size=3),
    documents,
)
def test_in_is_any_of_equals(field: str, wanted: list[int], data: dict[str, Any]) -> None:
    assert matches(nodes.In(field, tuple(wanted)), data) is matches(
        nodes.AnyOf(tuple(nodes.Equals(field, each) for each in wanted)), data
    )


@given(fields, st.integers(-(2**53) + 1, 2**53 - 1) | st.sampled_from([1.0, 2.5]), documents)
def test_equals_a_number_is_the_range_from_it_to_it(field: str, wanted: float, data: dict[str, Any]) -> None:
    assert matches(nodes.Equals(field, wanted), data) is matches(
        nodes.Range(field, gte=float(wanted), lte=float(wanted)), data
    )


MAY = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("condition", "data", "expected"),
    [
        (nodes.Equals("a", 1), {"a": 1.0}, True),
        (nodes.Equals("a", 1.0), {"a": 1}, True),
        (nodes.Equals("a", 0.0), {"a": -0.0}, True),
        (nodes.Equals("a", 1), {"a": True}, False),
        (nodes.Equals("a", True), {"a": 1}, False),
        (nodes.Equals("a", True), {"a": True}, True),
        (nodes.Equals("a", "1"), {"a": 1}, False),
        (nodes.Equals("a", ""), {"a": None}, False),
        (nodes.Equals("a", 2**53), {"a": 2**53 + 1}, False),
        (nodes.Equals("a", 2**53 + 1), {"a": 2**53 + 1}, True),
        (nodes.Equals("a", 2), {"a": [1, 2]}, True),
        (nodes.Equals("a", 2), {"a": [[2]]}, False),
        (nodes.Equals("a", 2), {"a": []}, False),
        (nodes.Equals("a.b", 2), {"a": {"b": 2}}, True),
        (nodes.Equals("a.b", 2), {"a": [{"b": 2}]}, False),
        (nodes.Equals("a.b", 2), {"a.b": 2}, False),
        (nodes.Equals("a.b", 2), {"a": 2}, False),
        (nodes.Range("a"), {"a": 1}, True),
        (nodes.Range("a"), {"a": "1"}, False),
        (nodes.Range("a", gt=0), {"a": True}, False),
        (nodes.Range("a", gt=1, lt=3), {"a": [0, 4]}, False),
        (nodes.Range("a", gt=1, lt=3), {"a": [0, 2]}, True),
        (nodes.Not(nodes.Equals("a", 1)), {}, True),
        (nodes.AllOf(()), {}, True),
        (nodes.AnyOf(()), {}, False),
        (nodes.In("a", ()), {"a": 1}, False),
        (nodes.Equals("a", 1), None, False),
        (nodes.AtLeast(2, (nodes.Equals("a", 1), nodes.Equals("b", 1), nodes.Equals("c", 1))), {"a": 1, "c": 1}, True),
        (nodes.AtLeast(2, (nodes.Equals("a", 1), nodes.Equals("b", 1), nodes.Equals("c", 1))), {"c": 1}, False),
        (nodes.Empty("a"), {}, True),
        (nodes.Empty("a"), {"a": None}, True),
        (nodes.Empty("a"), {"a": []}, True),
        (nodes.Empty("a"), {"a": ""}, False),
        (nodes.Empty("a"), {"a": 0}, False),
        (nodes.Empty("a"), {"a": {}}, False),
        (nodes.Empty("a"), {"a": [None]}, False),
        (nodes.FullText("a", "sea red"), {"a": "A Red kite over the SEA"}, True),
        (nodes.FullText("a", "se"), {"a": "A Red kite over the SEA"}, False),
        (nodes.FullText("a", "red sea"), {"a": ["red", "sea"]}, True),
        (nodes.FullText("a", "red sea"), {"a": "red"}, False),
        (nodes.FullText("a", "1"), {"a": 1}, False),
        (
            nodes.Nested("a", nodes.AllOf((nodes.Equals("b", 1), nodes.Equals("c", 2)))),
            {"a": [{"b": 1}, {"c": 2}]},
            False,
        ),
        (nodes.Nested("a", nodes.AllOf((nodes.Equals("b", 1), nodes.Equals("c", 2)))), {"a": [{"b": 1, "c": 2}]}, True),
        (nodes.Nested("a", nodes.Equals("b", 1)), {"a": {"b": 1}}, False),
        (nodes.Nested("a", nodes.Not(nodes.Equals("b", 1))), {"a": [1, {}]}, True),
        (nodes.Nested("a", nodes.Not(nodes.Equals("b", 1))), {"a": [1]}, False),
        (nodes.Nested("a.b", nodes.Equals("c.d", 1)), {"a": {"b": [{"c": {"d": [1]}}]}}, True),
        (nodes.DateRange("a", gte=MAY), {"a": "2024-05-01"}, True),
        (nodes.DateRange("a", gt=MAY), {"a": "2024-05-01T02:00:00+02:00"}, False),
        (nodes.DateRange("a", lt=MAY), {"a": "2024-05-01T01:59:59+02:00"}, True),
        (nodes.DateRange("a", gte=MAY), {"a": 1714521600}, False),
        (nodes.DateRange("a", gte=MAY), {"a": "in May"}, False),
        (nodes.GeoRadius("a", 52.52, 13.405, 880_000.0), {"a": {"lat": 48.8566, "lon": 2.3522}}, True),
        (nodes.GeoRadius("a", 52.52, 13.405, 870_000.0), {"a": {"lat": 48.8566, "lon": 2.3522}}, False),
        (nodes.GeoRadius("a", 0.0, 179.0, 300_000.0), {"a": {"lat": 0, "lon": -179}}, True),
        (nodes.GeoRadius("a", 0.0, 0.0, 1.0), {"a": [{"lat": "0", "lon": 0}, {"lat": 0}]}, False),
        (nodes.GeoBox("a", 1.0, -1.0, -1.0, 1.0), {"a": [{"lat": 9, "lon": 0}, {"lat": 0, "lon": 0}]}, True),
        (nodes.GeoBox("a", 1.0, -1.0, -1.0, 1.0), {"a": {"lat": 1, "lon": 0}}, False),
        (nodes.GeoBox("a", 1.0, 170.0, -1.0, -170.0), {"a": {"lat": 0, "lon": 175}}, True),
        (nodes.GeoBox("a", 1.0, 170.0, -1.0, -170.0), {"a": {"lat": 0, "lon": 0}}, False),
    ],
)
def test_matches(condition: Filter, data: object, expected: bool) -> None:
    assert matches(condition, data) is expected


@given(trees)
def test_tight_bounds_select_what_all_bounds_do(tree: Filter) -> None:
    if isinstance(tree, nodes.Range | nodes.DateRange):
        tight = type(tree)(tree.field, **tight_bounds(tree))
        assert {"gt", "gte"} - tight_bounds(tree).keys()
        assert {"lt", "lte"} - tight_bounds(tree).keys()
        assert [matches(tight, each) for each in corpus()] == [matches(tree, each) for each in corpus()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-01", MAY),
        ("2024-05-01T00:00:00", MAY),
        ("2024-05-01 00:00:00Z", MAY),
        ("2024-05-01t00:00:00z", MAY),
        ("2024-05-01T00:00:00.999999999Z", datetime(2024, 5, 1, 0, 0, 0, 999_999, tzinfo=UTC)),
        ("2024-05-01T00:00:00.5-00:30", datetime(2024, 5, 1, 0, 30, 0, 500_000, tzinfo=UTC)),
        ("2024-02-30", None),
        ("2024-05-01T24:00:00Z", None),
        ("2024-05-01T00:00:00+25:00", None),
        ("9999-12-31T23:59:59-01:00", None),
        ("2024", None),
        ("٢٠٢٤-05-01", None),
        ("", None),
    ],
)
def test_read_moment(text: str, expected: datetime | None) -> None:
    assert read_moment(text) == expected


# ---------------------------------------------------------------------------------------------------------- fields


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("region", ["region"]),
        ("author.name", ["author", "name"]),
        ('"loc.page"', ["loc.page"]),
        ('a."b.c".d', ["a", "b.c", "d"]),
        ("br[0]", ["br[0]"]),
        ('"a b".c', ["a b", "c"]),
    ],
)
def test_the_keys_of_a_path(path: str, keys: list[str]) -> None:
    assert list(steps(path)) == keys
    assert check_field(path, "group_by") == path


@pytest.mark.parametrize("path", ["", ".", "a.", '""', '"a', 'a"b"', '"a"b', "a\\b", '"a"b"', "x" * 129, "\ud800"])
def test_a_key_without_a_path_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match=r"^group_by") as raised:
        check_field(path, "group_by")
    assert raised.value.field == "group_by"


@pytest.mark.parametrize(
    ("text", "sought"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("cafe\u0301", "CAF\u00c9"),
        ("Straße", "STRASSE"),
        ("ｆｕｌｌ　ｗｉｄｔｈ", "full width"),
        ("ﬁne", "fine"),
        ("한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
        ("東京タワー", "東京"),
    ],
)
def test_words_match_as_in_lexical_search(text: str, sought: str) -> None:
    assert matches(nodes.FullText("a", sought), {"a": text})
    assert set(words(sought)) <= set(words(text))


# ---------------------------------------------------------------------------------------------------------- types

FITTING = {
    FieldType.KEYWORD: [nodes.Equals("a", "x"), nodes.In("a", ("x",)), nodes.FullText("a", "x")],
    FieldType.NUMBER: [nodes.Equals("a", 1), nodes.Equals("a", 2.5), nodes.In("a", (1,)), nodes.Range("a", gt=1.0)],
    FieldType.BOOL: [nodes.Equals("a", True)],
    FieldType.DATETIME: [nodes.DateRange("a", gt=MAY)],
    FieldType.TEXT: [nodes.FullText("a", "x"), nodes.Equals("a", "x"), nodes.In("a", ("x",))],
    FieldType.GEO: [nodes.GeoRadius("a", 0.0, 0.0, 1.0), nodes.GeoBox("a", 1.0, 0.0, 0.0, 1.0)],
}
EVERY = {repr(each): each for fitting in FITTING.values() for each in fitting}


@pytest.mark.parametrize("declared", FieldType)
def test_a_filter_has_to_fit_the_declared_type(declared: FieldType) -> None:
    for condition in [*EVERY.values(), nodes.Nested("a", nodes.Equals("b", 1))]:
        asked = nodes.AllOf((nodes.Empty("a"), nodes.AtLeast(1, (nodes.AnyOf((nodes.Not(condition),)),))))
        check_types(asked, {"other": declared})
        if repr(condition) in map(repr, FITTING[declared]):  # by repr: True equals 1
            check_types(asked, {"a": declared})
        else:
            with pytest.raises(InvalidInput, match=f"field a is declared {declared}, the filter asks for") as raised:
                check_types(asked, {"a": declared})
            assert raised.value.field == "a"


def test_fields_inside_lists_are_not_typed() -> None:
    check_types(nodes.Nested("people", nodes.Equals("a", "x")), {"a": FieldType.NUMBER})


# ---------------------------------------------------------------------------------------------------------- docs


def test_every_example_of_the_docs_selects_what_the_docs_say() -> None:
    """The first JSON block is the document; each row of a table is a filter and whether it selects that document."""
    text = DOCS.read_text()
    block = re.search(r"```json\n(.*?)```", text, re.DOTALL)
    assert block is not None
    document = json.loads(block[1])
    rows = re.findall(r"^\| `(\{.*\})` \| (yes|no|refused) \|", text, re.MULTILINE)
    assert len(rows) > 25
    for example, answer in rows:
        if answer == "refused":
            with pytest.raises(InvalidInput):
                parse(json.loads(example))
        else:
            assert matches(parse(json.loads(example)), document) is (answer == "yes"), example
    assert {"yes", "no", "refused"} == {answer for _, answer in rows}


def test_the_docs_have_every_operator_and_limit() -> None:
    text = DOCS.read_text()
    operators = [
        "equals",
        "in",
        "gt",
        "gte",
        "lt",
        "lte",
        "match",
        "exists",
        "empty",
        "geo_radius",
        "geo_box",
        "nested",
    ]
    for each in [*operators, "all", "any", "not", "at_least"]:
        assert f'"{each}":' in text, each
    for limit in (MAX_DEPTH, MAX_CONDITIONS):
        assert re.search(rf"\b{limit}\b", text)
