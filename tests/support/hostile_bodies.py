"""Hypothesis strategies for request bodies of any content: JSON of every shape, texts of every script, images, msgpack, NDJSON,
compressed or not.

A body is made of a small part that is drawn, and repeated, nested or used as keys as often as it takes to reach the bounds.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import msgpack
import zstandard
from hypothesis import strategies as st
from PIL import Image

# One base character with marks whose combining classes fall, so that each is sorted before all that stand before it.
_MARKS = "a\u0345\u0301\u0316\u05b0"
_ALPHABETS = (
    "abc XYZ", "0123456789 .,-", "éßæŒİı", "αΩΣςώ", "Жёщ ", "شﷺكتاب\u064b\u0651 ", "שלום\u05b0\u05bc", "नमस्ते", "สวัสดี",
    "\u1112\u1161\u11ab", "한국어", "東京タワー", "ＡＢＣ１２", "👩\u200d🚀🇫🇷\ufe0f", _MARKS, "\u0301\u0316", "\x01\x1f\x7f", " \t\n\r",
    "\u200b\u202e\ufeff", "\"\\/", "[SEP] [MASK]", "a.b\"c[0]", "\U000e0041", "ﬃ㍿㌀", "-_'’", "日本",
)  # fmt: skip
_SIZES = (1, 30, 1_000, 30_000, 100_000)
_COUNTS = (1, 3, 100, 256, 5_000, 40_000)
_DEPTHS = (1, 6, 99, 900, 100_000)
_LIMIT_BYTES = 6 * 2**20


@dataclass(frozen=True)
class Body:
    """One request."""

    method: str
    path: str
    content: bytes
    headers: dict[str, str]
    chunked: bool

    def __repr__(self) -> str:
        shown = self.content[:200] + (b"..." if len(self.content) > 200 else b"")
        return f"{self.method} {self.path} {self.headers} {len(self.content)} bytes {shown!r}"


def texts() -> st.SearchStrategy[str]:
    unit = st.one_of([st.text(st.sampled_from(list(alphabet)), min_size=1, max_size=8) for alphabet in _ALPHABETS])
    return st.builds(_filled, unit | st.text(min_size=1, max_size=8), st.sampled_from(_SIZES))


def _filled(unit: str, size: int) -> str:
    return (unit * (size // len(unit) + 1))[:size]


def _text_json(text: str, escaped: bool) -> bytes:
    return json.dumps(text, ensure_ascii=escaped).encode("utf-8", "surrogatepass")


def _json() -> st.SearchStrategy[bytes]:
    leaf = st.one_of(
        st.sampled_from(
            [b"null", b"true", b"0", b"-1", b"1e308", b"0.1", b"18446744073709551616", b'""', b"{}", b"[]"]
        ),
        st.builds(_text_json, texts(), st.booleans()),
        st.integers(1, 5_000).map(lambda digits: b"9" * digits),
    )
    return st.recursive(leaf, _containers, max_leaves=3)


def _containers(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.one_of(
        st.builds(_repeated, inner, st.sampled_from(_COUNTS)),
        st.builds(_keyed, inner, st.sampled_from(_COUNTS)),
        st.builds(_nested, inner, st.sampled_from(_DEPTHS), st.booleans()),
        st.builds(lambda name, value: b"{%s: %s}" % (_text_json(name, False), value), texts(), inner),
    )


def _repeated(value: bytes, count: int) -> bytes:
    return b"[" + b",".join([value] * max(1, min(count, _LIMIT_BYTES // (len(value) + 1)))) + b"]"


def _keyed(value: bytes, count: int) -> bytes:
    count = max(1, min(count, _LIMIT_BYTES // (len(value) + 10)))
    return b"{" + b",".join(b'"k%d":%s' % (number, value) for number in range(count)) + b"}"


def _nested(value: bytes, depth: int, in_objects: bool) -> bytes:
    before, after = (b'{"not":', b"}") if in_objects else (b"[", b"]")
    return before * depth + value + after * depth


# --- images


@cache
def _image(kind: str, size: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), "red").save(file, kind)
    return file.getvalue()


def images() -> st.SearchStrategy[bytes]:
    whole = st.builds(
        _image, st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"]), st.sampled_from([1, 64, 1_500])
    )
    return st.builds(
        _damaged, whole, st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6), st.floats(0.3, 1)
    )


def _damaged(data: bytes, changes: list[tuple[float, int]], kept_share: float) -> bytes:
    changed = bytearray(data)
    for place, byte in changes:
        changed[int(place * (len(changed) - 1))] = byte
    return bytes(changed[: max(8, int(len(changed) * kept_share))]) if kept_share < 0.9 else bytes(changed)


def _image_json(data: bytes, form: str) -> bytes:
    encoded = base64.b64encode(data).decode()
    value = {"base64": encoded} if form == "base64" else f"data:image/png;base64,{encoded}"
    return json.dumps({"url": value} if form == "url" else value).encode()


# --- places in requests

_SEARCH = b'{"collection": "flags", "query": %s}'
_TEMPLATES: tuple[tuple[str, str, bytes], ...] = (
    ("POST", "/search", b"%s"),
    ("POST", "/search", _SEARCH),
    ("POST", "/search", _SEARCH % b'{"text": %s}'),
    ("POST", "/search", b'{"collection": "flags", "mode": "lexical", "query": {"text": %s}}'),
    ("POST", "/search", b'{"collection": "flags", "query": {"positive": %s}}'),
    ("POST", "/search", b'{"collection": "flags", "query": {"text": "x"}, "filter": %s}'),
    ("POST", "/search", b'{"collection": "flags", "query": {"text": "x"}, "filter": {"field": "a", "in": %s}}'),
    ("POST", "/search", b'{"collection": "flags", "query": {"text": "x"}, "filter": {"field": "a", "match": %s}}'),
    ("POST", "/search", b'{"collection": "flags", "query": {"text": "x"}, "filter": {"any": %s}}'),
    ("POST", "/search", b'{"collection": "flags", "query": {"text": "x"}, "metadata_fields": %s}'),
    ("POST", "/search", b'{"collection": "flags", "query": {"text": "x"}, "cursor": %s}'),
    ("POST", "/search", b'{"collection": "flags", "query": {"text": "x"}, "group_by": %s}'),
    ("POST", "/search/batch", b'{"searches": %s}'),
    ("POST", "/search/batch", b'{"searches": [{"collection": "flags", "query": {"text": %s}}]}'),
    ("POST", "/encode", b'{"role": "query", "inputs": %s}'),
    ("POST", "/encode", b'{"role": "document", "inputs": [{"text": %s}]}'),
    ("POST", "/v1/embeddings", b'{"input": %s}'),
    ("POST", "/collections/flags/documents", b"%s"),
    ("POST", "/collections/flags/documents", b"[%s]"),
    ("POST", "/collections/flags/documents", b'[{"text": %s}]'),
    ("POST", "/collections/flags/documents", b'[{"id": %s, "text": "x"}]'),
    ("POST", "/collections/flags/documents", b'[{"text": "x", "metadata": %s}]'),
    ("POST", "/collections/flags/documents", b'{"documents": %s}'),
    ("POST", "/collections/flags/documents/delete", b'{"ids": %s}'),
    ("POST", "/collections/flags/documents/delete", b'{"filter": %s}'),
    ("POST", "/collections/flags/imports", b'{"uri": "x", "mapping": %s}'),
    ("PUT", "/collections/made", b"%s"),
    ("PUT", "/aliases/other", b'{"collection": %s}'),
    ("POST", "/collections/flags/reindex", b'{"model": %s}'),
)
_IMAGE_TEMPLATES = (
    ("POST", "/search", _SEARCH % b'{"image": %s}'),
    ("POST", "/encode", b'{"role": "document", "inputs": [{"image": %s}]}'),
    ("POST", "/collections/flags/documents", b'[{"image": %s}]'),
)
_PACKED = {"content-type": "application/msgpack"}
_JSON = {"content-type": "application/json"}
_LINES = {"content-type": "application/x-ndjson"}
_CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 1),
    "deflate": lambda data: zlib.compress(data, 1),
    "zstd": lambda data: zstandard.compress(data, 1),
}


def kinds() -> dict[str, st.SearchStrategy[Body]]:
    """Bodies of every kind by its name, plain or compressed, with their length or in chunks."""
    image_values = st.builds(_image_json, images(), st.sampled_from(["base64", "url", ""]))
    packed_values = st.one_of(texts(), images(), st.none(), st.dictionaries(texts(), st.none(), max_size=3))
    counts = st.sampled_from(_COUNTS)
    plain = {
        "lines": st.builds(_lines, _json() | texts().map(str.encode), counts),
        "packed inputs": st.builds(_packed, packed_values, counts),
        "packed noise": st.builds(_noise, st.binary(max_size=40), counts),
    }
    for template in _TEMPLATES:
        plain[f"{template[1]} {template[2].decode()}"] = st.builds(_posted, st.just(template), _json())
    for template in _IMAGE_TEMPLATES:
        plain[f"{template[1]} image"] = st.builds(_posted, st.just(template), image_values)
    codings = st.sampled_from([None, None, *_CODINGS])
    return {name: st.builds(_sent, body, codings, st.booleans()) for name, body in plain.items()}


def _posted(template: tuple[str, str, bytes], value: bytes) -> Body:
    method, path, content = template
    return Body(method, path, content % value, _JSON, False)


def _lines(line: bytes, count: int) -> Body:
    content = (line + b"\n") * max(1, min(count, _LIMIT_BYTES // (len(line) + 1)))
    return Body("POST", "/collections/flags/documents", content, _LINES, False)


def _packed(value: object, count: int) -> Body:
    name = "image" if isinstance(value, bytes) else "text"
    size = len(msgpack.packb({name: value}, unicode_errors="surrogatepass"))
    inputs = [{name: value}] * max(1, min(count, _LIMIT_BYTES // size))
    packed = msgpack.packb({"role": "query", "inputs": inputs}, unicode_errors="surrogatepass")
    return Body("POST", "/encode", packed, _PACKED, False)


def _noise(data: bytes, count: int) -> Body:
    return Body("POST", "/encode", (data * count)[:_LIMIT_BYTES], _PACKED, False)


def _sent(body: Body, coding: str | None, chunked: bool) -> Body:
    if coding is None:
        return Body(body.method, body.path, body.content, body.headers, chunked)
    headers = {**body.headers, "content-encoding": coding}
    return Body(body.method, body.path, _CODINGS[coding](body.content), headers, chunked)
