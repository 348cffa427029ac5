"""Answers of searches, written within the bytes of one call."""

from typing import Any

import orjson
import pytest

from model.errors import Overloaded, TooLarge
from service.search.answers import AnswerWriter


class Share:
    def __init__(self, room: int = 2**40) -> None:
        self.size = 0
        self.room = room

    def grow_to(self, size_bytes: int) -> None:
        if size_bytes > self.room:
            raise Overloaded
        self.size = max(self.size, size_bytes)


def answer(hits: int, groups: int | None = None) -> dict[str, Any]:
    grouped = {} if groups is None else {"groups": [{"value": n, "hits": [{"id": "x" * 90}]} for n in range(groups)]}
    return {"hits": [{"id": "x" * 90}] * hits, **grouped, "cursor": None, "timings": {"total_ms": 1.5}}


@pytest.mark.parametrize("written", [answer(0), answer(3), answer(0, 0), answer(0, 4)])
def test_it_is_the_answer(written: dict[str, Any]) -> None:
    fragment = AnswerWriter(10_000, Share()).write(written)
    assert orjson.loads(orjson.dumps(fragment)) == written


@pytest.mark.parametrize("large", [answer(50), answer(0, 50)])
def test_the_limit_of_one_call(large: dict[str, Any]) -> None:
    """A search that goes over it takes nothing from those behind it."""
    share = Share()
    writer = AnswerWriter(2_000, share)
    writer.write(answer(5))
    with pytest.raises(TooLarge) as error:
        writer.write(large)
    assert error.value.limit == 2_000
    assert share.size <= 2_000, "it stops at the limit"
    writer.write(answer(5))


def test_the_limit_of_all_calls() -> None:
    with pytest.raises(Overloaded):
        AnswerWriter(10_000, Share(room=500)).write(answer(50))
