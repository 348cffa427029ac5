"""The script of `helm test`, against servers that answer as ret2 does and as it should not."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from chart_objects import CHART

Answer = tuple[int, Any]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def smoke() -> Iterator[Run]:
    servers: list[HTTPServer] = []

    def run(
        readyz: int = 200, collections: int = 401, dimensions: int = 3, **env: str
    ) -> subprocess.CompletedProcess[str]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({"/readyz": readyz, "/collections": collections}[self.path], {})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                known = self.headers.get("Authorization") == "Bearer right" or env.get("ANONYMOUS") == "true"
                body = {"dimensions": dimensions, "results": [{"embedding": [1.0, 0.0, 0.0]}]}
                self._answer(200 if known and self.path == "/encode" else 401, body)

            def _answer(self, status: int, body: Any) -> None:
                payload = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            def log_message(self, *_: Any) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {**os.environ, "RET2_URL": f"http://127.0.0.1:{server.server_port}", **env}
        source = (CHART / "files/smoke.py").read_text()
        return subprocess.run(
            [sys.executable, "-c", source], env=environment, capture_output=True, text=True, timeout=60
        )

    yield run
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("env", [{}, {"RET2_API_KEY": "right"}, {"ANONYMOUS": "true"}])
def test_well(env: dict[str, str], smoke: Run) -> None:
    done = smoke(**env)
    assert done.returncode == 0, done.stderr
    assert ("encode: 200" in done.stdout) == bool(env)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"readyz": 503}, "ready: 503"),
        ({"collections": 200}, "without a key: 200"),
        ({"RET2_API_KEY": "wrong"}, "encode: 401"),
        ({"RET2_API_KEY": "right", "dimensions": 4}, "3 numbers, the model 4"),
    ],
)
def test_unwell(wrong: dict[str, Any], says: str, smoke: Run) -> None:
    done = smoke(**wrong)
    assert done.returncode == 1
    assert says in done.stderr
