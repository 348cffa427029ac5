"""Imports over https, from a server on loopback that looks public to the check, and from a real S3 server."""

import gzip
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

import httpcore
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import S3Server

from indexer.domain.documents import Incoming, Rejected
from indexer.fetcher import FetchSettings
from indexer.imports.downloads import Copies, CopySettings, ToFile
from indexer.imports.locations import Places
from indexer.imports.planner import Imports, ImportSettings, Unit
from model.errors import DependencyUnavailable, Forbidden, InvalidInput, NotFound, TooLarge
from model.records.base import Cut

PNG = b"\x89PNG\r\n\x1a\n pixels"
LINES = b"".join(orjson.dumps({"id": f"d{n}", "text": f"text {n}"}) + b"\n" for n in range(25))


class Rewired(httpcore.AsyncNetworkBackend):
    """Connects to loopback whatever address is asked for."""

    def __init__(self) -> None:
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, *args: Any, **kwargs: Any) -> httpcore.AsyncNetworkStream:
        return await self._network.connect_tcp("127.0.0.1", port, *args, **kwargs)


class Web:
    """`pages` maps a path to its body, or to where it redirects."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes | str] = {}
        self.asked: list[str] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked.append(self.path)
                page = web.pages.get(self.path.partition("?")[0])
                self.send_response(404 if page is None else 302 if isinstance(page, str) else 200)
                if isinstance(page, str):
                    self.send_header("Location", page)
                self.end_headers()
                if isinstance(page, bytes):
                    self.wfile.write(page)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, path: str, host: str = "public.example") -> str:
        return f"http://{host}:{self.port}{path}"


@pytest.fixture
def web() -> Iterator[Web]:
    served = Web()
    yield served
    served.server.shutdown()
    served.server.server_close()


@pytest.fixture
def over_https(tmp_path: Path) -> Callable[..., Imports]:
    async def resolve(host: str, _port: int) -> list[str]:
        return ["10.0.0.7"] if host.startswith("private") else ["93.184.216.34"]

    def fetcher(settings: FetchSettings, file: BinaryIO) -> ToFile:
        return ToFile(settings, file, resolve=resolve, network=Rewired())

    def make(folder: str = "copies", **bounds: Any) -> Imports:
        copies = Copies(CopySettings(tmp_path / folder, **bounds), fetcher)
        return Imports(ImportSettings(cut=Cut(rows=10)), Places(("http://",), copies=copies))

    return make


def documents(reader: Imports, units: list[Unit]) -> list[Incoming]:
    items = [item for unit in units for _, item in reader.read(unit)]
    assert not [item for item in items if isinstance(item, Rejected)]
    return [item for item in items if isinstance(item, Incoming)]


def test_a_file_behind_https_is_copied_once_and_read_in_units(web: Web, over_https: Callable[..., Imports]) -> None:
    web.pages = {"/a/docs.jsonl": LINES, "/old": "/a/docs.jsonl", "/docs.jsonl.gz": gzip.compress(LINES)}
    reader = over_https()
    units = list(reader.plan(web.url("/old?signature=secret"), "jsonl"))
    assert [unit.count for unit in units] == [10, 10, 5]
    assert [each.id for each in documents(reader, units[::-1])][-1] == "d9"
    assert web.asked == ["/old?signature=secret", "/a/docs.jsonl"]  # and never again
    other = over_https("of another machine")
    assert len(documents(other, units)) == 25
    assert len(documents(reader, list(reader.plan(web.url("/docs.jsonl.gz"), "jsonl")))) == 25


def test_what_another_machine_fetched_differently_is_not_mixed(web: Web, over_https: Callable[..., Imports]) -> None:
    web.pages = {"/docs.jsonl": LINES}
    units = list(over_https().plan(web.url("/docs.jsonl"), "jsonl"))
    web.pages = {"/docs.jsonl": LINES.replace(b"text", b"TEXT")}
    items = [item for unit in units for _, item in over_https("later").read(unit)]
    assert len(items) == 25
    assert all(isinstance(item, Rejected) and "has changed since" in item.detail for item in items)


def test_private_addresses_and_bounds(web: Web, over_https: Callable[..., Imports], tmp_path: Path) -> None:
    web.pages = {"/docs.jsonl": LINES, "/in": f"http://private.example:{web.port}/docs.jsonl"}
    with pytest.raises(Forbidden, match="not a public one"):
        list(over_https().plan(web.url("/docs.jsonl", "private.example"), "jsonl"))
    with pytest.raises(Forbidden, match="not a public one"):
        list(over_https().plan(web.url("/in"), "jsonl"))
    with pytest.raises(TooLarge, match="more than 100 bytes"):
        list(over_https(max_file_bytes=100).plan(web.url("/docs.jsonl"), "jsonl"))
    with pytest.raises(InvalidInput, match=r"public\.example answered 404"):
        list(over_https().plan(web.url("/gone"), "jsonl"))
    assert not [path for path in (tmp_path / "copies").iterdir() if path.suffix not in (".lock",)]


def test_copies_that_are_not_used_make_room(web: Web, over_https: Callable[..., Imports], tmp_path: Path) -> None:
    web.pages = {f"/{n}.jsonl": LINES for n in range(5)}
    reader = over_https(max_file_bytes=len(LINES), max_total_bytes=2 * len(LINES))
    for n in range(5):
        assert len(documents(reader, list(reader.plan(web.url(f"/{n}.jsonl"), "jsonl")))) == 25
        copies = [path for path in (tmp_path / "copies").iterdir() if not path.suffix]
        assert len(copies) <= 2


def test_a_path_in_a_file_behind_https_names_nothing(web: Web, over_https: Callable[..., Imports]) -> None:
    web.pages = {"/docs.jsonl": b'{"image": "/etc/passwd"}\n'}
    reader = over_https()
    (unit,) = reader.plan(web.url("/docs.jsonl"), "jsonl")
    ((_, item),) = reader.read(unit)
    assert isinstance(item, Rejected)
    assert "a file behind https has no folder" in item.detail


# --- S3


def from_s3(s3: S3Server, *roots: str, **options: Any) -> Imports:
    places = Places(roots, options={"s3": {**s3.options, **options}})
    return Imports(ImportSettings(cut=Cut(rows=10)), places)


def test_jsonl_parquet_and_images_on_s3(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    files = s3.files()
    pq.write_table(pa.table({"id": [str(n) for n in range(25)], "text": ["x"] * 25}), tmp_path / "docs.parquet")
    files.pipe_file(f"{bucket}/in/a.jsonl", LINES)
    files.pipe_file(f"{bucket}/in/b.jsonl.gz", gzip.compress(LINES))
    files.pipe_file(f"{bucket}/in/c.parquet", (tmp_path / "docs.parquet").read_bytes())
    files.pipe_file(f"{bucket}/in/pictures/cat.png", PNG)
    files.pipe_file(f"{bucket}/in/pictures/metadata.csv", b"file_name,text\ncat.png,a cat\ngone.png,x\n../a.jsonl,x\n")
    reader = from_s3(s3, f"s3://{bucket}/in")
    for uri, format_, count in (
        ("in", "jsonl", 50),
        ("in/a.jsonl", "jsonl", 25),
        ("in/*.gz", "jsonl", 25),
        ("in/c.parquet", "parquet", 25),
    ):
        reader.check(f"s3://{bucket}/{uri}", format_)
        units = list(reader.plan(f"s3://{bucket}/{uri}", format_))
        assert sorted(each.position for each in documents(reader, units[::-1])) == list(range(count))
    (unit,) = reader.plan(f"s3://{bucket}/in/pictures", "images")
    (_, cat), (_, gone), (_, outside) = reader.read(unit)
    assert isinstance(cat, Incoming)
    assert cat.image == PNG
    assert isinstance(gone, Rejected)
    assert gone.detail == "metadata.csv line 3: image 'gone.png' cannot be read: it is not there"
    assert isinstance(outside, Rejected)
    assert "is outside the folder" in outside.detail
    files.pipe_file(f"{bucket}/in/pictures/metadata.csv", b"file_name,text\ncat.png,another\n")
    assert all(isinstance(item, Rejected) and "has changed" in item.detail for _, item in reader.read(unit))


def test_what_of_s3_may_be_read(s3: S3Server, bucket: str) -> None:
    s3.files().pipe_file(f"{bucket}/in/a.jsonl", LINES)
    s3.files().pipe_file(f"{bucket}/inside-out/a.jsonl", LINES)
    reader = from_s3(s3, f"s3://{bucket}/in")
    for uri in ("inside-out/a.jsonl", "a.jsonl", "*/a.jsonl", "in/../inside-out/a.jsonl"):
        with pytest.raises(Forbidden):
            reader.check(f"s3://{bucket}/{uri}", "jsonl")
    for uri in ("in/gone.jsonl", "in/gone/", "in/*.csv"):
        with pytest.raises(NotFound):
            reader.check(f"s3://{bucket}/{uri}", "jsonl")
    from_s3(s3, "s3://").check(f"s3://{bucket}/inside-out/a.jsonl", "jsonl")
    wrong = from_s3(s3, "s3://", secret="not-the-secret-of-this-server")
    with pytest.raises(Forbidden, match="access denied") as raised:
        wrong.check(f"s3://{bucket}/in/a.jsonl", "jsonl")
    assert "secret" not in raised.value.detail
    nobody = from_s3(s3, "s3://", endpoint_url="http://127.0.0.1:1")
    with pytest.raises(DependencyUnavailable):
        nobody.check(f"s3://{bucket}/in/a.jsonl", "jsonl")
