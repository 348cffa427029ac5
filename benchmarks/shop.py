"""A shop of products drawn with Pillow: ten kinds in eight colours, each product a picture and a text, and eighty questions "colour kind".

Deterministic in its seed. Half of the texts call the product by another word than the question does. With `two_colours` a text names the
second colour too: "a red mug with a blue handle" is no answer to "blue mug".

    python -m benchmarks.shop sheet.png     all products of seed 0 on one sheet, to look at
"""

from __future__ import annotations

import io
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {
    "red": (205, 32, 38),
    "blue": (32, 82, 190),
    "green": (28, 138, 62),
    "yellow": (244, 208, 40),
    "orange": (240, 124, 28),
    "purple": (118, 48, 150),
    "pink": (244, 136, 180),
    "black": (34, 34, 38),
}
_PX, _SCALE = 192, 3  # drawn larger by the scale, for smooth edges
_PRODUCTS = 198
_BACKGROUNDS = ((255, 255, 255), (246, 244, 240), (236, 240, 244))
_BRANDS = ("Alder", "Birk", "Corvo", "Dune", "Ember", "Fjord", "Grove", "Halo", "Iris", "Juno", "Kite", "Lark")
_TEXTS = ("{brand}: {colour} {word}{second}. {praise}", "The {brand} {word} in {colour}{second}. {praise}")


@dataclass(frozen=True, slots=True)
class Product:
    id: str
    kind: str
    colour: str
    text: str
    image: bytes


@dataclass(frozen=True, slots=True)
class _Kind:
    draw: Callable[[_Pen], None]
    synonym: str
    part: str  # what has the second colour
    praise: tuple[str, ...]


class _Pen:
    """Draws in a square of 100 units, in the product's colour or the second one."""

    def __init__(self, colour: str, accent: str, chance: random.Random) -> None:
        self._unit = _PX * _SCALE / 100 * chance.uniform(0.8, 0.95)
        self._left, self._top = chance.uniform(3, 12), chance.uniform(3, 12)
        self._image = Image.new("RGB", (_PX * _SCALE,) * 2, chance.choice(_BACKGROUNDS))
        self._draw = ImageDraw.Draw(self._image)
        self.main, self.accent = COLOURS[colour], COLOURS[accent]
        self.dark = tuple(value * 7 // 10 for value in self.main)

    def polygon(self, *points: tuple[float, float], fill: tuple[int, ...] | None = None) -> None:
        self._draw.polygon([self._at(*point) for point in points], fill or self.main)

    def ellipse(
        self, left: float, top: float, right: float, bottom: float, fill: tuple[int, ...] | None = None
    ) -> None:
        self._draw.ellipse([*self._at(left, top), *self._at(right, bottom)], fill or self.main)

    def box(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        fill: tuple[int, ...] | None = None,
        radius: float = 0,
    ) -> None:
        corners = [*self._at(left, top), *self._at(right, bottom)]
        self._draw.rounded_rectangle(corners, radius * self._unit, fill or self.main)

    def arc(
        self, box: tuple[float, float, float, float], angles: tuple[int, int], width: float, fill: tuple[int, ...]
    ) -> None:
        corners = [*self._at(*box[:2]), *self._at(*box[2:])]
        self._draw.arc(corners, *angles, fill, round(width * self._unit))

    def line(self, *points: tuple[float, float], width: float, fill: tuple[int, ...] | None = None) -> None:
        places = [self._at(*point) for point in points]
        self._draw.line(places, fill or self.main, round(width * self._unit), joint="curve")

    def png(self) -> bytes:
        buffer = io.BytesIO()
        self._image.resize((_PX, _PX), Image.Resampling.LANCZOS).save(buffer, "PNG", optimize=True)
        return buffer.getvalue()

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return (self._left + x) * self._unit, (self._top + y) * self._unit


def _sneaker(pen: _Pen) -> None:
    pen.polygon((6, 40), (10, 34), (26, 32), (34, 38), (52, 48), (84, 58), (94, 66), (94, 72), (6, 72))
    pen.box(4, 70, 96, 80, pen.accent, radius=4)
    for step in range(4):
        pen.line((34 + 8 * step, 40 + 4 * step), (42 + 8 * step, 52 + 3 * step), width=2, fill=(250, 250, 250))
    pen.polygon((10, 52), (26, 48), (34, 60), (16, 66), fill=pen.dark)


def _mug(pen: _Pen) -> None:
    pen.arc((58, 30, 92, 70), (270, 90), 8, pen.accent)
    pen.box(18, 20, 70, 86, radius=6)
    pen.ellipse(18, 14, 70, 28, pen.dark)


def _umbrella(pen: _Pen) -> None:
    pen.line((50, 14), (50, 84), width=3, fill=pen.accent)
    pen.arc((50, 74, 66, 92), (0, 180), 3, pen.accent)
    pen.polygon(*((50 - 44 * _cos(step), 54 - 40 * _sin(step)) for step in range(13)))
    for left in (6, 28, 50, 72):
        pen.ellipse(left, 48, left + 22, 60, pen.dark)


def _sin(step: int) -> float:
    return (0, 0.26, 0.5, 0.71, 0.87, 0.97, 1, 0.97, 0.87, 0.71, 0.5, 0.26, 0)[step]


def _cos(step: int) -> float:
    return (1, 0.97, 0.87, 0.71, 0.5, 0.26, 0, -0.26, -0.5, -0.71, -0.87, -0.97, -1)[step]


def _backpack(pen: _Pen) -> None:
    pen.arc((38, 4, 62, 28), (180, 360), 4, pen.dark)
    pen.box(20, 14, 80, 90, radius=18)
    pen.box(28, 52, 72, 84, pen.accent, radius=6)
    pen.line((28, 44), (72, 44), width=2, fill=pen.dark)


def _shirt(pen: _Pen) -> None:
    pen.polygon((34, 12), (66, 12), (94, 30), (84, 48), (72, 42), (72, 90), (28, 90), (28, 42), (16, 48), (6, 30))
    pen.ellipse(38, 4, 62, 22, (255, 255, 255))
    pen.box(36, 44, 64, 60, pen.accent, radius=2)


def _lamp(pen: _Pen) -> None:
    pen.polygon((34, 12), (66, 12), (82, 48), (18, 48))
    pen.box(47, 48, 53, 82, pen.accent)
    pen.ellipse(28, 78, 72, 92, pen.accent)


def _chair(pen: _Pen) -> None:
    pen.box(24, 6, 34, 56, radius=2)
    pen.box(24, 8, 70, 40, radius=4)
    pen.polygon((22, 52), (74, 52), (80, 62), (20, 62), fill=pen.dark)
    for left in (22, 72):
        pen.box(left, 60, left + 6, 94, pen.accent)


def _teapot(pen: _Pen) -> None:
    pen.arc((62, 34, 96, 74), (270, 90), 7, pen.accent)
    pen.polygon((6, 34), (14, 32), (32, 58), (30, 74))
    pen.ellipse(20, 30, 76, 86)
    pen.ellipse(34, 26, 62, 36, pen.dark)
    pen.ellipse(44, 18, 52, 28, pen.accent)


def _cap(pen: _Pen) -> None:
    pen.polygon(*((42 - 34 * _cos(step), 60 - 40 * _sin(step)) for step in range(13)))
    pen.polygon((40, 58), (76, 54), (96, 66), (90, 72), (40, 66), fill=pen.accent)
    pen.ellipse(39, 17, 45, 23, pen.dark)


def _sofa(pen: _Pen) -> None:
    pen.box(12, 26, 88, 60, radius=8)
    pen.box(4, 42, 20, 76, pen.dark, radius=6)
    pen.box(80, 42, 96, 76, pen.dark, radius=6)
    pen.box(14, 54, 86, 76, radius=4)
    for left in (26, 56):
        pen.box(left, 38, left + 18, 54, pen.accent, radius=3)


KINDS = {
    "sneaker": _Kind(
        _sneaker, "running shoe", "sole", ("Light on the road.", "For long walks.", "Breathes in summer.")
    ),
    "mug": _Kind(
        _mug, "coffee cup", "handle", ("Keeps tea warm.", "Safe in the dishwasher.", "Holds a third of a litre.")
    ),
    "umbrella": _Kind(_umbrella, "parasol", "stick", ("Opens with one hand.", "Stands the storm.", "Folds small.")),
    "backpack": _Kind(
        _backpack, "rucksack", "pocket", ("Room for a laptop.", "Straps that do not cut.", "Twenty litres.")
    ),
    "T-shirt": _Kind(_shirt, "tee", "print", ("Organic cotton.", "Cut wide.", "Keeps its shape in the wash.")),
    "lamp": _Kind(_lamp, "table light", "foot", ("Dims to a glow.", "For desk and bedside.", "Takes any bulb.")),
    "chair": _Kind(_chair, "seat", "legs", ("Stacks four high.", "Beech under the paint.", "Comfortable for hours.")),
    "teapot": _Kind(_teapot, "tea kettle", "lid", ("Pours without a drop.", "For four cups.", "Glazed by hand.")),
    "baseball cap": _Kind(_cap, "peaked hat", "peak", ("Fits every head.", "Shade for the eyes.", "Washable.")),
    "sofa": _Kind(_sofa, "couch", "cushions", ("Seats three.", "Covers come off.", "Arrives assembled.")),
}


def questions() -> list[tuple[str, str, str]]:
    """(question, colour, kind): every product of that colour and kind is right."""
    return [(f"{colour} {kind}", colour, kind) for kind in KINDS for colour in COLOURS]


def products(seed: int = 0, *, two_colours: bool = False) -> list[Product]:
    """Two or three of each colour and kind, 198 in all."""
    chance = random.Random(seed)
    pairs = [(kind, colour) for kind in KINDS for colour in COLOURS]
    chosen = pairs * 2 + chance.sample(pairs, _PRODUCTS - 2 * len(pairs))
    return [_product(number, kind, colour, chance, two_colours) for number, (kind, colour) in enumerate(chosen)]


def _product(number: int, name: str, colour: str, chance: random.Random, two_colours: bool) -> Product:
    kind = KINDS[name]
    accent = chance.choice([other for other in COLOURS if other != colour])
    text = chance.choice(_TEXTS).format(
        brand=chance.choice(_BRANDS),
        colour=colour,
        word=chance.choice([name, kind.synonym]),
        second=f" with {accent} {kind.part}" if two_colours else "",
        praise=chance.choice(kind.praise),
    )
    pen = _Pen(colour, accent, chance)
    kind.draw(pen)
    return Product(f"product-{number:03}", name, colour, text, pen.png())


def _sheet(items: list[Product], columns: int = 18) -> Image.Image:
    side = 96
    sheet = Image.new("RGB", (columns * side, -(-len(items) // columns) * side), "white")
    for place, item in enumerate(items):
        picture = Image.open(io.BytesIO(item.image)).resize((side, side))
        sheet.paste(picture, (place % columns * side, place // columns * side))
    return sheet


if __name__ == "__main__":
    _sheet(products()).save(Path(sys.argv[1]))
