r"""Photographs out of packages of PyPI with questions about them, and Tux Paint's stamps, asked for by their authors' descriptions.

The pictures are read where they lie and are not part of this repository, for their licences differ:

    pip download --no-deps -d WHEELS scikit-image==0.26.0 scikit-learn==1.9.1 ultralytics==8.4.190 gradio==6.31.0 \
        matplotlib==3.11.2 imgaug==0.4.0
    apt-get download tuxpaint-stamps-default && dpkg-deb -x tuxpaint-stamps-default_*.deb STAMPS

The questions on photographs were written before anything was measured on them, some of them about what a classifier of ImageNet cannot
know: a page, a retina, a film's hero.
"""

from __future__ import annotations

import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks.search_modes import Ask, Collection
from model.types import Input

_SKIMAGE = (
    "coffee.png camera.png clock_motion.png astronaut.png gravel.png brick.png motorcycle_left.png grass.png retina.jpg ihc.png horse.png "
    "rocket.jpg chelsea.png coins.png hubble_deep_field.jpg moon.png page.png text.png cell.png"
)
# Distribution -> folder in its wheel, and the pictures there.
_PICTURES = {
    "gradio": [
        ("gradio/media_assets/images", "cheetah1.jpg cheetah.jpg bus.png groot.jpeg lion.jpg tower.jpg"),
        ("gradio/test_data", "cheetah2.jpg"),
    ],
    "scikit_image": [("skimage/data", _SKIMAGE)],
    "scikit_learn": [("sklearn/datasets/images", "flower.jpg china.jpg")],
    "ultralytics": [("ultralytics/assets", "bus.jpg zidane.jpg")],
    "matplotlib": [("matplotlib/mpl-data/sample_data", "Minduka_Present_Blue_Pack.png grace_hopper.jpg")],
    "imgaug": [("imgaug", "quokka.jpg")],
}
_QUESTIONS = {
    "a cheetah": "cheetah1.jpg cheetah.jpg cheetah2.jpg",
    "an animal running fast": "cheetah.jpg",
    "a lion resting on a rock": "lion.jpg",
    "the Eiffel Tower at night": "tower.jpg",
    "a cup of coffee": "coffee.png",
    "a photographer with a tripod": "camera.png",
    "an astronaut in a space suit": "astronaut.png",
    "gravel": "gravel.png",
    "a brick wall": "brick.png",
    "a motorcycle": "motorcycle_left.png",
    "grass": "grass.png",
    "a retina of an eye": "retina.jpg",
    "a microscope picture of tissue": "ihc.png",
    "a horse": "horse.png",
    "a rocket on its launch pad": "rocket.jpg",
    "a cat": "chelsea.png",
    "old coins": "coins.png",
    "stars and galaxies in space": "hubble_deep_field.jpg",
    "craters of the moon": "moon.png",
    "a printed page of a book": "page.png",
    "handwriting": "text.png",
    "an orange flower": "flower.jpg",
    "a Chinese temple by a lake": "china.jpg",
    "a bus in a street": "bus.jpg",
    "two men at a football match": "zidane.jpg",
    "a present wrapped with a ribbon": "Minduka_Present_Blue_Pack.png",
    "a woman in a navy uniform": "grace_hopper.jpg",
    "a quokka": "quokka.jpg",
    "a pet": "chelsea.png",
    "a tree creature from a film": "groot.jpeg",
}
# Letters, signs and faces are no things; houses and people are many of one kind.
_LEFT_OUT = ("symbols", "people", "military", "town/roadsigns", "town/flags", "town/houses")


def photographs(wheels: Path) -> Collection:
    """33 pictures without text and 30 questions."""
    pictures = dict(_pictures(wheels))
    asks = [Ask("", frozenset(right.split()), Input(question)) for question, right in _QUESTIONS.items()]
    return Collection("photographs", list(pictures), [Input(image=data) for data in pictures.values()], asks)


def _pictures(wheels: Path) -> Iterator[tuple[str, bytes]]:
    for distribution, folders in _PICTURES.items():
        (wheel,) = wheels.glob(f"{distribution}-*.whl")
        with zipfile.ZipFile(wheel) as files:
            for folder, names in folders:
                for name in names.split():
                    yield name, files.read(f"{folder}/{name}")


def stamps(folder: Path) -> Collection:
    """Some 390 pictures without text, most of them cut out, each with a line like "A red kangaroo." in a file beside it."""
    pictures: dict[str, bytes] = {}
    right: dict[str, set[str]] = defaultdict(set)
    root = folder / "usr/share/tuxpaint/stamps"
    for file in sorted(root.rglob("*.png")):
        name, words = file.relative_to(root).as_posix(), file.with_suffix(".txt")
        if name.startswith(_LEFT_OUT) or "mirror" in name or "cartoon" in name or not words.exists():
            continue
        if description := words.read_text(errors="replace").splitlines()[0].strip():
            pictures[name] = file.read_bytes()
            right[description].add(name)
    asks = [Ask("", frozenset(names), Input(description)) for description, names in sorted(right.items())]
    return Collection("stamps", list(pictures), [Input(image=data) for data in pictures.values()], asks)
