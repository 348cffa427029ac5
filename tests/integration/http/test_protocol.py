"""One request is one request, whatever its headers offer; slow callers and broken requests cost a connection and nothing else."""

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from fake_runtime import FakeRuntime
from threaded_server import serving

from service.settings import Settings
from service.wiring import build

JAVA_PROGRAM = Path(__file__).parents[2] / "support" / "Search.java"
DELETE = b"DELETE /collections/victim HTTP/1.1\r\nHost: x\r\n\r\n"
STATUS = re.compile(rb"HTTP/1\.1 (\d+)")


class Caller:
    """A raw connection to the service."""

    def __init__(self, url: str) -> None:
        self.url = url
        host, _, port = url.removeprefix("http://").partition(":")
        self.address = host, int(port)

    def connect(self, timeout_s: float = 10) -> socket.socket:
        return socket.create_connection(self.address, timeout_s)

    def answers(self, *parts: bytes, wait_s: float = 1.0, first_s: float | None = None) -> bytes:
        """Everything the service sends until it is quiet for `wait_s`, or closes; its first words may take `first_s`."""
        received = b""
        with self.connect(wait_s) as connection:
            for part in parts:
                connection.sendall(part)
                time.sleep(0.02)
            connection.settimeout(first_s or wait_s)
            try:
                while data := connection.recv(65536):
                    received += data
                    connection.settimeout(wait_s)
            except TimeoutError:
                pass
        return received


@pytest.fixture
def serve(tmp_path: Path, runtime: FakeRuntime) -> Iterator[Callable[..., Caller]]:
    with ExitStack() as stack:

        def start(**settings: object) -> Caller:
            url = stack.enter_context(serving(lambda: build(Settings(data_dir=tmp_path, **settings), runtime)))  # type: ignore[arg-type]
            httpx.put(f"{url}/collections/victim", trust_env=False).raise_for_status()
            return Caller(url)

        yield start


CALLS = (
    ("POST", "/search"),
    ("POST", "/collections/victim/documents"),
    ("PUT", "/collections/other"),
    ("PATCH", "/collections/victim"),
    ("DELETE", "/collections/none"),
    ("GET", "/info"),
)


def test_a_body_is_never_the_next_request(serve: Callable[..., Caller]) -> None:
    """Whatever upgrade is offered, and whether the body has a length or comes in chunks: one answer for one request."""
    caller = serve()
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(DELETE), DELETE)
    for method, path in CALLS:
        for offer in ("h2c", "websocket", "foo"):
            head = (
                f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                f"Connection: Upgrade\r\nUpgrade: {offer}\r\n"
            ).encode()
            for body in (
                (head + b"Content-Length: %d\r\n\r\n" % len(DELETE), DELETE),
                (head + b"Transfer-Encoding: chunked\r\n\r\n", chunk),
                (head + b"Content-Length: %d\r\n\r\n%s" % (len(DELETE), DELETE),),
            ):
                received = caller.answers(*body, wait_s=0.15, first_s=10)
                assert len(STATUS.findall(received)) == 1, (method, path, offer, received)
    assert httpx.get(f"{caller.url}/collections/victim", trust_env=False).status_code == 200


def test_a_body_of_two_lengths_is_refused_and_its_connection_closed(serve: Callable[..., Caller]) -> None:
    """Whichever of the two a proxy in front believed, nothing of the body is read as a request."""
    caller = serve()
    head = b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    for length in (5, 5 + len(DELETE)):
        received = caller.answers(head + b"Content-Length: %d\r\n\r\n0\r\n\r\n" % length + DELETE, wait_s=3)
        assert STATUS.findall(received) == [b"400"]
        assert b"send content-length or transfer-encoding" in received
    assert httpx.get(f"{caller.url}/collections/victim", trust_env=False).status_code == 200


def test_what_offers_an_upgrade_is_answered_as_what_offers_none(serve: Callable[..., Caller]) -> None:
    caller = serve()
    body = json.dumps({"indexes": {"brand": "number"}}).encode()
    head = b"PUT /collections/made HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
    received = caller.answers(head + offer + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    assert STATUS.findall(received) == [b"201"]
    made = httpx.get(f"{caller.url}/collections/made", trust_env=False).json()
    assert made["indexes"] == {"brand": "number"}


@pytest.mark.skipif(shutil.which("java") is None, reason="there is no java")
def test_java_http_client(serve: Callable[..., Caller]) -> None:
    """It offers h2c with every request to http://."""
    caller = serve()
    body = json.dumps({"collection": "victim", "query": {"text": "a red shoe"}})
    command = ["java", "-Xshare:auto", str(JAVA_PROGRAM), f"{caller.url}/search", body]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.startswith('200 {"hits":[]'), done


def test_requests_in_one_packet_have_an_answer_each(serve: Callable[..., Caller]) -> None:
    caller = serve()
    received = caller.answers(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    assert STATUS.findall(received) == [b"200"] * 3


def test_an_answer_comes_in_one_piece(serve: Callable[..., Caller]) -> None:
    with serve().connect() as connection:
        for _ in range(20):
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            piece = connection.recv(65536)
            assert piece.startswith(b"HTTP/1.1 200")
            assert piece.endswith(b"}}")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        ("GET /collections/schön HTTP/1.1\r\nHost: x\r\n\r\n".encode(), 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 70_000, 431),
    ],
)
def test_what_is_not_http_is_a_problem(serve: Callable[..., Caller], request_bytes: bytes, status: int) -> None:
    received = serve().answers(request_bytes)
    head, _, body = received.partition(b"\r\n\r\n")
    assert STATUS.findall(head) == [b"%d" % status]
    assert b"application/problem+json" in head
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (status, "invalid_http")


def test_a_body_that_breaks_off_ends_its_connection_alone(serve: Callable[..., Caller]) -> None:
    caller = serve()
    head = b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    received = caller.answers(head, b"5\r\nhello\r\n", b"not a length\r\n")
    assert STATUS.findall(received) == [b"400"]
    assert httpx.get(f"{caller.url}/livez", trust_env=False).status_code == 200


def answer_of(connection: socket.socket) -> bytes:
    """The answer of /livez, which may come in several pieces."""
    received = b""
    while not received.endswith(b"}}"):
        data = connection.recv(65536)
        assert data, f"closed after {received!r}"
        received += data
    return received


def closed_within(connection: socket.socket, limit_s: float) -> bool:
    connection.settimeout(limit_s)
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def test_an_unfinished_head_costs_a_connection_for_seconds(serve: Callable[..., Caller]) -> None:
    """Also where it comes byte by byte, and behind a request that was answered; an idle connection stays."""
    caller = serve(head_timeout_s=2)
    with caller.connect() as silent, caller.connect() as begun, caller.connect() as second, caller.connect() as idle:
        begun.sendall(b"GET /livez HT")
        for connection in (second, idle):
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"200 OK" in answer_of(connection)
        second.sendall(b"GET /livez HTTP/1.1\r\nHo")
        for connection in (silent, begun, second):
            assert closed_within(connection, 20)
        idle.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200 OK" in answer_of(idle)


def test_who_does_not_read_is_disconnected(serve: Callable[..., Caller]) -> None:
    caller = serve(write_timeout_s=0.5)
    with caller.connect() as connection:
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
        time.sleep(2)
        received = 0
        connection.settimeout(5)
        try:
            while data := connection.recv(1 << 20):
                received += len(data)
        except ConnectionResetError:
            pass
    assert received < 200 * len(httpx.get(f"{caller.url}/openapi.json", trust_env=False).content) / 2
    assert httpx.get(f"{caller.url}/livez", trust_env=False).status_code == 200


def test_a_body_that_makes_no_progress_is_408(serve: Callable[..., Caller]) -> None:
    """Also where it drips: KiB by KiB it must come within the time. What comes steadily may take longer than that."""
    caller = serve(body_timeout_s=0.5)
    head = b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    for drips in ([], [b"1\r\n \r\n"] * 60):
        received = caller.answers(head + b"Transfer-Encoding: chunked\r\n\r\n", *drips, wait_s=3)
        assert STATUS.findall(received)[0] == b"408", received
        assert b'"code":"body_too_slow"' in received
    steady = b"400\r\n" + b" " * 1024 + b"\r\n"
    received = caller.answers(head + b"Transfer-Encoding: chunked\r\n\r\n", *[steady] * 60, b"0\r\n\r\n")
    assert STATUS.findall(received)[0] == b"400", received


def test_a_refusal_around_the_layers_is_the_same(
    serve: Callable[..., Caller], capsys: pytest.CaptureFixture[str]
) -> None:
    """The connection goes on after it, however the refused request was sent."""
    caller = serve(max_requests_in_flight=1)
    search = b"POST /search HTTP/1.1\r\nHost: x\r\nX-Request-ID: same\r\nContent-Type: application/json\r\n"
    body = b'{"collection": "victim", "query": {"text": "a"}}'
    search += b"Content-Length: %d\r\n\r\n" % len(body)
    with caller.connect() as holder:
        holder.sendall(search + body[:-1])
        time.sleep(0.1)
        # The body of the first comes by itself, so the application answers it.
        long_way = caller.answers(search, body)
        # Two of them in one connection.
        short_way = caller.answers(search + body, search + body)
        holder.sendall(body[-1:])
        assert b" 200 OK" in holder.recv(65536)
    undated = re.compile(rb"date: [^\r]*\r\n")
    assert STATUS.findall(short_way) == [b"429", b"429"]
    expected, refused = (undated.sub(b"", answer) for answer in (long_way, short_way))
    assert sorted(refused.split(b"\r\n")) == sorted((expected * 2).split(b"\r\n"))
    assert STATUS.findall(caller.answers(search + body)) == [b"200"]
    assert "status=429 count=2" in capsys.readouterr().out
