"""What callers write for an image is read alike in posts, imports and training."""

import base64
import io
import time
import urllib.parse

import pytest
from PIL import Image

from indexer.domain.inputs import ImageBase64
from indexer.domain.inputs import image_source as source
from model.errors import InvalidInput
from model.images.sources import check_image, is_data_uri, is_web_address, read_base64, read_data_uri
from model.types import Limits


def png() -> bytes:
    file = io.BytesIO()
    # Noise, so that both of the letters that url-safe base64 has otherwise are in it.
    Image.effect_noise((16, 16), 90).save(file, "PNG")
    return file.getvalue()


DATA = png()
PLAIN, SAFE = base64.b64encode(DATA).decode(), base64.urlsafe_b64encode(DATA).decode()
URIS = [
    f"data:image/png;base64,{PLAIN}",
    f"data:;base64,{PLAIN}",
    f"data:image/png;charset=utf-8;base64,{PLAIN}",
    f'data:image/png;charset="utf-8";base64,{PLAIN}',
    f'data:image/png;name="a,b;c.png";base64,{PLAIN}',
    f"data:image/png;name={urllib.parse.quote('foto 1.png')};base64,{PLAIN}",
    f"data:image/png;name=größe (1).png;base64,{PLAIN}",
    f"data:image/png; base64,{PLAIN}",
    f"DATA:image/png;BASE64,{PLAIN}",
    f"  data:image/png;base64,\n{PLAIN}\n",
    f"data:image/png;base64,{PLAIN.rstrip('=')}",
    f"data:image/png;base64,{SAFE}",
    f"data:image/png;base64,{SAFE.rstrip('=')}",
]


@pytest.mark.parametrize("uri", URIS)
def test_data_uris_of_every_kind_in_posts_and_imports(uri: str) -> None:
    assert is_data_uri(uri)
    assert read_data_uri(uri, Limits()) == DATA
    assert source(uri, Limits()) == DATA


@pytest.mark.parametrize(
    "text", [PLAIN, SAFE, PLAIN.rstrip("="), "\r\n".join(PLAIN[i : i + 76] for i in range(0, len(PLAIN), 76))]
)
def test_base64_of_every_kind(text: str) -> None:
    assert read_base64(text, Limits()) == DATA
    assert source(ImageBase64(base64=text), Limits()) == DATA


@pytest.mark.parametrize(
    "uri", ["data:image/svg+xml;utf8,<svg/>", "data:base64", "data:,", 'data:;name="a;base64,AAAA']
)
def test_a_data_uri_without_base64(uri: str) -> None:
    with pytest.raises(InvalidInput, match="data URI without base64"):
        read_data_uri(uri, Limits())


def test_addresses() -> None:
    for address in ("http://a.example/x.png", "HTTPS://a.example/x.png", " https://a.example/x.png"):
        assert is_web_address(address)
        assert source(address, Limits()) == address.strip()
    for path in ("photos/http.png", "ftp://a.example/x.png", "data/x.png", "C:\\x.png"):
        assert not is_web_address(path)
        assert not is_data_uri(path)


@pytest.mark.parametrize("piece", [";   ", '"', '";"', "; ;", "a=\t "])
def test_a_head_is_read_in_linear_time(piece: str) -> None:
    began = time.process_time()
    with pytest.raises(InvalidInput):
        read_data_uri("data:" + piece * 100_000, Limits())
    assert time.process_time() - began < 1


def test_imports_name_the_format_as_posts_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.images.formats._is_installed", lambda module: False)
    heic = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic"
    for read in (lambda: check_image(heic, Limits()), lambda: source(heic, Limits())):
        with pytest.raises(InvalidInput, match="it is HEIC, which this installation cannot read"):
            read()
