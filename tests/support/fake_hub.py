"""A model hub on loopback: the calls that huggingface_hub makes to look up and download a model, and the errors it knows."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest


@dataclass
class Repository:
    """Folders by commit, and what branches and tags mean. `token`: what must be sent to read it."""

    commits: dict[str, Path] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    token: str | None = None


class FakeHub:
    """`requests` counts what was asked, `broken` names files whose download breaks off, `stalled` keeps every answer back."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.broken: set[str] = set()
        self.stalled = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub._answer(self)

            def do_HEAD(self) -> None:
                hub._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._release = threading.Event()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def publish(self, name: str, folder: Path, *, tag: str | None = None) -> str:
        """A new commit of `main`, with the folder's files as they are; the commit."""
        repository = self.repositories.setdefault(name, Repository())
        digest = hashlib.sha1(f"{name}{len(repository.commits)}".encode()).hexdigest()
        repository.commits[digest] = folder
        repository.refs["main"] = digest
        if tag:
            repository.refs[tag] = digest
        return digest

    def close(self) -> None:
        self._release.set()
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = urlsplit(handler.path).path.strip("/")
        self.requests.append(f"{handler.command} {unquote(path)}")
        if self.stalled.is_set():
            self._release.wait(30)
            return
        is_api = path.startswith("api/models/")
        parts = [unquote(part) for part in path.removeprefix("api/models/").split("/")]
        name, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        repository = self.repositories.get(name)
        sent = handler.headers.get("authorization", "").removeprefix("Bearer ")
        if repository is None:
            self._refuse(handler, 401, "RepoNotFound")
        elif repository.token and sent != repository.token:
            status, code = (403, "GatedRepo") if repository.gated else (401, "RepoNotFound")
            self._refuse(handler, status, code)
        elif (commit := revision if revision in repository.commits else repository.refs.get(revision)) is None:
            self._refuse(handler, 404, "RevisionNotFound")
        elif is_api:
            self._describe(handler, name, commit)
        elif file in self.broken and handler.command == "GET":
            self._refuse(handler, 503, "Broken")
        elif (repository.commits[commit] / file).is_file():
            body = (repository.commits[commit] / file).read_bytes()
            etag = hashlib.sha256(body).hexdigest()
            self._send(handler, body, {"x-repo-commit": commit, "etag": f'"{etag}"'})
        else:
            self._refuse(handler, 404, "EntryNotFound")

    def _describe(self, handler: BaseHTTPRequestHandler, name: str, commit: str) -> None:
        folder = self.repositories[name].commits[commit]
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        body = json.dumps({"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]})
        self._send(handler, body.encode(), {"content-type": "application/json"})

    def _refuse(self, handler: BaseHTTPRequestHandler, status: int, code: str) -> None:
        handler.send_response(status)
        for key, value in {"x-error-code": code, "x-error-message": code, "content-length": "0"}.items():
            handler.send_header(key, value)
        handler.end_headers()

    def _send(self, handler: BaseHTTPRequestHandler, body: bytes, headers: dict[str, str]) -> None:
        handler.send_response(200)
        for key, value in {**headers, "content-length": str(len(body))}.items():
            handler.send_header(key, value)
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body)


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    hub = FakeHub()
    try:
        yield hub
    finally:
        hub.close()


def use_hub(monkeypatch: pytest.MonkeyPatch, url: str, cache: Path) -> None:
    """As HF_ENDPOINT and HF_HUB_CACHE do for a process that starts with them."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
