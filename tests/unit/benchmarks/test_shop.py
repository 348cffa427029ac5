"""The shop: the same at every call, every question answerable, a picture that shows the colour which the text names."""

from __future__ import annotations

import io
from collections import Counter

import pytest
from PIL import Image

from benchmarks import shop


def test_the_same_seed_gives_the_same_shop() -> None:
    assert shop.products(1) == shop.products(1)
    assert shop.products(1) != shop.products(2)


@pytest.mark.parametrize("two_colours", [False, True])
def test_every_question_has_two_or_three_right_products(two_colours: bool) -> None:
    products = shop.products(two_colours=two_colours)
    counts = Counter((item.colour, item.kind) for item in products)
    assert len(products) == len({item.id for item in products}) == 198
    assert {(colour, kind) for _, colour, kind in shop.questions()} == set(counts)
    assert len(shop.questions()) == 80
    assert set(counts.values()) == {2, 3}


@pytest.mark.parametrize(("two_colours", "named"), [(False, {1}), (True, {2})])
def test_a_text_names_its_colours(two_colours: bool, named: set[int]) -> None:
    for item in shop.products(two_colours=two_colours):
        words = item.text.lower().replace(":", " ").replace(".", " ").split()
        assert item.colour in words
        assert {len([colour for colour in shop.COLOURS if colour in words])} == named


def test_most_of_a_thing_has_its_colour() -> None:
    for item in shop.products()[:80]:
        picture = Image.open(io.BytesIO(item.image)).convert("RGB")
        counts = {colour: count for count, colour in picture.getcolors(picture.width * picture.height) or ()}
        assert max(shop.COLOURS, key=lambda name: counts.get(shop.COLOURS[name], 0)) == item.colour
