"""Hostile callers of a running server, a process of its own: `python -m benchmarks.hostile SPEC.json`.

Each caller goes through every kind of hostility in turn. What is answered is counted by kind and status, for a 500 is a
defect of the server whatever was sent.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import random
import socket
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks.hostile_inputs import bodies, pictures, texts

_PATIENCE_S = 30.0
_PAUSE_S = 0.3
_HELD_S = 8.0


class Hostile:
    """One caller with a key of its own and a collection of its own."""

    def __init__(self, url: str, key: str, name: str, good: str, files: list[str], silent_url: str) -> None:
        self._where = urlsplit(url)
        self._key, self._name, self._good, self._files, self._silent_url = key, name, good, files, silent_url
        self._http = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=_PATIENCE_S, trust_env=False
        )
        self._draw = random.Random(name)
        self._bodies = itertools.cycle(bodies(name))
        self._pictures = itertools.cycle(pictures())
        self.statuses: defaultdict[str, Counter[str]] = defaultdict(Counter)

    async def run(self, until: float) -> None:
        kinds: list[Callable[[], Awaitable[str]]] = [
            self.costly_json,
            self.picture_search,
            self.picture_document,
            self.costly_text,
            self.words,
            self.upgrade,
            self.unfinished_head,
            self.slow_body,
            self.no_reader,
            self.hang_up,
            self.stream_anywhere,
            self.endless_line,
            self.long_answers,
            self.silent_host,
            self.bomb_import,
            self.many_collections,
            self.probes,
            self.wrong_key,
            self.noise,
        ]
        await self._http.put(f"/collections/{self._name}")
        self._draw.shuffle(kinds)
        for kind in itertools.cycle(kinds):
            if time.monotonic() > until:
                break
            try:
                status = await kind()
            except (httpx.HTTPError, OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                status = type(error).__name__
            self.statuses[kind.__name__][status] += 1
            await asyncio.sleep(_PAUSE_S)
        await self._http.delete(f"/collections/{self._name}")
        await self._http.aclose()

    # --- what is sent

    async def costly_json(self) -> str:
        path, body = next(self._bodies)
        return await self._post(path, body)

    async def picture_search(self) -> str:
        image = {"base64": base64.b64encode(next(self._pictures)).decode()}
        return await self._post_json("/search", {"collection": self._name, "query": {"image": image}})

    async def picture_document(self) -> str:
        image = {"base64": base64.b64encode(next(self._pictures)).decode()}
        return await self._post_json(f"/collections/{self._name}/documents", [{"id": "picture", "image": image}])

    async def costly_text(self) -> str:
        query = {"text": self._draw.choice(texts())}
        return await self._post_json("/search", {"collection": self._name, "query": query, "mode": "hybrid"})

    async def words(self) -> str:
        word = "".join(self._draw.choices("abcdefghij", k=50_000))
        query = {"text": word}
        return await self._post_json("/search", {"collection": self._name, "query": query, "mode": "lexical"})

    async def upgrade(self) -> str:
        """A request whose body, taken for the next request, deletes what the good callers search."""
        inner = f"DELETE /collections/{self._good} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._key}\r\n\r\n"
        lines = f"POST /search HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._key}\r\nConnection: Upgrade\r\n"
        lines += f"Upgrade: {self._draw.choice(('h2c', 'websocket', 'foo'))}\r\nContent-Length: {len(inner)}\r\n\r\n"
        return await self._exchange((lines + inner).encode())

    async def unfinished_head(self) -> str:
        async with self._connections(20) as connections:
            for _, writer in connections:
                writer.write(b"POST /search HTTP/1.1\r\nHost: x\r\nX-A: ")
            await asyncio.sleep(_HELD_S)
        return "held"

    async def slow_body(self) -> str:
        head = self._head("POST", f"/collections/{self._name}/documents", 10_000_000)
        async with self._connections(20) as connections:
            for _ in range(int(_HELD_S)):
                for _, writer in connections:
                    writer.write(head or b"[")
                head = b""
                await asyncio.sleep(1)
        return "held"

    async def no_reader(self) -> str:
        request = self._head("GET", f"/collections/{self._good}", 0) * 50
        async with self._connections(10) as connections:
            for _, writer in connections:
                writer.write(request)
            await asyncio.sleep(_HELD_S)
        return "held"

    async def hang_up(self) -> str:
        body = json.dumps({"collection": self._good, "query": {"text": "a red thing"}}).encode()
        async with self._connections(30) as connections:
            for _, writer in connections:
                writer.write(self._head("POST", "/search", len(body)) + body)
            await asyncio.sleep(0.05)
        return "gone"

    async def stream_anywhere(self) -> str:
        async def lines() -> AsyncIterator[bytes]:
            for _ in range(200):
                yield b"[" * 2**20

        headers = {"Content-Type": "application/x-ndjson"}
        return str((await self._http.post("/search", content=lines(), headers=headers)).status_code)

    async def endless_line(self) -> str:
        async def line() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"x" * 2**18
                await asyncio.sleep(0.02)

        path, headers = f"/collections/{self._name}/documents", {"Content-Type": "application/x-ndjson"}
        return str((await self._http.post(path, content=line(), headers=headers)).status_code)

    async def long_answers(self) -> str:
        documents = [{"id": f"long-{number}", "text": "long text " * 9_000} for number in range(20)]
        await self._post_json(f"/collections/{self._name}/documents", documents)
        searches = [{"collection": self._name, "query": {"text": "long"}, "limit": 100, "with_vector": True}] * 32
        return await self._post_json("/search/batch", {"searches": searches})

    async def silent_host(self) -> str:
        documents = [
            {"id": f"silent-{number}", "image": {"url": f"{self._silent_url}/{number}"}} for number in range(40)
        ]
        return await self._post_json(f"/collections/{self._name}/documents", documents)

    async def bomb_import(self) -> str:
        name = self._draw.choice(self._files)
        answer = await self._http.post(f"/collections/{self._name}/imports", json={"uri": name})
        if answer.status_code != httpx.codes.ACCEPTED:
            return str(answer.status_code)
        await asyncio.sleep(self._draw.uniform(0, 10))
        job = answer.json()["job"]["id"]
        return f"{answer.status_code}, cancel {(await self._http.post(f'/jobs/{job}/cancel')).status_code}"

    async def many_collections(self) -> str:
        names = [f"{self._name}-{number}" for number in range(10)]
        for name in names:
            await self._http.put(f"/collections/{name}")
        answer = await self._http.get("/collections")
        for name in names:
            await self._http.delete(f"/collections/{name}")
        return str(answer.status_code)

    async def probes(self) -> str:
        paths = ["/readyz", "/metrics", "/livez", "/collections", "/openapi.json"] * 10
        answers = await asyncio.gather(*(self._http.get(path) for path in paths))
        return str(max(answer.status_code for answer in answers))

    async def wrong_key(self) -> str:
        headers = {"Authorization": f"Bearer {'x' * 2000}"}
        return str((await self._http.get("/collections", headers=headers)).status_code)

    async def noise(self) -> str:
        return await self._exchange(self._draw.randbytes(5_000) + b"\r\n\r\n")

    # --- how it is sent

    async def _post(self, path: str, body: bytes) -> str:
        answer = await self._http.post(path, content=body, headers={"Content-Type": "application/json"})
        return str(answer.status_code)

    async def _post_json(self, path: str, value: Any) -> str:
        return await self._post(path, json.dumps(value).encode())

    def _head(self, method: str, path: str, length: int) -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._key}\r\n"
        return f"{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode()

    async def _exchange(self, request: bytes) -> str:
        async with self._connections(1) as [(reader, writer)], asyncio.timeout(_PATIENCE_S):
            writer.write(request)
            answer = await reader.readuntil(b"\r\n")
            return answer.split()[1].decode()

    @asynccontextmanager
    async def _connections(self, count: int) -> AsyncIterator[list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]:
        opened = []
        try:
            for _ in range(count):
                opened.append(await asyncio.open_connection(self._where.hostname, self._where.port))
            yield opened
        finally:
            for _, writer in opened:
                writer.transport.abort()


async def _serve_silence(listener: socket.socket) -> asyncio.Server:
    """Take connections and say nothing."""

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(-1)
        writer.close()

    return await asyncio.start_server(keep, sock=listener)


async def _run_callers(spec: dict[str, Any]) -> dict[str, Counter[str]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = await _serve_silence(listener)
        callers = [
            Hostile(spec["url"], key, f"hostile-{number}", spec["good"], spec["files"], silent_url)
            for number, key in enumerate(spec["keys"])
        ]
        until = time.monotonic() + spec["seconds"]
        await asyncio.gather(*(caller.run(until) for caller in callers))
        server.close()
    statuses: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for caller in callers:
        for kind, counts in caller.statuses.items():
            statuses[kind] += counts
    return statuses


def main(spec: dict[str, Any]) -> None:
    Path(spec["result"]).write_text(json.dumps(asyncio.run(_run_callers(spec))))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
