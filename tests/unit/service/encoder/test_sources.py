"""The list of models: names, sources, and what is wrong with a list."""

import pytest

from model.errors import InvalidInput
from service.encoder.sources import read_sources


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("everyday=bundled:everyday,atlas=bundled:atlas", {"everyday": "bundled:everyday", "atlas": "bundled:atlas"}),
        ("bundled:atlas", {"atlas": "bundled:atlas"}),
        ("bundled", {"atlas": "bundled"}),
        ("/models/clip-base", {"clip-base": "/models/clip-base"}),
        (
            "hub:openai/clip-vit-base-patch32@refs/pr/1",
            {"clip-vit-base-patch32": "hub:openai/clip-vit-base-patch32@refs/pr/1"},
        ),
        (" a = /models/a , b=./x=y ,", {"a": "/models/a", "b": "./x=y"}),
    ],
)
def test_names_and_sources(declared: str, expected: dict[str, str]) -> None:
    assert {model.name: model.source for model in read_sources(declared)} == expected


def test_the_order_is_kept_for_the_first_is_the_default() -> None:
    assert [model.name for model in read_sources("b=/b,a=/a")] == ["b", "a"]


@pytest.mark.parametrize(
    ("declared", "complaint"),
    [
        ("clip=/a,clip=/b", "two models have the name 'clip': /a and /b. Give one of them another name"),
        ("bundled:atlas,/elsewhere/atlas", "two models have the name 'atlas'"),
        (" , ", "no model is named"),
        ("./x=y", "'./x=y' gives no name to serve it by: name it, as NAME=./x=y"),
        ("=/models/a", "is no NAME=SOURCE"),
        ("a=", "is no NAME=SOURCE"),
        ("a b=/models/a", "is no NAME=SOURCE"),
        ("-a=/models/a", "is no NAME=SOURCE"),
        ("a" * 64 + "=/models/a", "at most 63"),
    ],
)
def test_what_is_no_list_of_models(declared: str, complaint: str) -> None:
    with pytest.raises(InvalidInput) as error:
        read_sources(declared)
    assert complaint in error.value.detail
