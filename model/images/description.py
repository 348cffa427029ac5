"""The description of a picture by its header: its size in pixels, and when and with what it was taken. Read in a child
process."""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Any

from PIL import ExifTags, Image

from model.errors import InvalidInput
from model.images.child_process import describe_in_child
from model.images.decoding import open_any, orientation_of, second_try
from model.types import Limits

_TURNED = range(5, 9)
# In this order: the moment of the exposure, then that of the digitisation, each with its offset from UTC.
_MOMENTS = (
    (ExifTags.Base.DateTimeOriginal, ExifTags.Base.OffsetTimeOriginal),
    (ExifTags.Base.DateTimeDigitized, ExifTags.Base.OffsetTimeDigitized),
)
_MOMENT = re.compile(r"(\d{4})[:/.-](\d{2})[:/.-](\d{2})[ T](\d{2}):(\d{2}):(\d{2})")
_OFFSET = re.compile(r"[+-]\d{2}:\d{2}|Z")
_MAX_NAME_CHARS = 100
_NO_LIMIT = Limits(max_image_px=2**63 - 1)


def describe_picture(data: bytes) -> dict[str, Any]:
    """Return `width` and `height` as the picture is seen, upright, and where its EXIF says so `taken`, in ISO 8601, and
    `camera`; nothing of a file that cannot be opened.

    A camera that does not say its offset from UTC gives `taken` without one.
    """
    try:
        description: dict[str, Any] = json.loads(describe_in_child(data))
    except InvalidInput:
        return {}
    return description


def header_as_json(data: bytes) -> bytes:
    """Return the description of a picture. For the child process. Raises `InvalidInput`."""
    image = second_try(data, lambda pixels: open_any(pixels, _NO_LIMIT))
    width, height = image.size
    if orientation_of(image) in _TURNED:
        width, height = height, width
    return json.dumps({"width": width, "height": height, **_taken_with(image)}).encode()


def _taken_with(image: Image.Image) -> dict[str, str]:
    try:
        exif = image.getexif()
        tags = {**dict(exif), **dict(exif.get_ifd(ExifTags.IFD.Exif))}
    except Exception:  # noqa: BLE001  broken metadata beside good pixels is ignored, as browsers do
        return {}
    details = {"taken": _moment(tags), "camera": _camera(tags)}
    return {name: value for name, value in details.items() if value}


def _moment(tags: dict[int, Any]) -> str | None:
    for moment_tag, offset_tag in _MOMENTS:
        parts = _MOMENT.match(str(tags.get(moment_tag, "")).strip())
        if parts is None:
            continue
        try:
            moment = datetime(*map(int, parts.groups())).isoformat()  # type: ignore[arg-type]
        except ValueError:
            # Cameras whose clock was never set write zeros.
            continue
        offset = _OFFSET.fullmatch(str(tags.get(offset_tag, "")).strip("\0 "))
        return moment + (offset[0] if offset else "")
    return None


def _camera(tags: dict[int, Any]) -> str:
    make, model = (_name(tags.get(tag)) for tag in (ExifTags.Base.Make, ExifTags.Base.Model))
    # Many models begin with the name of their maker.
    is_named = not make or model.lower().startswith(make.lower().split()[0])
    return model if is_named else f"{make} {model}".strip()


def _name(value: Any) -> str:
    text = "".join(character for character in str(value or "") if character.isprintable())
    return " ".join(text.split())[:_MAX_NAME_CHARS]
