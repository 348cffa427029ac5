"""`ret2 documents`, `ret2 count` and `ret2 facets`, over a service that a function stands in for."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest
from service_answers import answer
from typer.testing import CliRunner

from service.cli import documents as commands
from service.cli import main
from service.client.client import Client
from service.schemas.hits import DocumentOut
from service.schemas.jobs import JobOut

IDS = [f"d{number}" for number in range(5)]

NOTHING = {"min": None, "max": None, "histogram": []}
FACETS = [
    {
        "field": "brand",
        "values": [{"value": "[bold]Ada", "count": 1_000}, {"value": True, "count": 2}],
        "has_more": True,
        "exact": False,
        **NOTHING,
    },
    {
        "field": "price",
        "values": [],
        "has_more": False,
        "exact": True,
        "min": 1.0,
        "max": 9.5,
        "histogram": [{"low": 1.0, "high": 9.5, "count": 7}],
    },
]

JOB = answer(JobOut, id="j", collection="c", kind="update", state="succeeded", accepted=2, indexed=2)


def document(key: str) -> dict[str, Any]:
    return answer(DocumentOut, id=key, text=f"[bold] {key}", metadata={"price": 5}, image_url=None, thumbnail_url=None)


@pytest.fixture
def requests() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def ret2(monkeypatch: pytest.MonkeyPatch, requests: list[dict[str, Any]]) -> Callable[..., Any]:
    def serve(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content or b"{}")
        if request.content:
            requests.append(body)
        match request.url.path:
            case "/collections/c/documents/scroll":
                start = int(body.get("cursor", 0))
                page = IDS[start : start + 2]
                cursor = str(start + 2) if start + 2 < len(IDS) else None
                return httpx.Response(200, json={"documents": [document(key) for key in page], "cursor": cursor})
            case "/collections/c/documents/get":
                return httpx.Response(200, json={"documents": [document(key) for key in body["ids"]], "missing": []})
            case "/collections/c/count":
                return httpx.Response(200, json={"count": 3})
            case "/collections/c/documents/update":
                return httpx.Response(202, json={"job": JOB, "rejected": [], "rejected_count": 0})
            case "/jobs/j":
                return httpx.Response(200, json=JOB)
            case "/collections/c/facets":
                return httpx.Response(200, json={"documents": 1_200, "facets": FACETS})
        return httpx.Response(404, json={})

    client = partial(Client, transport=httpx.MockTransport(serve), sleep=lambda _: None)
    monkeypatch.setattr(commands, "Client", client)
    monkeypatch.setenv("COLUMNS", "120")
    runner = CliRunner()
    return lambda *arguments: runner.invoke(main.app, list(map(str, arguments)))


def test_documents_are_shown_page_by_page_up_to_the_limit(
    ret2: Callable[..., Any], requests: list[dict[str, Any]]
) -> None:
    shown = ret2("documents", "c", "-n", 3, "--filter", '{"field": "price", "gt": 1}')
    assert shown.exit_code == 0, shown.output
    assert [key for key in IDS if f"[bold] {key}" in shown.output] == IDS[:3]
    assert [body["filter"] for body in requests] == [{"field": "price", "gt": 1}] * 2


def test_documents_by_id_as_json_lines(ret2: Callable[..., Any]) -> None:
    lines = ret2("documents", "c", "d1", "d4", "--json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["d1", "d4"]


def test_count(ret2: Callable[..., Any], requests: list[dict[str, Any]]) -> None:
    assert ret2("count", "c", "--filter", '{"field": "price", "gt": 1}').stdout == "3\n"
    assert requests == [{"filter": {"field": "price", "gt": 1}}]


def test_facets_are_shown_with_their_counts(ret2: Callable[..., Any], requests: list[dict[str, Any]]) -> None:
    shown = ret2("facets", "c", "brand", "price", "-q", "shoe", "--mode", "lexical", "-n", 2)
    assert shown.exit_code == 0, shown.output
    lines = [line.split() for line in shown.output.splitlines()]
    assert ["1,200", "documents"] in lines
    for cells in (["[bold]Ada", "1,000"], ["True", "2"], ["1.0", "to", "9.5", "7"]):
        assert any(all(cell in line for cell in cells) for line in lines), cells
    assert "documents, about" in shown.output
    assert requests == [{"fields": ["brand", "price"], "query": {"text": "shoe"}, "mode": "lexical", "limit": 2}]
    assert json.loads(ret2("facets", "c", "brand", "--json").stdout)["facets"] == FACETS


def test_metadata_are_changed_and_parts_taken_away(ret2: Callable[..., Any], requests: list[dict[str, Any]]) -> None:
    changed = ret2("update", "c", "a", "b", "--metadata", '{"price": null}', "--remove", "image")
    assert "2 changed, 0 as before, 0 failed" in changed.stdout, changed.output
    assert requests.pop() == [{"id": key, "metadata": {"price": None}, "image": None} for key in "ab"]
    assert ret2("update", "c", "a", "--remove", "text").exit_code == 0
    assert requests.pop() == [{"id": "a", "metadata": {}, "text": None}]
    for arguments, words in (
        (("a",), "nothing to change"),
        (("--filter", "{}", "--remove", "text"), "by their ids"),
        (("--metadata", '{"a": 1}'), "which documents?"),
    ):
        refused = ret2("update", "c", *arguments)
        assert refused.exit_code == 1
        assert words in refused.output.replace("\n", " ")
    assert not requests
