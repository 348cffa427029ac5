"""What is known of a picture without its pixels."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model.images.description import describe_picture

ORIENTATION, MAKE, MODEL = 0x0112, 0x010F, 0x0110
ORIGINAL, DIGITISED, ORIGINAL_OFFSET = 0x9003, 0x9004, 0x9011


def photograph(kind: str = "JPEG", size: tuple[int, int] = (40, 20), **tags: Any) -> bytes:
    """`tags` are those of the camera, by the names above in lower case."""
    exif = Image.Exif()
    details = exif.get_ifd(0x8769)
    places = {"orientation": (exif, ORIENTATION), "make": (exif, MAKE), "model": (exif, MODEL)}
    places |= {"original": (details, ORIGINAL), "digitised": (details, DIGITISED), "offset": (details, ORIGINAL_OFFSET)}
    for name, value in tags.items():
        ifd, tag = places[name]
        ifd[tag] = value
    file = io.BytesIO()
    Image.new("RGB", size).save(file, kind, exif=exif.tobytes())
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_size_camera_and_moment(kind: str) -> None:
    data = photograph(kind, make="Nikon", model="D70", original="2006:07:08 09:10:11", offset="+02:00")
    assert describe_picture(data) == {
        "width": 40,
        "height": 20,
        "taken": "2006-07-08T09:10:11+02:00",
        "camera": "Nikon D70",
    }


def test_heic() -> None:
    data = (Path(__file__).parents[3] / "support" / "turned.heic").read_bytes()
    assert describe_picture(data) == {
        "width": 48,
        "height": 64,
        "taken": "2024-05-01T12:30:00+02:00",
        "camera": "Apple iPhone 15",
    }


def test_a_picture_without_any_of_it() -> None:
    file = io.BytesIO()
    Image.new("L", (7, 9)).save(file, "GIF")
    assert describe_picture(file.getvalue()) == {"width": 7, "height": 9}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_that_of_the_upright_picture(orientation: int) -> None:
    described = describe_picture(photograph(orientation=orientation))
    assert (described["width"], described["height"]) == ((40, 20) if orientation < 5 else (20, 40))


@pytest.mark.parametrize(
    ("tags", "taken"),
    [
        ({"original": "2006:07:08 09:10:11"}, "2006-07-08T09:10:11"),
        ({"digitised": "2006:07:08 09:10:11"}, "2006-07-08T09:10:11"),
        ({"original": "0000:00:00 00:00:00", "digitised": "2006:07:08 09:10:11"}, "2006-07-08T09:10:11"),
        ({"original": "2006-07-08T09:10:11"}, "2006-07-08T09:10:11"),
        ({"original": "2006:07:08 09:10:11", "offset": "   :  "}, "2006-07-08T09:10:11"),
        ({"original": "2006:07:08 09:10:11", "offset": "Z"}, "2006-07-08T09:10:11Z"),
        ({"original": "2006:13:45 09:10:11"}, None),
        ({"original": "    :  :     :  :  "}, None),
        ({"original": "yesterday"}, None),
    ],
)
def test_moments(tags: dict[str, str], taken: str | None) -> None:
    assert describe_picture(photograph(**tags)).get("taken") == taken


@pytest.mark.parametrize(
    ("make", "model", "camera"),
    [
        ("Canon", "Canon EOS 5D", "Canon EOS 5D"),
        ("NIKON CORPORATION", "NIKON D850", "NIKON D850"),
        ("Apple", "iPhone 15", "Apple iPhone 15"),
        ("", "iPhone 15", "iPhone 15"),
        ("Apple\0\0 ", "", "Apple"),
        ("x" * 500, "", "x" * 100),
    ],
)
def test_cameras(make: str, model: str, camera: str) -> None:
    assert describe_picture(photograph(make=make, model=model))["camera"] == camera


def test_what_cannot_be_opened_has_no_description() -> None:
    assert describe_picture(photograph()[:30]) == {}
    assert describe_picture(b"a text") == {}
