"""Basic colours of what a picture shows: of plain drawings, of nothing, of photographs' greys."""

from __future__ import annotations

import pytest
import torch

from model.towers.colours import TELLING, ColourShares, lab

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def picture(
    background: tuple[int, int, int], thing: tuple[int, int, int], below: tuple[int, int, int] | None = None
) -> torch.Tensor:
    """A square of one or two colours in the middle of a plain background, (3, 64, 64), normalised."""
    pixels = torch.tensor(background).float()[:, None, None].repeat(1, 64, 64)
    pixels[:, 16:48, 16:48] = torch.tensor(thing).float()[:, None, None]
    if below is not None:
        pixels[:, 40:48, 16:48] = torch.tensor(below).float()[:, None, None]
    return pixels / 255 * 2 - 1


def shares(*pixels: torch.Tensor) -> list[dict[str, float]]:
    rows = ColourShares(MEAN, STD)(torch.stack(pixels))
    return [{name: round(value, 3) for name, value in zip(TELLING, row, strict=True) if value} for row in rows.tolist()]


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((200, 30, 40), "red"),
        ((30, 80, 190), "blue"),
        ((30, 140, 60), "green"),
        ((250, 225, 40), "yellow"),
        ((240, 125, 30), "orange"),
        ((120, 50, 150), "purple"),
        ((245, 140, 180), "pink"),
        ((25, 25, 30), "black"),
    ],
)
def test_a_thing_of_one_colour(rgb: tuple[int, int, int], name: str) -> None:
    assert shares(picture((255, 255, 255), rgb)) == [{name: 1.0}]
    assert shares(picture((120, 160, 120), rgb)) == [{name: 1.0}]


def test_two_colours_have_their_shares() -> None:
    assert shares(picture((255, 255, 255), (200, 30, 40), below=(30, 80, 190))) == [{"red": 0.75, "blue": 0.25}]


@pytest.mark.parametrize("rgb", [(128, 128, 128), (255, 255, 255), (140, 70, 20)])
def test_grey_white_and_brown_tell_nothing(rgb: tuple[int, int, int]) -> None:
    assert shares(picture((255, 255, 255), rgb)) == [{}]


def test_a_picture_of_one_colour_has_no_foreground() -> None:
    assert shares(torch.ones(3, 64, 64), -torch.ones(3, 64, 64)) == [{}, {}]


def test_before_a_busy_background_colours_count_less() -> None:
    busy = picture((255, 255, 255), (200, 30, 40))
    busy[:, :32, :8], busy[:, 32:, -8:] = -1.0, 0.2
    (plain_shares,), (busy_shares,) = shares(picture((255, 255, 255), (200, 30, 40))), shares(busy)
    assert busy_shares["red"] < 0.6 * plain_shares["red"]


def test_lab_of_known_colours() -> None:
    """Of sRGB red, white and mid grey under D65, as published."""
    rgb = torch.tensor([[1.0, 0, 0], [1, 1, 1], [119 / 255] * 3])
    expected = torch.tensor([[53.24, 80.09, 67.20], [100, 0, 0], [50.03, 0, 0]])
    torch.testing.assert_close(lab(rgb), expected, atol=0.05, rtol=0)
