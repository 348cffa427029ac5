"""The `ret2` command against a service of a few lines: what it prints, what it exits with, and that it starts light."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_answers import answer
from typer.testing import CliRunner

from service.cli import load as load_command
from service.cli import main
from service.client.client import Client
from service.schemas.collections import CollectionOut
from service.schemas.documents import AcceptedOut
from service.schemas.hits import ExplanationOut, HitOut
from service.schemas.jobs import JobOut
from service.schemas.search import SearchOut, TimingsOut
from service.settings import Settings

JOB = answer(JobOut, id="j1", collection="c", kind="documents", state="succeeded", indexed=0, waiting_on=None)
HIT = answer(HitOut, id="fr [bold]", score=0.987, text="[/red] France", image_url=None, metadata={"region": "Europe"})


class Service:
    """Indexes every posted document but those whose text is `bad` (rejected) or `late` (a failure of the job)."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self.last: httpx.Request | None = None
        self.posted: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.last = request
        body = json.loads(request.content) if request.content else None
        self.requests.append((request.method, request.url.path, body))
        match request.method, request.url.path:
            case "POST", "/search":
                found: dict[str, Any] = {"hits": [HIT], "cursor": "abc"}
                if "group_by" in body:
                    found = {"hits": [], "groups": [{"value": "[bold]Europe", "hits": [HIT]}]}
                found["timings"] = answer(TimingsOut, total_ms=12.34)
                return httpx.Response(200, json=answer(SearchOut, **found))
            case "POST", "/collections/c/documents":
                self.posted = body
                rejected = [
                    {"position": n, "id": one.get("id"), "code": "invalid_input", "detail": "is bad"}
                    for n, one in enumerate(body)
                    if one.get("text") == "bad"
                ]
                return httpx.Response(202, json=answer(AcceptedOut, job={**JOB, "state": "queued"}, rejected=rejected))
            case "GET", "/jobs/j1":
                late = sum(one.get("text") == "late" for one in self.posted)
                good = sum(one.get("text") == "good" for one in self.posted)
                return httpx.Response(200, json={**JOB, "indexed": good, "failed": late})
            case "GET", "/jobs/j1/events":
                return httpx.Response(200, content=b"event: job\ndata: " + json.dumps(JOB).encode() + b"\n\n")
            case "GET", "/jobs/j1/failures":
                found = [
                    {"position": n, "id": one["id"], "code": "encode_failed", "detail": "is late"}
                    for n, one in enumerate(self.posted)
                    if one.get("text") == "late"
                ]
                return httpx.Response(200, json={"failures": found})
            case "GET", "/jobs":
                return httpx.Response(200, json={"jobs": [JOB]})
            case (("GET" | "PUT"), ("/collections" | "/collections/c")):
                one = answer(CollectionOut, name="c", documents=1234)
                return httpx.Response(200, json=one if request.url.path.endswith("/c") else {"collections": [one]})
        return httpx.Response(404, json={"code": "not_found", "detail": f"nothing at {request.url.path}"})


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service()
    client = partial(Client, transport=httpx.MockTransport(service), sleep=lambda _: None)
    monkeypatch.setattr(main, "Client", client)
    monkeypatch.setattr(load_command, "Client", client)
    monkeypatch.setenv("COLUMNS", "200")
    return service


@pytest.fixture
def ret2(service: Service) -> Callable[..., Any]:
    runner = CliRunner()
    return lambda *arguments: runner.invoke(main.app, list(map(str, arguments)))


def test_search_prints_hits_scores_and_timings(ret2: Callable[..., Any], service: Service, tmp_path: Path) -> None:
    (tmp_path / "flag.png").write_bytes(b"PNG")
    result = ret2(
        "search", "which?", "-c", "c", "--image", tmp_path / "flag.png", "--filter", '{"field": "a", "equals": 1}'
    )
    assert result.exit_code == 0, result.output
    for shown in ("0.987", "fr [bold]", "[/red] France", "region=Europe", "12.3 ms"):
        assert shown in result.output
    _, _, body = service.requests[0]
    assert body["query"] == {"text": "which?", "image": {"base64": "UE5H"}}
    assert body["filter"] == {"field": "a", "equals": 1}


def test_search_explains_when_asked(
    ret2: Callable[..., Any], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = [
        {"layers": [{"layer": n, "text": 1 - part, "image": part} for n, part in enumerate(each)]}
        for each in ((0.41, 0.6), (0.0, 1.0))
    ]
    why = {"query": shares[0], "document": shares[1], "without_text": 0.123, "without_image": None}
    lexical = {"score": 4.2, "share": 0.25}
    monkeypatch.setitem(HIT, "explanation", answer(ExplanationOut, **why, lexical=lexical))
    output = ret2("search", "which?", "-c", "c", "--explain").output
    for shown in (
        "query image 41% 60%",
        "document image 0% 100%",
        "without text 0.123",
        "words 4.20, 25% of the score",
    ):
        assert shown in output
    assert "without image" not in output
    assert service.requests[0][2]["explain"] is True
    (hit,) = json.loads(ret2("search", "which?", "-c", "c", "--explain", "--json").stdout)
    assert hit["explanation"]["lexical"] == lexical


def test_search_has_the_options_of_a_search(ret2: Callable[..., Any], service: Service) -> None:
    options = "--like a --like b --unlike c --avoid blue --group-by region --group-size 2 --field region --score-threshold 0.5"
    result = ret2("search", "-c", "c", "-n", 3, "--instruction", "find", *options.split())
    assert result.exit_code == 0, result.output
    assert "region = [bold]Europe" in result.output
    assert service.requests[0][2] == {
        "collection": "c",
        "query": {"instruction": "find", "positive": ["a", "b"], "negative": ["c", {"text": "blue"}]},
        "limit": 3,
        "score_threshold": 0.5,
        "group_by": "region",
        "group_size": 2,
        "metadata_fields": ["region"],
    }
    assert "more: --cursor abc" in ret2("search", "x", "-c", "c", "--cursor", "before").output
    assert service.requests[1][2] == {"collection": "c", "query": {"text": "x"}, "cursor": "before"}


def test_search_in_a_mode(ret2: Callable[..., Any], service: Service) -> None:
    assert ret2("search", "x200", "-c", "c", "--mode", "hybrid", "--rerank").exit_code == 0
    body = service.requests[0][2]
    assert (body["mode"], body["rerank"]) == ("hybrid", True)
    assert ret2("search", "x200", "-c", "c").exit_code == 0
    assert not {"mode", "rerank"} & service.requests[1][2].keys()
    assert ret2("search", "x200", "-c", "c", "--mode", "words").exit_code == 2


def test_search_sorts_boosts_and_marks(ret2: Callable[..., Any], service: Service) -> None:
    assert ret2("search", "-c", "c", "--sort=-price", "--sort", "brand").exit_code == 0
    keys = [{"field": "price", "order": "desc"}, {"field": "brand"}]
    assert service.requests[0][2] == {"collection": "c", "sort": keys}
    boost = '{"field": "price", "weight": 0.1}'
    assert ret2("search", "x", "-c", "c", "--boost", boost, "--diversity", "0.5", "--highlight").exit_code == 0
    body = service.requests[1][2]
    assert (body["boost"], body["diversity"], body["highlight"]) == ([{"field": "price", "weight": 0.1}], 0.5, True)
    assert "nothing to search with" in ret2("search", "-c", "c").output


def test_a_load_may_say_the_language_of_a_new_collection(
    ret2: Callable[..., Any], service: Service, tmp_path: Path
) -> None:
    (tmp_path / "some.jsonl").write_text('{"id": "a", "text": "good"}\n')
    assert ret2("load", tmp_path / "some.jsonl", "-c", "c", "--language", "german").exit_code == 0
    assert service.requests[0] == ("PUT", "/collections/c", {"language": "german"})


def test_a_load_may_say_the_passages_of_a_new_collection(
    ret2: Callable[..., Any], service: Service, tmp_path: Path
) -> None:
    (tmp_path / "some.jsonl").write_text('{"id": "a", "text": "good"}\n')
    assert ret2("load", tmp_path / "some.jsonl", "-c", "c", "--passages", '{"tokens": 64}').exit_code == 0
    assert service.requests[0] == ("PUT", "/collections/c", {"passages": {"tokens": 64}})


def test_search_as_json(ret2: Callable[..., Any]) -> None:
    (hit,) = json.loads(ret2("search", "which?", "-c", "c", "--json").stdout)
    assert hit["id"] == HIT["id"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("search", "-c", "c"), "nothing to search with"),
        (("search", "x", "-c", "c", "-i", "missing.png"), "missing.png cannot be read"),
        (("search", "x", "-c", "c", "--filter", "{"), "--filter is not JSON"),
        (("search", "x", "-c", "c", "--filter", "[]"), "--filter is a JSON list"),
        (("load", "missing.jsonl", "-c", "c"), "missing.jsonl is not a file"),
        (("jobs", "unknown"), "nothing at /jobs/unknown"),
        (("serve", "--port", "99999"), "RET2_PORT"),
        (("serve", "--host", "0.0.0.0"), "RET2_API_KEYS_FILE"),
    ],
)
def test_an_error_is_one_line_and_status_1(ret2: Callable[..., Any], arguments: tuple[str, ...], message: str) -> None:
    result = ret2(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.startswith("ret2: ")
    assert result.stderr.count("\n") == 1


def test_load_reports_what_failed_where_and_exits_1(ret2: Callable[..., Any], tmp_path: Path) -> None:
    lines = [{"id": "a", "text": "good"}, {"id": "b", "text": "late"}, {"id": "c", "text": "bad"}]
    file = tmp_path / "docs.jsonl"
    file.write_text("{oops\n" + "".join(json.dumps(line) + "\n" for line in lines))
    result = ret2("load", file, "-c", "c")
    assert result.exit_code == 1
    for shown in (
        "1 indexed",
        "3 failed",
        "docs.jsonl line 1",
        "docs.jsonl line 3 b",
        "is late",
        "docs.jsonl line 4 c",
        "is bad",
    ):
        assert shown in result.stdout


def test_load_of_good_documents_exits_0(ret2: Callable[..., Any], service: Service, tmp_path: Path) -> None:
    file = tmp_path / "docs.jsonl"
    file.write_text('{"id": "a", "text": "good"}')
    result = ret2("load", file, "-c", "c")
    assert result.exit_code == 0, result.output
    assert "1 indexed, 0 skipped, 0 failed" in result.stdout
    assert service.requests[0][:2] == ("PUT", "/collections/c")


def test_collections_and_jobs(ret2: Callable[..., Any]) -> None:
    assert "1,234" in ret2("collections").stdout
    assert "succeeded" in ret2("jobs").stdout
    assert "j1" in ret2("jobs", "j1").stdout
    followed = ret2("jobs", "j1", "--watch")
    assert (followed.exit_code, "succeeded" in followed.stdout) == (0, True)


def test_the_address_and_key_come_from_the_environment(
    ret2: Callable[..., Any], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RET2_URL", "http://search.example")
    monkeypatch.setenv("RET2_API_KEY", "s3cret")
    assert ret2("collections").exit_code == 0
    assert service.last is not None
    assert service.last.url.host == "search.example"
    assert service.last.headers["authorization"] == "Bearer s3cret"
    assert "s3cret" not in ret2("collections", "--help").stdout


def test_every_setting_is_a_flag_of_serve(ret2: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr("service.server.serve", seen.append)
    result = ret2("serve", "--port", 0, "--data-dir", "x", "--fetch-allow-private", "--batch-wait-share", 0.5)
    assert result.exit_code == 0, result.output
    assert (seen[0].port, seen[0].data_dir, seen[0].fetch_allow_private, seen[0].batch_wait_share) == (
        0,
        Path("x"),
        True,
        0.5,
    )


def test_version(ret2: Callable[..., Any]) -> None:
    assert ret2("--version").stdout.startswith("ret2 0.")


def test_the_command_line_and_what_is_assembled_embedded_start_without_torch() -> None:
    heavy = "{'torch', 'transformers', 'qdrant_edge', 'qdrant_client'}"
    code = f"import sys, service.server, service.cli.main; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
