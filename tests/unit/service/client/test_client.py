"""The client against a service of a few lines: what is retried, what is not, and that a retry never doubles anything."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from service_answers import answer

from indexer.domain.jobs import JobState
from model.errors import (
    Conflict,
    DependencyUnavailable,
    EncodeFailed,
    Forbidden,
    InvalidInput,
    NotFound,
    Overloaded,
    RetrievalError,
    TimedOut,
    TooLarge,
    Unauthorized,
)
from service.client.client import Client, _chunks
from service.client.types import Search, image_wire
from service.schemas.documents import AcceptedOut
from service.schemas.facets import FacetsOut
from service.schemas.hits import DocumentOut, HitOut
from service.schemas.jobs import JobOut
from service.schemas.search import GroupOut, SearchOut, TimingsOut

Handler = Callable[[httpx.Request], httpx.Response]

JOB = answer(
    JobOut,
    id="j1",
    collection="c",
    kind="documents",
    state="queued",
    accepted=1,
    indexed=0,
    waiting_on=None,
    of_a_newer_version=True,
)
NO_HITS = answer(SearchOut)


def hit(name: str, **fields: Any) -> dict[str, Any]:
    return answer(HitOut, id=name, **fields)


class Service:
    """Answers from a list, the last one for ever; remembers the requests."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.slept: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)

    def client(self, **options: Any) -> Client:
        return Client(transport=httpx.MockTransport(self), sleep=self.slept.append, **options)


def problem(status: int, code: str, detail: str = "why", *, retry_after: str | None = None) -> httpx.Response:
    headers = {"content-type": "application/problem+json"} | ({"retry-after": retry_after} if retry_after else {})
    return httpx.Response(status, headers=headers, json={"status": status, "code": code, "detail": detail})


def ok(body: Any) -> httpx.Response:
    return httpx.Response(200, json=body)


# --- retries


@pytest.mark.parametrize(
    "passing",
    [
        problem(429, "overloaded"),
        problem(503, "dependency_unavailable"),
        problem(409, "in_progress", retry_after="10"),
        httpx.Response(504, text="<html>a proxy</html>"),
        httpx.Response(502, text="<html>a proxy</html>"),
        httpx.ConnectError("refused"),
        httpx.ReadError("reset"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("closed"),
    ],
)
def test_what_may_pass_is_tried_again(passing: httpx.Response | Exception) -> None:
    service = Service(passing, passing, ok(NO_HITS))
    assert service.client().search("c", "x").hits == []
    assert len(service.requests) == 3
    assert len(service.slept) == 2


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (problem(400, "invalid_input"), InvalidInput),
        (problem(401, "unauthorized"), Unauthorized),
        (problem(403, "forbidden"), Forbidden),
        (problem(404, "not_found"), NotFound),
        (problem(409, "conflict"), Conflict),
        (problem(413, "too_large"), TooLarge),
        (problem(422, "invalid_request"), InvalidInput),
        (problem(500, "encode_failed"), EncodeFailed),
        (problem(504, "timed_out"), TimedOut),
        (problem(500, "internal"), RetrievalError),
        (httpx.Response(404, text="<html>"), NotFound),
        (httpx.Response(418, text="a teapot"), InvalidInput),
    ],
)
def test_a_definite_answer_is_not_tried_again(answer: httpx.Response, kind: type[RetrievalError]) -> None:
    service = Service(answer)
    with pytest.raises(RetrievalError) as caught:
        service.client().info()
    assert type(caught.value) is kind
    assert len(service.requests) == 1


def test_attempts_are_bounded() -> None:
    service = Service(problem(503, "dependency_unavailable", "Qdrant is down"))
    with pytest.raises(DependencyUnavailable, match="Qdrant is down"):
        service.client(attempts=4).info()
    assert len(service.requests) == 4


def test_retry_after_is_honoured() -> None:
    service = Service(problem(429, "overloaded", retry_after="7"), ok({"collections": []}))
    service.client().collections()
    assert 7 <= service.slept[0] < 8


def test_retry_after_beyond_the_patience_is_not_waited_for() -> None:
    service = Service(problem(429, "overloaded", retry_after="3600"))
    with pytest.raises(Overloaded) as caught:
        service.client(give_up_after_s=60).info()
    assert caught.value.retry_after_s == 3600
    assert service.slept == []


def test_no_server_at_all_is_one_of_our_errors() -> None:
    service = Service(httpx.ConnectError("Connection refused"))
    with pytest.raises(DependencyUnavailable, match=r"http://127\.0\.0\.1:8080 does not answer: Connection refused"):
        service.client(attempts=1).info()


@pytest.mark.parametrize("url", ["nonsense", "ftp://host", "http://host:port"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(InvalidInput), Client(url, attempts=1) as client:
        client.info()


@pytest.mark.parametrize("body", ["<html>hello</html>", "[1]"])
def test_something_else_on_the_port(body: str) -> None:
    service = Service(httpx.Response(200, text=body))
    with pytest.raises(DependencyUnavailable, match="is it ret2"):
        service.client().info()


# --- documents


def posted(request: httpx.Request) -> list[dict[str, Any]]:
    return list(json.loads(request.content))


def test_a_retried_post_carries_the_same_key_and_others_do_not() -> None:
    accepted = httpx.Response(202, json=answer(AcceptedOut, job=JOB))
    service = Service(accepted, httpx.ReadTimeout("lost"), problem(503, "dependency_unavailable"), accepted)
    results = service.client().post_documents("c", [{"id": str(n)} for n in range(4)], max_documents=2)
    keys = [request.headers["idempotency-key"] for request in service.requests]
    assert keys[1] == keys[2] == keys[3] != keys[0]
    assert [len(posted(request)) for request in service.requests] == [2, 2, 2, 2]
    assert [one.sent for one in results] == [2, 2]
    assert results[0].job is not None
    assert results[0].job.state is JobState.QUEUED


def test_rejections_come_back_in_positions_of_the_whole_call() -> None:
    rejected = {"position": 1, "id": "x", "code": "invalid_input", "detail": "bad image"}
    service = Service(httpx.Response(202, json=answer(AcceptedOut, job=JOB, rejected=[rejected])))
    seen: list[int] = []
    results = service.client().post_documents(
        "c", ({"id": str(n)} for n in range(6)), max_documents=3, on_posted=lambda one: seen.append(one.sent)
    )
    assert [one.rejected[0].position for one in results] == [1, 4]
    assert seen == [3, 3]


def test_one_document_that_the_service_refuses_whole_is_its_own_rejection() -> None:
    service = Service(
        problem(413, "too_large", "body is over the limit"), httpx.Response(202, json=answer(AcceptedOut, job=JOB))
    )
    results = service.client().post_documents("c", [{"text": "x" * 100}, {"text": "y"}], max_bytes=50)
    assert results[0].job is None
    assert (results[0].rejected[0].position, results[0].rejected[0].code) == (0, "too_large")
    assert results[1].rejected == ()


@given(
    texts=st.lists(st.text(max_size=40), max_size=30), max_documents=st.integers(1, 7), max_bytes=st.integers(20, 200)
)
def test_chunks_keep_every_document_in_order_within_both_bounds(
    texts: list[str], max_documents: int, max_bytes: int
) -> None:
    chunks = list(_chunks(({"text": text} for text in texts), max_documents, max_bytes))
    assert [json.loads(one)["text"] for chunk in chunks for one in chunk] == texts
    for chunk in chunks:
        assert 1 <= len(chunk) <= max_documents
        assert len(chunk) == 1 or sum(map(len, chunk)) + len(chunk) - 1 <= max_bytes


# --- answers


def test_search_sends_what_was_asked_and_types_what_comes_back() -> None:
    france = hit("fr", metadata={"a": 1}, of_a_newer_version=1)
    service = Service(ok(answer(SearchOut, hits=[france], timings=answer(TimingsOut, total_ms=3.0))))
    result = service.client().search("flags", "which?", b"PNG", limit=3, filter={"field": "a", "equals": 1})
    assert (result.hits[0].id, result.hits[0].metadata, result.timings.total_ms) == ("fr", {"a": 1}, 3.0)
    assert json.loads(service.requests[0].content) == {
        "collection": "flags",
        "query": {"text": "which?", "image": {"base64": base64.b64encode(b"PNG").decode()}},
        "limit": 3,
        "filter": {"field": "a", "equals": 1},
    }


def test_every_option_of_a_search_is_sent() -> None:
    service = Service(ok(answer(SearchOut, groups=[answer(GroupOut, value="x", hits=[hit("a")])])))
    result = service.client().search(
        "flags",
        "which?",
        instruction="find",
        positive=["fr", {"text": "red", "image": b"PNG"}],
        negative=[{"text": "blue"}],
        offset=2,
        score_threshold=0.5,
        group_by="region",
        group_size=2,
        metadata_fields=("a", "b.c"),
        with_vector=True,
        timeout_s=1.5,
        consistency="all",
        ef=64,
    )
    assert result.groups is not None
    assert (result.groups[0].value, result.groups[0].hits[0].id) == ("x", "a")
    image = {"base64": base64.b64encode(b"PNG").decode()}
    assert json.loads(service.requests[0].content) == {
        "collection": "flags",
        "query": {
            "text": "which?",
            "instruction": "find",
            "positive": ["fr", {"text": "red", "image": image}],
            "negative": [{"text": "blue"}],
        },
        "offset": 2,
        "score_threshold": 0.5,
        "group_by": "region",
        "group_size": 2,
        "metadata_fields": ["a", "b.c"],
        "with_vector": True,
        "timeout_s": 1.5,
        "consistency": "all",
        "ef": 64,
    }
    assert Search("c", "x", exact=True).wire()["exact"] is True
    assert Search("c", "x", metadata_fields=False).wire()["metadata_fields"] is False
    modes = Search("c", "x", mode="hybrid", fusion={"method": "rrf", "k": 10}, rerank={"oversampling": 8}).wire()
    assert (modes["mode"], modes["fusion"], modes["rerank"]) == (
        "hybrid",
        {"method": "rrf", "k": 10},
        {"oversampling": 8},
    )


def test_a_list_a_boost_and_facets_are_sent_as_the_service_reads_them() -> None:
    listed = Search("c", sort=["price", "-brand", {"field": "n", "order": "desc"}]).wire()
    keys = [{"field": "price"}, {"field": "brand", "order": "desc"}, {"field": "n", "order": "desc"}]
    assert listed == {"collection": "c", "sort": keys}
    boost = [{"field": "popularity", "weight": 0.1}]
    steered = Search("c", "x", boost=boost, diversity=0.5, weights={"text": 1, "image": 2}, highlight=True).wire()
    assert steered == {
        "collection": "c",
        "query": {"text": "x", "weights": {"text": 1, "image": 2}},
        "boost": boost,
        "diversity": 0.5,
        "highlight": True,
    }
    service = Service(*[ok(answer(FacetsOut, documents=2))] * 2)
    client, condition = service.client(), {"field": "a", "equals": 1}
    assert client.facets("c", ["brand"], filter=condition, limit=3).documents == 2
    client.facets("c", ["brand"], "boot", mode="lexical", document_id=None)
    assert [json.loads(request.content) for request in service.requests] == [
        {"fields": ["brand"], "filter": condition, "limit": 3},
        {"fields": ["brand"], "query": {"text": "boot"}, "mode": "lexical"},
    ]
    assert service.requests[0].url.path == "/collections/c/facets"


def test_all_hits_come_page_by_page() -> None:
    pages = [([hit("a"), hit("b")], "next"), ([hit("c")], None)]
    service = Service(*(ok(answer(SearchOut, hits=hits, cursor=cursor)) for hits, cursor in pages))
    assert [hit.id for hit in service.client().search_all("c", "x", page=2)] == ["a", "b", "c"]
    assert [json.loads(request.content).get("cursor") for request in service.requests] == [None, "next"]


def test_batches_keep_one_answer_each() -> None:
    error = {"error": {"code": "invalid_input", "detail": "no such collection"}}
    service = Service(ok({"results": [NO_HITS, error]}))
    first, second = service.client().search_batch([Search("a", "x"), Search("b", "y")])
    assert first.hits == []  # type: ignore[union-attr]
    assert isinstance(second, InvalidInput)
    service = Service(ok({"model": "m", "dimensions": 2, "results": [{"embedding": [0.6, 0.8]}, error]}))
    embedding, failed = service.client().encode([{"text": "x"}, {"text": "y", "image": b"?"}])
    assert embedding == [0.6, 0.8]
    assert isinstance(failed, InvalidInput)


def test_wait_job_ends_when_the_job_does() -> None:
    running, done = {**JOB, "state": "running"}, {**JOB, "state": "succeeded", "indexed": 1}
    service = Service(ok(running), httpx.ConnectError("restarting"), ok(running), ok(done))
    seen: list[JobState] = []
    job = service.client().wait_job("j1", on_progress=lambda job: seen.append(job.state))
    assert job.state is JobState.SUCCEEDED
    assert seen == [JobState.RUNNING, JobState.RUNNING, JobState.SUCCEEDED]


def events(*states: str) -> httpx.Response:
    sent = b"".join(b"event: job\ndata: " + json.dumps({**JOB, "state": state}).encode() + b"\n\n" for state in states)
    return httpx.Response(200, content=b": still there\n\n" + sent)


def test_follow_job_tells_each_change_and_ends_with_the_job() -> None:
    service = Service(events("queued", "running", "succeeded"))
    assert [job.state for job in service.client().follow_job("j1")] == ["queued", "running", "succeeded"]
    assert [request.url.path for request in service.requests] == ["/jobs/j1/events"]


def test_follow_job_asks_again_where_the_stream_broke_off() -> None:
    service = Service(
        events("queued"),
        httpx.ReadError("cut"),
        httpx.Response(503, json={"code": "dependency_unavailable", "detail": "away"}),
        events("running", "failed"),
    )
    assert [job.state for job in service.client().follow_job("j1")] == ["queued", "running", "failed"]
    assert len(service.slept) == 3


def test_follow_job_gives_up_and_says_what_is_wrong() -> None:
    with pytest.raises(DependencyUnavailable, match="does not answer"):
        list(Service(httpx.ConnectError("refused")).client().follow_job("j1"))
    with pytest.raises(NotFound):
        list(Service(httpx.Response(404, json={"code": "not_found", "detail": "gone"})).client().follow_job("j1"))


def test_wait_job_has_a_deadline() -> None:
    service = Service(ok({**JOB, "state": "running"}))
    with pytest.raises(DependencyUnavailable, match="running after 0 s"):
        service.client().wait_job("j1", timeout_s=0)


def test_failures_are_paged_through() -> None:
    failure = {"position": 0, "id": "d", "code": "invalid_input", "detail": "bad"}
    service = Service(ok({"failures": [failure] * 2}), ok({"failures": [failure]}))
    assert [one.id for one in service.client().failures("j1", page=2)] == ["d"] * 3
    assert service.requests[1].url.params["offset"] == "2"


def test_names_are_escaped_in_paths() -> None:
    service = Service(ok(answer(DocumentOut, id="a/b ?")))
    service.client().document("c", "a/b ?#é")
    assert service.requests[0].url.raw_path == b"/collections/c/documents/a%2Fb%20%3F%23%C3%A9"


def test_the_key_goes_into_the_header_and_nowhere_else() -> None:
    service = Service(httpx.Response(401, text=""))
    with pytest.raises(Unauthorized) as caught:
        service.client(api_key="s3cret").info()
    assert service.requests[0].headers["authorization"] == "Bearer s3cret"
    assert "s3cret" not in str(caught.value)


def test_images_travel_as_base64_url_or_data_uri(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"cat")
    wire = {"base64": base64.b64encode(b"cat").decode()}
    assert image_wire(tmp_path / "cat.png") == image_wire(b"cat") == wire
    assert image_wire("data:image/png;base64,AA") == "data:image/png;base64,AA"
    assert image_wire("https://example.org/a.png") == {"url": "https://example.org/a.png"}
    with pytest.raises(InvalidInput, match=r"missing\.png"):
        image_wire(tmp_path / "missing.png")


def test_an_environment_proxy_is_not_asked_for_our_own_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert Client()._http._mounts == {}
    assert Client("http://search.example")._http._mounts != {}


def test_an_answer_of_another_form_is_an_error_of_ours() -> None:
    for content in (b"<html>", b"[]", b'{"hits": 1, "timings": {}}'):
        service = Service(httpx.Response(200, content=content))
        with pytest.raises(DependencyUnavailable, match=r"answers something other than SearchOut .*: is it ret2"):
            service.client().search("c", "x")


def test_a_document_that_json_cannot_hold_is_named() -> None:
    service = Service(ok(answer(AcceptedOut, job=JOB)))
    with pytest.raises(
        InvalidInput, match=r"document 'a'\.metadata\.n is 18446744073709551616, a whole number must be"
    ):
        service.client().post_documents("c", [{"id": "a", "text": "x", "metadata": {"n": 2**64}}])
