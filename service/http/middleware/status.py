"""The status of an answer, for who logs it or traces it."""

from __future__ import annotations

from starlette.types import Message, Send


class StatusRecorder:
    """A `send` that remembers the status of the answer; 0 while there is none."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)
