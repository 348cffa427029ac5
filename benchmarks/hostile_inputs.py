"""Inputs that cost a server far more than their bytes: pictures, texts, JSON and files to import."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from PIL import Image

_MIB = 2**20


def many_scans(width: int = 4000, scans: int = 3000) -> bytes:
    """Return a progressive JPEG whose last scan is repeated; a decoder goes over the whole picture for every one."""
    file = io.BytesIO()
    Image.new("L", (width, width), 128).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * scans + data[-2:]


def large_tile(side_px: int = 20_000) -> bytes:
    """Return a TIFF of 1 x 1 pixel in one deflated tile of `side_px` x `side_px`."""
    packer = zlib.compressobj(9)
    tile = b"".join(packer.compress(bytes(_MIB)) for _ in range(side_px * side_px // _MIB)) + packer.flush()
    tags = [(256, 1), (257, 1), (258, 8), (259, 8), (262, 1), (277, 1), (322, side_px), (323, side_px)]
    start = 8 + 2 + (len(tags) + 2) * 12 + 4
    tags += [(324, start), (325, len(tile))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + tile


def large_png(side_px: int = 30_000) -> bytes:
    """Return a PNG whose header has more pixels than any service should decode."""
    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(_MIB))), (b"IEND", b"")]
    framed = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def pictures() -> list[bytes]:
    jpeg = io.BytesIO()
    Image.effect_noise((500, 400), 80).save(jpeg, "JPEG")
    avif = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1" + bytes(range(256)) * 40
    return [many_scans(), large_tile(), large_png(), jpeg.getvalue()[:3000], avif, b"GIF89a" + b"\xff" * 5000, b""]


def texts() -> list[str]:
    return [
        "a" + "\u0301\u0316" * 20_000,
        "ß" * 60_000,
        "x" * 60_000,
        "\u0e31" * 60_000,
        "\ufdfa" * 20_000,
        "[SEP]" * 10_000,
        "\ud55c\uae00" * 30_000,
    ]


def bodies(collection: str) -> list[tuple[str, bytes]]:
    """Return bodies of JSON that are costly to check, each with its path."""
    deep: object = "x"
    for _ in range(900):
        deep = [deep]
    search = {"collection": collection, "query": {"text": "red"}}
    nested: object = {"field": "x", "equals": 1}
    for _ in range(60):
        nested = {"all": [nested, nested]} if len(json.dumps(nested)) < 50_000 else {"not": nested}
    objects: list[tuple[str, object]] = [
        ("/search", {**search, "query": {"image": deep}}),
        ("/search", {**search, "filter": {"any": [{"field": "x", "in": [[]] * 400}] * 20}}),
        ("/search", {**search, "filter": nested}),
        ("/search", {**search, "filter": {"field": "x", "in": list(range(200_000))}}),
        ("/search", {**search, "metadata_fields": [f"m.k{number}" for number in range(256)], "limit": 200}),
        ("/search", {**search, "limit": 10_000_000, "offset": 10**30}),
        ("/search", {**search, "group_by": "m", "group_size": 100, "limit": 100}),
        ("/search/batch", {"searches": [0] * 300_000}),
        ("/search/batch", {"searches": [{**search, "limit": 200}] * 32}),
        ("/encode", {"role": "query", "inputs": [{}] * 100_000}),
        ("/encode", {"role": "query", "inputs": [{"text": text} for text in texts()]}),
        ("/v1/embeddings", {"input": ["a", None, 5, deep], "model": "x" * 100_000}),
        (f"/collections/{collection}/documents", [{}] * 100_000),
        (f"/collections/{collection}/documents", [{"id": "x", "text": "x", "metadata": {"deep": deep}}]),
        (
            f"/collections/{collection}/documents",
            [{"id": str(number), "text": text} for number, text in enumerate(texts())],
        ),
        (f"/collections/{collection}/documents/delete", {"filter": nested}),
        ("/collections/../../etc/passwd/documents", []),
    ]
    return [(path, json.dumps(value).encode()) for path, value in objects]


def write_imports(folder: Path) -> list[str]:
    """Write files that unfold, go on without an end or are broken. Return their names."""
    zeros = zstandard.ZstdCompressor(3).compress(bytes(128 * _MIB))
    (folder / "line.jsonl.zst").write_bytes(zeros * 200)
    value = pa.array(["a" * (30 * _MIB)])
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 64, pa.int32()), value)
    table = pa.table({"id": [str(row) for row in range(64)], "text": text})
    pq.write_table(table, folder / "dictionary.parquet", compression="zstd", store_schema=False)
    name = tarfile.TarInfo("x")
    name.type, name.size = tarfile.GNUTYPE_LONGNAME, 1024 * _MIB
    with (
        (folder / "name.tar.zst").open("wb") as file,
        zstandard.ZstdCompressor(3).stream_writer(file) as writer,
    ):
        writer.write(name.tobuf())
        for _ in range(name.size // _MIB):
            writer.write(bytes(_MIB))
    (folder / "quote.csv").write_text('id,text\n1,"open\n' + "".join(f"{row},row {row}\n" for row in range(20_000)))
    (folder / "array.json").write_text("[" * 200_000)
    (folder / "cut.jsonl.gz").write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + b"\xff" * 100)
    return sorted(path.name for path in folder.iterdir())
