"""Count the scans of a JPEG without decoding it."""

from __future__ import annotations

import re

# 0xFF 0x00 is a byte of data, 0xFF 0xD0 to 0xD7 restart it, and 0xFF fills.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_START_OF_IMAGE, _START_OF_SCAN, _END_OF_IMAGE = 0xD8, 0xDA, 0xD9


def count_scans(data: bytes, limit: int) -> int:
    """Return the number of scans of the first image, and no more than `limit` + 1.

    Segments are stepped over, and what follows the image is not read: profiles, previews and the films that telephones
    append hold the bytes of a marker by chance.
    """
    scans, place = 0, 0
    while scans <= limit and (marker := _MARKER.search(data, place)):
        place = marker.end()
        kind = marker[1][0]
        if kind == _END_OF_IMAGE:
            break
        if kind == _START_OF_IMAGE:
            continue
        scans += kind == _START_OF_SCAN
        place += max(2, int.from_bytes(data[place : place + 2], "big"))
    return scans
