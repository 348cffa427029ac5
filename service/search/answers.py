"""Answers of searches and documents as JSON, written hit by hit within the bytes that one call may have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import orjson

from model.errors import TooLarge


class Share(Protocol):
    """The bytes of this call among those of all answers."""

    def grow_to(self, size_bytes: int) -> None: ...


class AnswerWriter:
    """Writes the answers of one call. What it has written counts against the limit of the call and of all calls."""

    def __init__(self, limit_bytes: int, share: Share) -> None:
        self._limit_bytes = limit_bytes
        self._share = share
        self._size_bytes = 0

    def write(self, answer: dict[str, Any]) -> orjson.Fragment:
        """Write one answer, whose hits are let go. Raises `TooLarge`, or `Overloaded` for all answers together."""
        before = self._size_bytes
        try:
            parts = {name: self._list(answer[name]) for name in ("hits", "groups", "documents") if name in answer}
        except BaseException:
            self._size_bytes = before
            raise
        return orjson.Fragment(orjson.dumps({**answer, **parts}))

    def _list(self, values: Sequence[Any]) -> orjson.Fragment:
        return orjson.Fragment(b"[" + b",".join([self._part(value) for value in values]) + b"]")

    def _part(self, value: Any) -> bytes:
        written = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
        size_bytes = self._size_bytes + len(written)
        if size_bytes > self._limit_bytes:
            raise TooLarge(
                f"the answer has {size_bytes} bytes or more, limit is {self._limit_bytes} for one call: ask for fewer "
                "hits, name metadata_fields, or leave out with_vector",
                field="limit",
                value=size_bytes,
                limit=self._limit_bytes,
            )
        self._share.grow_to(size_bytes)
        self._size_bytes = size_bytes
        return written
