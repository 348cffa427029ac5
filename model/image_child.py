"""Decode an image in a child process with limits on its memory and time, for formats whose decoders can be led astray.

The child is made for one image and ends with it. It costs a tenth of a second, so only suspicious files go there:
TIFF and AVIF, whose decoders can take memory and time that no header shows.
"""

from __future__ import annotations

import resource
import struct
import subprocess
import sys

from PIL import Image

from model.errors import InvalidInput
from model.types import Limits

_TIMEOUT_S = 20
_CPU_S = 10
_ADDRESS_SPACE_BYTES = 2 * 2**30
_HEADER = struct.Struct(">II")
_ARGUMENTS = struct.Struct(">QQ")


def is_suspicious(image: Image.Image) -> bool:
    """Whether a file opened by Pillow is decoded in a child process."""
    return image.format in ("TIFF", "AVIF")


def decode_in_child(data: bytes, limits: Limits, at_least_px: int | None) -> Image.Image:
    """Return the upright RGB image. Raises `InvalidInput` when the decoder fails or takes too much memory or time."""
    head = _ARGUMENTS.pack(limits.max_image_px, at_least_px or 0)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "model.image_child"],
            input=head + data,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InvalidInput(
            f"image takes longer than {_TIMEOUT_S} s to decode", field="image", limit=_TIMEOUT_S
        ) from error
    if done.returncode == 0:
        size = _HEADER.unpack_from(done.stdout)
        return Image.frombytes("RGB", size, done.stdout[_HEADER.size :])
    if done.returncode == 1:
        raise InvalidInput(
            done.stderr.decode(errors="replace")[-500:].strip() or "image cannot be decoded", field="image"
        )
    raise InvalidInput(
        f"image cannot be decoded: its decoder needs more than {_CPU_S} s or {_ADDRESS_SPACE_BYTES // 2**30} GiB, or crashed",
        field="image",
    )


def _main() -> None:
    """Read limits and a file from standard input, write the size and the pixels to standard output."""
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    sent = sys.stdin.buffer.read()
    max_px, at_least_px = _ARGUMENTS.unpack_from(sent)
    try:
        image = _decoded(sent[_ARGUMENTS.size :], max_px, at_least_px or None)
    except InvalidInput as error:
        sys.stderr.write(error.detail)
        sys.exit(1)
    except MemoryError:
        sys.stderr.write(f"image cannot be decoded: its decoder needs more than {_ADDRESS_SPACE_BYTES // 2**30} GiB")
        sys.exit(1)
    sys.stdout.buffer.write(_HEADER.pack(*image.size) + image.tobytes())


def _decoded(data: bytes, max_px: int, at_least_px: int | None) -> Image.Image:
    # Here, because `model.images` imports this module.
    from model.images import decode_here, open_image

    return decode_here(open_image(data, Limits(max_image_px=max_px)), at_least_px)


if __name__ == "__main__":
    _main()
