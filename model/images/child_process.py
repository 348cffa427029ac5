"""Decode images in child processes with limits on memory and time, where decoding in this one could harm it.

TIFF, AVIF and the formats of plugins go there: their decoders can take memory and time that no header shows. Large WebP
goes there too: its decoder keeps Python's lock. So do thumbnails and descriptions, whatever the format
(docs/decisions/decoding-in-children.md). A child serves many images in turn, for starting one takes longer than
decoding. A child that takes too much or crashes is killed and replaced; only the image it was at fails.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
from enum import IntEnum
from typing import BinaryIO

from PIL import Image

from model.child_output import ChildOutput, ending
from model.errors import DependencyUnavailable, InvalidInput, TooLarge
from model.types import Limits

log = logging.getLogger(__name__)

_TIMEOUT_S = 20.0
_CPU_S = 10
_ADDRESS_SPACE_BYTES = 2 * 2**30
# Decoding more WebP than this keeps Python's lock for longer than 50 ms, 12,000,000 px for 100 ms.
_WEBP_PX = 4_000_000
# Idle children wait for the next image, each with some 60 MB.
_MAX_IDLE = 4
# The task, max_image_px, at_least_px or the side of a thumbnail, and the size of the file.
_REQUEST = struct.Struct(">BQQQ")
# What became of it, the width and height, and the size of the pixels, of another result or of the reason.
_ANSWER = struct.Struct(">BIIQ")
_COMMAND = (sys.executable, "-P", "-X", "faulthandler", "-m", "model.images.child_process")


class _Task(IntEnum):
    DECODE = 0
    THUMBNAIL = 1
    DESCRIBE = 2


class _Status(IntEnum):
    DONE = 0
    INVALID = 1
    TOO_LARGE = 2


def is_suspicious(image: Image.Image) -> bool:
    """Return whether a file opened by Pillow is decoded in a child process."""
    large = image.width * image.height > _WEBP_PX
    return image.format in ("TIFF", "AVIF") or (image.format == "WEBP" and large)


def decode_in_child(data: bytes, limits: Limits, at_least_px: int | None) -> Image.Image:
    """Return the upright RGB image. Raises `InvalidInput` when the decoder fails or takes too much memory or time."""
    size, pixels = _children.run(_Task.DECODE, data, limits, at_least_px)
    return Image.frombytes("RGB", size, pixels)


def thumbnail_in_child(data: bytes, limits: Limits, side_px: int) -> bytes:
    """Return a JPEG whose longer side has at most `side_px`; nothing where the file itself is no larger either way.
    Raises as `decode_in_child` does."""
    _, thumbnail = _children.run(_Task.THUMBNAIL, data, limits, side_px)
    return thumbnail


def describe_in_child(data: bytes) -> bytes:
    """Return what the header says of an image, as JSON. Raises as `decode_in_child` does."""
    _, description = _children.run(_Task.DESCRIBE, data, Limits(), None)
    return description


class _ChildDied(Exception):
    """The child ended before it answered."""


class _Child:
    """A process that decodes an image at a time. For one thread at a time."""

    def __init__(self) -> None:
        self.images = 0
        self._overdue = False
        try:
            self._process = subprocess.Popen(
                _COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except OSError as error:
            raise DependencyUnavailable(f"the process that decodes images cannot start: {error.strerror}") from error
        assert self._process.stderr is not None
        try:
            # Decoders write a line about whatever is odd in a file; only those of a child that died matter.
            self._output = ChildOutput(self._process.stderr, "image decoder", logged=False)
        except RuntimeError as error:
            self.close()
            raise DependencyUnavailable(f"the process that decodes images cannot start: {error}") from error

    def run(self, task: _Task, data: bytes, limits: Limits, side_px: int | None) -> tuple[tuple[int, int], bytes]:
        self.images += 1
        timer = threading.Timer(_TIMEOUT_S, self._end)
        timer.daemon = True
        timer.start()
        try:
            status, size, content = self._exchange(
                _REQUEST.pack(task, limits.max_image_px, side_px or 0, len(data)), data
            )
        except (OSError, ValueError, struct.error) as error:
            if self._overdue:
                detail = f"image takes longer than {_TIMEOUT_S:g} s to decode"
                raise InvalidInput(detail, field="image", limit=_TIMEOUT_S) from error
            log.warning(
                "image decoder died",
                extra={
                    "ending": ending(self._process),
                    "last_words": self._output.last_words(),
                    "image_bytes": len(data),
                    "images": self.images,
                },
            )
            raise _ChildDied from error
        finally:
            timer.cancel()
        if status == _Status.DONE:
            return size, content
        kind = TooLarge if status == _Status.TOO_LARGE else InvalidInput
        raise kind(content.decode(errors="replace") or "image cannot be decoded", field="image")

    def _exchange(self, head: bytes, data: bytes) -> tuple[int, tuple[int, int], bytes]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(head)
        stdin.write(data)
        stdin.flush()
        status, width, height, size_bytes = _ANSWER.unpack(stdout.read(_ANSWER.size))
        content = stdout.read(size_bytes)
        if len(content) < size_bytes:
            raise OSError("the answer is cut short")
        return status, (width, height), content

    def _end(self) -> None:
        self._overdue = True
        self._process.kill()

    @property
    def usable(self) -> bool:
        return not self._overdue and self._process.poll() is None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


class _Children:
    """The children of this process. Safe to use from many threads, each of which has a child to itself."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._owner = os.getpid()

    def run(self, task: _Task, data: bytes, limits: Limits, side_px: int | None) -> tuple[tuple[int, int], bytes]:
        child = self._take()
        try:
            try:
                return child.run(task, data, limits, side_px)
            except _ChildDied:
                first = child.images == 1
                child.close()
                child = _Child()
                if first:
                    raise
                # It may have died before this image, or of what earlier ones left behind: a new child decides.
                return child.run(task, data, limits, side_px)
        except _ChildDied as error:
            limit = f"{_CPU_S} s or {_ADDRESS_SPACE_BYTES // 2**30} GiB"
            detail = f"image cannot be decoded: its decoder needs more than {limit}, or crashed"
            raise InvalidInput(detail, field="image") from error
        finally:
            self._give_back(child)

    def _take(self) -> _Child:
        with self._lock:
            if self._owner != os.getpid():
                # A forked process must not talk to the children of its parent.
                self._owner, self._idle = os.getpid(), []
            if self._idle:
                return self._idle.pop()
        return _Child()

    def _give_back(self, child: _Child) -> None:
        with self._lock:
            if child.usable and len(self._idle) < _MAX_IDLE:
                self._idle.append(child)
                return
        child.close()

    def close(self) -> None:
        """End all idle children."""
        with self._lock:
            children, self._idle = self._idle, []
            if self._owner != os.getpid():
                return
        for child in children:
            child.close()


_children = _Children()
atexit.register(_children.close)


def _main() -> None:
    """Read images from standard input until it ends, and write what they are to standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while head := requests.read(_REQUEST.size):
        task, max_px, side_px, size_bytes = _REQUEST.unpack(head)
        _allow_cpu_s(_CPU_S)
        _answer(answers, _Task(task), requests.read(size_bytes), Limits(max_image_px=max_px), side_px or None)


def _allow_cpu_s(seconds: int) -> None:
    """Let this process run for `seconds` from now. The kernel ends it with SIGXCPU when they are over."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime) + 1 + seconds, hard))


def _answer(answers: BinaryIO, task: _Task, data: bytes, limits: Limits, side_px: int | None) -> None:
    try:
        size, content = _result(task, data, limits, side_px)
    except (InvalidInput, MemoryError) as error:
        limit = f"{_ADDRESS_SPACE_BYTES // 2**30} GiB"
        reason = error.detail if isinstance(error, InvalidInput) else ""
        # Pillow's message of a lack of memory says nothing of the limit.
        reason = (
            reason
            if reason and not isinstance(error.__cause__, MemoryError)
            else (f"image cannot be decoded: its decoder needs more than {limit}")
        )
        status = _Status.TOO_LARGE if isinstance(error, TooLarge) else _Status.INVALID
        answers.write(_ANSWER.pack(status, 0, 0, len(reason.encode())) + reason.encode())
    else:
        answers.write(_ANSWER.pack(_Status.DONE, *size, len(content)))
        answers.write(content)
    answers.flush()


def _result(task: _Task, data: bytes, limits: Limits, side_px: int | None) -> tuple[tuple[int, int], bytes]:
    """Return a size and pixels, or nothing and another result."""
    if task is _Task.DECODE:
        image = _decoded(data, limits, side_px)
        return image.size, image.tobytes()
    # Here and below, because `model.images.decoding` imports this module.
    from model.images.description import header_as_json
    from model.images.thumbnail import draw_thumbnail

    if task is _Task.THUMBNAIL:
        assert side_px is not None
        return (0, 0), draw_thumbnail(data, limits, side_px)
    return (0, 0), header_as_json(data)


def _decoded(data: bytes, limits: Limits, at_least_px: int | None) -> Image.Image:
    from model.images.decoding import decode_opened, open_any

    return decode_opened(open_any(data, limits), at_least_px)


if __name__ == "__main__":
    _main()
