"""Files without what stands beside their pixels: text, profiles, dates, side chunks that a decoder may refuse."""

from __future__ import annotations

import struct
import zlib

from model.images.formats import AVIF, image_format

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The chunks that make the pixels, and the orientation.
_PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf"})
_JPEG_APP = range(0xE0, 0xF0)
_JPEG_EXIF = 0xE1
# Adobe's segment says how the colours are stored.
_JPEG_ADOBE = 0xEE
_AVIF_BRAND = b"avif"
_EXIF_HEADER = b"Exif\0\0"
_ORIENTATION, _SHORT, _MAX_EXIF_ENTRIES = 0x0112, 3, 1_000
_JPEG_COMMENT, _JPEG_SCAN = 0xFE, 0xDA


def only_pixels(data: bytes) -> bytes | None:
    """Return a PNG or a JPEG without its side chunks, an AVIF under its plain brand; None where nothing can be left
    out."""
    try:
        if data.startswith(_PNG_SIGNATURE):
            return _png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if image_format(data) is AVIF and data[8:12] != _AVIF_BRAND:
            # Pillow goes by the main brand alone, which may be a family's.
            return data[:8] + _AVIF_BRAND + data[12:]
    except (struct.error, IndexError):
        return None
    return None


def _png(data: bytes) -> bytes:
    parts, place = [_PNG_SIGNATURE], len(_PNG_SIGNATURE)
    colour_type = None
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        content = data[place + 8 : place + 8 + length]
        if kind == b"IHDR" and len(content) == 13:
            colour_type = content[9]
        if kind in _PNG_KEPT and not (kind == b"tRNS" and not _fits(content, colour_type)):
            if kind == b"eXIf":
                content = _exif(orientation(content))
            checksum = data[place + 8 + length : place + 12 + length]
            if kind in (b"tRNS", b"eXIf"):
                checksum = struct.pack(">I", zlib.crc32(kind + content))
            parts.append(struct.pack(">I4s", len(content), kind) + content + checksum)
        place += 12 + length
    return b"".join(parts)


def _fits(transparency: bytes, colour_type: int | None) -> bool:
    """Return whether a tRNS chunk has the length that its colour type needs: grey 2, RGB 6, a palette up to 256."""
    if colour_type == 3:
        return 0 < len(transparency) <= 256
    return len(transparency) == {0: 2, 2: 6}.get(colour_type or 0, -1)


def _jpeg(data: bytes) -> bytes:
    parts, place = [data[:2]], 2
    while data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        if marker == _JPEG_SCAN:
            break
        (length,) = struct.unpack_from(">H", data, place + 2)
        segment = data[place : place + 2 + length]
        if marker == _JPEG_EXIF and segment[4:10] == _EXIF_HEADER:
            exif = _EXIF_HEADER + _exif(orientation(segment[4:]))
            parts.append(struct.pack(">BBH", 0xFF, marker, len(exif) + 2) + exif)
        elif marker == _JPEG_ADOBE or not (marker in _JPEG_APP or marker == _JPEG_COMMENT):
            parts.append(segment)
        place += 2 + length
    return b"".join([*parts, data[place:]])


def _exif(orientation: int) -> bytes:
    """Return a TIFF header whose only entry is the orientation."""
    entry = struct.pack("<HHIHH", _ORIENTATION, _SHORT, 1, orientation, 0)
    return b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)


def orientation(exif: bytes) -> int:
    """Return the orientation of an EXIF block, 1 where it has none; other entries may be as broken as they like."""
    tiff = exif.removeprefix(_EXIF_HEADER)
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    try:
        if order is None:
            return 1
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, start)
        for place in range(start + 2, start + 2 + 12 * min(count, _MAX_EXIF_ENTRIES), 12):
            tag, kind, values, value = struct.unpack_from(order + "HHIH", tiff, place)
            if (tag, kind, values) == (_ORIENTATION, _SHORT, 1):
                return int(value)
    except struct.error:
        return 1
    return 1
