"""Images over the wire: every form in, everything that is no image refused with its reason."""

import base64
from collections.abc import Callable

import pytest
from pydantic import TypeAdapter, ValidationError

from indexer.domain.inputs import ImageField
from indexer.domain.inputs import image_source as source
from model.errors import InvalidInput, TooLarge
from model.types import Limits

wire = TypeAdapter(ImageField)
Make = Callable[..., bytes]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_every_form(make_image: Make) -> None:
    data = make_image()
    for form in (
        {"base64": b64(data)},
        {"base64": base64.encodebytes(data).decode()},  # with line breaks, as MIME has it
        f"data:image/png;base64,{b64(data)}",
        f"data:;base64,{b64(data)}",
        f"data:image/png;name=a.png;base64,{b64(data)}",
        f"data:image/png;name=foto%201.png;base64,{b64(data)}",
        f'data:image/png;charset="utf-8";base64,{b64(data)}',
        f"data:image/png;name=bild-ä.png; base64,{b64(data)}",
        f"DATA:image/PNG;BASE64,{b64(data)}",
        f"  data:image/png;base64,{b64(data)}",
        f"data:image/png;base64,{base64.urlsafe_b64encode(data).decode()}",
        {"base64": b64(data).rstrip("=")},
        {"url": f"data:image/png;base64,{b64(data)}"},
    ):
        assert source(wire.validate_python(form), Limits()) == data
    for form in ("http://example.org/a.png", {"url": "https://example.org/a.png"}, "HTTP://example.org/a.png"):
        assert source(wire.validate_python(form), Limits()) == (form if isinstance(form, str) else form["url"])


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"base64": ""}, "0 bytes"),
        ({"base64": "not base64!"}, "not base64"),
        ({"base64": "abcde"}, "not base64"),
        ({"base64": "abc"}, "image cannot be read"),
        ({"base64": b64(b"<!doctype html><p>sorry")}, "HTML"),
        ({"base64": b64(b"\n <svg xmlns='http://www.w3.org/2000/svg'/>")}, "HTML or XML"),
        ({"base64": b64(b"%PDF-1.7")}, 'it starts with "%PDF-1.7"'),
        ("data:image/png,rawdata", "without base64"),
        ("iVBORw0KGgo=", "neither a data URI nor"),
        ("file:///etc/passwd", "neither a data URI nor"),
        ({"url": "ftp://example.org/a.png"}, "neither a data URI nor"),
    ],
)
def test_what_is_no_image(form: object, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        source(wire.validate_python(form), Limits())


def test_too_many_bytes_before_and_after_decoding(make_image: Make) -> None:
    limits = Limits(max_image_bytes=100)
    for data in (b"x" * 120, b"x" * 10_000):
        with pytest.raises(TooLarge, match="limit is 100"):
            source(wire.validate_python({"base64": b64(data)}), limits)


@pytest.mark.parametrize(
    "form", [5, None, [], {}, {"path": "/etc/passwd"}, {"url": 5}, {"url": "http://a", "base64": "b"}]
)
def test_forms_that_are_none(form: object) -> None:
    with pytest.raises(ValidationError):
        wire.validate_python(form)
