"""`ret2 mcp` as a process, asked by the SDK's own client over stdio and over HTTP, before a real service with a model of a few lines."""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_runtime import FakeRuntime
from needs import needed
from PIL import Image
from threaded_server import serving

from service.client.client import Client
from service.settings import Settings
from service.wiring import build

mcp = needed("mcp")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mcp")
    with serving(lambda: build(Settings(data_dir=folder), FakeRuntime())) as url:
        yield url


@pytest.fixture(scope="module")
def birds(service: str) -> str:
    file = io.BytesIO()
    Image.new("RGB", (1200, 600), "red").save(file, "TIFF")  # a format that few assistants take
    with Client(service) as client:
        client.create_collection("birds")
        client.load(
            "birds",
            [
                {"id": "robin", "text": "robin red breast", "image": file.getvalue(), "metadata": {"legs": 2}},
                {"id": "wren", "text": "wren small brown", "metadata": {"legs": 2}},
                {"id": "a/b", "text": "odd one", "metadata": {"legs": 3}},
            ],
        )
    return service


def command(*arguments: str) -> Any:
    environment = {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    return mcp.StdioServerParameters(command=sys.executable, args=["-m", "service", "mcp", *arguments], env=environment)


def connected(*arguments: str) -> Any:
    return mcp.Client(command(*arguments), read_timeout_seconds=60)


def text_of(result: Any) -> str:
    return " ".join(block.text for block in result.content if block.type == "text")


async def test_the_tools_say_what_they_take(birds: str) -> None:
    async with connected("--url", birds) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == {"search", "get_document", "collections"}
    search = tools["search"]
    assert set(search.input_schema["properties"]) == {
        "text",
        "image",
        "document_id",
        "collection",
        "filter",
        "sort",
        "limit",
        "with_images",
    }
    assert search.input_schema["properties"]["limit"]["maximum"] == 50
    assert all(tool.description and tool.output_schema and tool.annotations.read_only_hint for tool in tools.values())


async def test_search_and_read(birds: str, tmp_path: Path) -> None:
    """By text, by filter, by example, by a picture of a folder; images as images when they are asked for."""
    Image.new("RGB", (40, 20), "red").save(tmp_path / "red.png")
    async with connected("--url", birds, "--collection", "birds", "--images", str(tmp_path)) as client:
        found = await client.call_tool("search", {"text": "robin red breast", "limit": 2})
        assert not found.is_error
        best = found.structured_content["hits"][0]
        assert (best["id"], best["metadata"], best["has_image"]) == ("robin", {"legs": 2}, True)
        assert [block.type for block in found.content] == ["text", "text"]
        assert json.loads(found.content[0].text)["text"] == "robin red breast"

        shown = await client.call_tool("search", {"text": "robin red breast", "limit": 2, "with_images": True})
        assert [block.type for block in shown.content] == ["text", "image", "text"]
        picture = Image.open(io.BytesIO(base64.b64decode(shown.content[1].data)))
        assert (shown.content[1].mime_type, picture.format, picture.size) == ("image/jpeg", "JPEG", (512, 256))

        odd = await client.call_tool("search", {"text": "robin", "filter": {"field": "legs", "equals": 3}})
        assert [hit["id"] for hit in odd.structured_content["hits"]] == ["a/b"]
        alike = await client.call_tool("search", {"document_id": "robin"})
        assert "robin" not in [hit["id"] for hit in alike.structured_content["hits"]]
        listed = await client.call_tool("search", {"sort": ["-legs"], "limit": 1})
        assert [hit["id"] for hit in listed.structured_content["hits"]] == ["a/b"]
        by_picture = await client.call_tool("search", {"image": "red.png", "limit": 1})
        assert [hit["id"] for hit in by_picture.structured_content["hits"]] == ["robin"]
        nothing = await client.call_tool("search", {"text": "x", "filter": {"field": "legs", "equals": 4}})
        assert text_of(nothing) == "no hits"

        document = await client.call_tool("get_document", {"document_id": "robin"})
        assert [block.type for block in document.content] == ["text", "image"]
        assert document.structured_content["score"] is None
        slashed = await client.call_tool("get_document", {"document_id": "a/b", "collection": "birds"})
        assert slashed.structured_content["text"] == "odd one"
        listed = await client.call_tool("collections", {})
        assert listed.structured_content == {"collections": [{"name": "birds", "documents": 3}]}


async def test_what_is_wrong_is_a_tool_error_that_says_it(birds: str, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "images"
    folder.mkdir()
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("search", {"text": "x"}, "no collection is named"),
        ("search", {"text": "x", "collection": "fish"}, "fish"),
        ("search", {"collection": "birds"}, "the query is empty"),
        ("search", {"text": "x", "collection": "birds", "limit": 51}, "less than or equal to 50"),
        ("search", {"text": "x", "collection": "birds", "filter": {"field": "legs"}}, "filter"),
        ("search", {"image": "../secret.txt", "collection": "birds"}, "is not in"),
        ("search", {"image": "no.png", "collection": "birds"}, "cannot be read"),
        ("search", {"image": "http://127.0.0.1:1/x.png", "collection": "birds"}, "127.0.0.1"),
        ("get_document", {"document_id": "dodo", "collection": "birds"}, "no document 'dodo'"),
    ]
    async with connected("--url", birds, "--images", str(folder)) as client:
        for tool, arguments, says in cases:
            answer = await client.call_tool(tool, arguments)
            assert answer.is_error, (arguments, answer)
            assert says in text_of(answer)
        assert not (await client.call_tool("search", {"text": "x", "collection": "birds"})).is_error
    async with connected("--url", birds) as client:
        answer = await client.call_tool("search", {"image": "/etc/hostname", "collection": "birds"})
        assert "this server reads no files" in text_of(answer)


async def test_a_service_that_is_not_there() -> None:
    """In process, so that the client need not be patient for a minute."""
    from service.mcp_server import mcp_server

    with Client("http://127.0.0.1:1", attempts=1) as nobody:
        async with mcp.Client(mcp_server(nobody)) as client:
            answer = await client.call_tool("collections", {})
    assert answer.is_error
    assert "does not answer" in text_of(answer)


@pytest.fixture
def over_http(birds: str) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [sys.executable, "-m", "service", "mcp", f"--url={birds}", f"--http={port}", "-c", "birds"]
    process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.wait(30)


async def test_streamable_http(over_http: str) -> None:
    async with mcp.Client(over_http, read_timeout_seconds=60) as client:
        found = await client.call_tool("search", {"text": "wren small brown", "limit": 1})
        assert [hit["id"] for hit in found.structured_content["hits"]] == ["wren"]
    # A page in a browser on this machine must not reach it under another host's name.
    async with httpx.AsyncClient(trust_env=False) as browser:
        rebound = await browser.post(over_http, json={}, headers={"host": "evil.example"})
    assert rebound.status_code == 421


def test_without_the_extra_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from service.cli.main import app

    monkeypatch.setitem(sys.modules, "service.mcp_server", None)
    result = CliRunner().invoke(app, ["mcp"])
    assert result.exit_code == 1
    assert "pip install 'ret2[mcp]'" in result.stderr
