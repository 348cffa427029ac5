"""What is sent in one turn of the event loop is written at once."""

import asyncio
from typing import cast

from service.http.protocol import _JoinedWrites


class Written:
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.calls.append(data)

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")

    def is_closing(self) -> bool:
        return bool({"close", "abort"} & set(self.calls))


def joined() -> tuple[Written, _JoinedWrites]:
    written = Written()
    return written, _JoinedWrites(cast("asyncio.Transport", written), asyncio.get_running_loop())


async def test_parts_of_one_turn_are_one_write() -> None:
    written, transport = joined()
    for part in (b"head", b"", b"body"):
        transport.write(part)
    assert written.calls == []
    await asyncio.sleep(0)
    transport.write(b"next")
    await asyncio.sleep(0)
    assert written.calls == [b"headbody", b"next"]


async def test_much_is_written_while_it_is_sent() -> None:
    """Whoever sends it learns so that its caller does not read."""
    written, transport = joined()
    transport.write(b"head")
    transport.write(b"x" * 70_000)
    transport.write(b"y")
    assert written.calls == [b"head" + b"x" * 70_000]
    await asyncio.sleep(0)
    assert written.calls[1:] == [b"y"]


async def test_what_was_sent_is_written_before_the_end_and_nothing_after_it() -> None:
    written, transport = joined()
    transport.write(b"last")
    transport.close()
    transport.write(b"late")
    await asyncio.sleep(0)
    assert written.calls == [b"last", "close"]

    written, transport = joined()
    transport.write(b"unread")
    transport.abort()
    await asyncio.sleep(0)
    assert written.calls == ["abort"]
