"""The filter that the OpenAPI document describes is the one that is read: neither allows in earnest what the other does
not."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from filter_strategies import BEYOND_DOUBLES, NUMBERS, filters, wire
from hypothesis import given
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

from indexer.filters import Filter, FilterModel, parse
from model.errors import InvalidInput

DOCS = Path(__file__).parents[4] / "docs" / "filters.md"
VALIDATOR = Draft202012Validator(TypeAdapter(FilterModel).json_schema())


@given(filters([*NUMBERS, *BEYOND_DOUBLES]))
def test_what_can_be_asked_is_described(tree: Filter) -> None:
    VALIDATOR.validate(json.loads(json.dumps(wire(tree))))


def test_the_examples_of_the_manual_are_described() -> None:
    examples = re.findall(r"^\| `(\{.*\})` \| (?:yes|no) \|", DOCS.read_text(), re.MULTILINE)
    assert len(examples) > 20
    for one in examples:
        VALIDATOR.validate(json.loads(one))


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"field": "x"},
        {"field": "", "equals": 1},
        {"field": "a..b", "equals": 1},
        {"field": 'a"b', "equals": 1},
        {"field": "x" * 129, "equals": 1},
        {"field": "x", "equals": None},
        {"field": "x", "equals": 1, "in": [1]},
        {"field": "x", "in": []},
        {"field": "x", "in": [1, "a"]},
        {"field": "x", "in": [1.5]},
        {"field": "x", "gt": True},
        {"field": "x", "match": 1},
        {"field": "x", "exists": "yes"},
        {"field": "x", "geo_radius": {"lat": 91, "lon": 0, "radius_m": 1}},
        {"field": "x", "geo_radius": {"lat": 0, "lon": 0, "radius_m": 0}},
        {"field": "x", "geo_box": {"top_left": {"lat": 1, "lon": 0}}},
        {"field": "x", "nested": {}},
        {"all": []},
        {"not": []},
        {"at_least": 0, "of": [{"field": "x", "equals": 1}]},
        {"all": [{"field": "x", "equals": 1}], "any": [{"field": "x", "equals": 1}]},
    ],
    ids=json.dumps,
)
def test_what_is_refused_is_not_described(value: Any) -> None:
    assert not VALIDATOR.is_valid(value)
    with pytest.raises(InvalidInput):
        parse(value)
