"""The Python client of the HTTP API: typed answers, our own errors, and retries that never do a thing twice.

    with Client("http://127.0.0.1:8080") as client:
        client.create_collection("flags")
        client.post_documents("flags", [{"id": "fr", "text": "France", "image": {"base64": "…"}}])
        for hit in client.search("flags", text="the flag of France", image=Path("flag.png")).hits: ...

It needs no torch, no Qdrant and no FastAPI.
"""

from __future__ import annotations

import email.utils
import random
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
import orjson
from pydantic import BaseModel, ValidationError

from indexer.backoff import Backoff
from indexer.domain.incoming import unwritable
from model.errors import DependencyUnavailable, InvalidInput, Overloaded, RetrievalError, TimedOut, error_class
from service.client.types import (
    Collection,
    Document,
    Facets,
    Failure,
    Hit,
    Image,
    Info,
    Job,
    Loaded,
    Posted,
    Reindex,
    Rejected,
    Search,
    SearchResult,
    _present,
    image_wire,
)
from service.schemas.collections import AliasesOut, CollectionsOut
from service.schemas.documents import AcceptedOut
from service.schemas.encode import EncodeErrorOut, EncodeOut
from service.schemas.facets import FacetsOut
from service.schemas.jobs import FailuresOut, JobAcceptedOut, JobsOut
from service.schemas.reading import CountOut, DocumentsOut, GotOut
from service.schemas.search import SearchBatchOut, SearchErrorOut

Answer = TypeVar("Answer", bound=BaseModel)
Placed = TypeVar("Placed", Rejected, Failure)

DEFAULT_URL = "http://127.0.0.1:8080"

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_BACKOFF = Backoff(0.2, 10.0)
_RETRIED_STATUS = frozenset({429, 502, 503, 504})  # 502 and 504 are a proxy's words for 503; our own 504 is `TimedOut`
_CHUNK_DOCUMENTS = (
    256  # small enough that a chunk is accepted within a second or so, large enough to fill encoder batches
)
# Updates need no encoder.
_CHUNK_UPDATES = 2000
_CHUNK_BYTES = 8 * 2**20
_POLL_MIN_S, _POLL_MAX_S = 0.05, 1.0
_SILENCE_S = 60.0  # of a stream of events, which is never silent for long: then it is taken for dead


class Client:
    """Safe to use from several threads; reuses connections; whoever made it closes it.

    A request is tried up to `attempts` times, and no new try begins once `give_up_after_s` have passed. Retried are
    overload (429), unavailability (503), an idempotency key in use (409 `in_progress`) and broken connections, never an
    answer that says the request is wrong.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        attempts: int = 6,
        give_up_after_s: float = 60.0,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        headers = {"User-Agent": "ret2-client"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        try:
            # A proxy of the environment is for hosts elsewhere: it could not reach our own machine.
            trust_env = httpx.URL(url).host not in _LOOPBACK
            self._http = httpx.Client(
                base_url=url, headers=headers, timeout=timeout_s, transport=transport, trust_env=trust_env
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise InvalidInput(f"{url!r} is not a URL") from error
        self.url = url
        self._attempts = attempts
        self._give_up_after_s = give_up_after_s
        self._sleep, self._rng = sleep, random.Random()

    # --- service

    def info(self) -> Info:
        return self._answer(Info, "GET", "/info")

    def ready(self) -> bool:
        """Ask /readyz once, without retries."""
        try:
            return self._http.get("/readyz").status_code == httpx.codes.OK
        except httpx.RequestError:
            return False

    def encode(
        self, inputs: Sequence[Mapping[str, Any]], *, role: str = "query", model: str | None = None
    ) -> tuple[list[float] | RetrievalError, ...]:
        """Return an embedding or an error for each {"text"?, "image"?}, in order, by the default model unless one is
        named."""
        wire = [
            {**item, "image": image_wire(item["image"])} if item.get("image") is not None else item for item in inputs
        ]
        body = _present({"role": role, "model": model, "inputs": wire})
        answer = self._answer(EncodeOut, "POST", "/encode", body)
        return tuple(
            _item_error(result) if isinstance(result, EncodeErrorOut) else result.embedding for result in answer.results
        )

    # --- search

    def search(
        self, /, collection: str, text: str | None = None, image: Image | None = None, **options: Any
    ) -> SearchResult:
        """Search a collection. `options` are the other fields of `Search`."""
        return self._answer(SearchResult, "POST", "/search", Search(collection, text, image, **options).wire())

    def search_all(
        self,
        /,
        collection: str,
        text: str | None = None,
        image: Image | None = None,
        *,
        page: int = 100,
        **options: Any,
    ) -> Iterator[Hit]:
        """Yield every hit, best first, page by page. Raises `InvalidInput` after the service's `max_search_depth`
        hits."""
        cursor: str | None = None
        while True:
            result = self.search(collection, text, image, limit=page, cursor=cursor, **options)
            yield from result.hits
            cursor = result.cursor
            if cursor is None:
                return

    def search_batch(self, searches: Sequence[Search]) -> tuple[SearchResult | RetrievalError, ...]:
        """Return a result or an error for each search, in order."""
        body = {"searches": [search.wire() for search in searches]}
        answer = self._answer(SearchBatchOut, "POST", "/search/batch", body)
        return tuple(_item_error(result) if isinstance(result, SearchErrorOut) else result for result in answer.results)

    def facets(self, /, collection: str, fields: Sequence[str], text: str | None = None, **options: Any) -> Facets:
        """Count the values of metadata fields. `options` are filter, limit and, with a query, mode, score_threshold,
        image, document_id."""
        names = {"filter", "limit", "mode", "score_threshold"}
        search = Search(collection, text, **{name: value for name, value in options.items() if name not in names})
        body: dict[str, Any] = {"fields": list(fields), "query": search.wire().get("query")}
        body |= {name: value for name, value in options.items() if name in names}
        return self._answer(FacetsOut, "POST", _path("collections", collection, "facets"), _present(body))

    # --- collections

    def create_collection(self, /, name: str, **settings: Any) -> Collection:
        """Create a collection, or check that the present one has the given settings.

        `settings` are model, instruction, limit, language, passages such as {"tokens": 64, "overlap": 16}, and indexes
        such as {"region": "keyword"}.
        """
        return self._answer(Collection, "PUT", _path("collections", name), settings)

    def change_collection(self, /, name: str, **settings: Any) -> Collection:
        """Change settings of a collection; `indexes` are added to the present ones."""
        return self._answer(Collection, "PATCH", _path("collections", name), settings)

    def collections(self) -> list[Collection]:
        return self._answer(CollectionsOut, "GET", "/collections").collections

    def collection(self, name: str) -> Collection:
        return self._answer(Collection, "GET", _path("collections", name))

    def delete_collection(self, name: str) -> None:
        self._request("DELETE", _path("collections", name))

    def copy_collection(self, collection: str, to: str, *, filter: Mapping[str, Any] | None = None) -> Job:  # noqa: A002
        """Copy documents, all or those that match a filter, to another collection with their embeddings. It is made if
        it is not there."""
        body = _present({"to": to, "filter": filter})
        return self._answer(JobAcceptedOut, "POST", _path("collections", collection, "copy"), body).job

    # --- reindex

    def reindex(self, collection: str, *, model: str | None = None, max_failures: int = 0) -> Job:
        """Start a reindex, and return its job; wait for it with `wait_job`. `model` is the name or fingerprint of a
        served model, and may be left out if there is only one other."""
        body = _present({"model": model, "max_failures": max_failures or None})
        return self._answer(JobAcceptedOut, "POST", _path("collections", collection, "reindex"), body).job

    def generations(self, collection: str) -> Reindex:
        """Return the two generations of a collection. Raises `NotFound` if there is only one."""
        return self._answer(Reindex, "GET", _path("collections", collection, "reindex"))

    def cancel_reindex(self, collection: str) -> Job:
        """Cancel a reindex before the switch."""
        return self._answer(JobAcceptedOut, "POST", _path("collections", collection, "reindex", "cancel")).job

    def roll_back_reindex(self, collection: str) -> Reindex:
        """Roll a reindex back, after the switch and while the previous generation is kept. The answer comes before that
        generation serves again."""
        return self._answer(Reindex, "POST", _path("collections", collection, "reindex", "rollback"))

    def finish_reindex(self, collection: str) -> Reindex:
        """Give up the previous generation, after the switch."""
        return self._answer(Reindex, "POST", _path("collections", collection, "reindex", "finish"))

    def set_alias(self, alias: str, collection: str) -> None:
        """Create an alias, or switch it to another collection in one step."""
        self._request("PUT", _path("aliases", alias), {"collection": collection})

    def aliases(self) -> dict[str, str]:
        """Return the collection of each alias."""
        return {alias.alias: alias.collection for alias in self._answer(AliasesOut, "GET", "/aliases").aliases}

    def delete_alias(self, alias: str) -> None:
        self._request("DELETE", _path("aliases", alias))

    # --- documents

    def post_documents(
        self,
        collection: str,
        documents: Iterable[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        on_posted: Callable[[Posted], None] | None = None,
        max_documents: int = _CHUNK_DOCUMENTS,
        max_bytes: int = _CHUNK_BYTES,
    ) -> list[Posted]:
        """Post any number of documents in requests of bounded size. The documents may come from a generator.

        Every request carries an idempotency key, so a retry of a request that did arrive duplicates nothing. With your
        own key, repeating this call duplicates nothing either.
        """
        path = _path("collections", collection, "documents")
        return self._post_chunks(path, documents, idempotency_key, on_posted, max_documents, max_bytes)

    def _post_chunks(
        self,
        path: str,
        documents: Iterable[Mapping[str, Any]],
        idempotency_key: str | None,
        on_posted: Callable[[Posted], None] | None,
        max_documents: int,
        max_bytes: int,
    ) -> list[Posted]:
        key = idempotency_key or uuid.uuid4().hex
        posted: list[Posted] = []
        position = 0
        for number, chunk in enumerate(_chunks(documents, max_documents, max_bytes)):
            posted.append(self._post_chunk(path, chunk, position, f"{key}-{number}"))
            position += len(chunk)
            if on_posted is not None:
                on_posted(posted[-1])
        return posted

    def load(
        self,
        collection: str,
        documents: Iterable[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> Loaded:
        """Post documents and wait until each is indexed, skipped or a failure. `on_progress` is called with their
        number."""
        progress = _LoadProgress(self, on_progress or (lambda done: None))
        self.post_documents(collection, documents, idempotency_key=idempotency_key, on_posted=progress.posted)
        return progress.finish()

    def _post_chunk(self, path: str, chunk: list[bytes], position: int, key: str) -> Posted:
        """Post a chunk, and return its rejections with positions of the whole call. If a request of one document is
        refused, that is the document's rejection."""
        try:
            body = b"[" + b",".join(chunk) + b"]"
            answer = self._answer(AcceptedOut, "POST", path, body, headers={"Idempotency-Key": key})
        except InvalidInput as error:
            if len(chunk) > 1:
                raise
            refused = Rejected(position=position, id=None, code=error.code, detail=error.detail)
            return Posted(None, (refused,), 1)
        return Posted(answer.job, tuple(_moved(rejection, position) for rejection in answer.rejected), len(chunk))

    def document(self, collection: str, document_id: str) -> Document:
        return self._answer(Document, "GET", _path("collections", collection, "documents", document_id))

    def scroll(
        self,
        collection: str,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the wire's name
        page: int = 1000,
        metadata_fields: bool | Sequence[str] = True,
        with_vector: bool = False,
    ) -> Iterator[Document]:
        """Yield every document, or those that match a filter, page by page and whatever their number. No model is
        asked."""
        path = _path("collections", collection, "documents", "scroll")
        body = {"filter": filter, "limit": page, "metadata_fields": metadata_fields, "with_vector": with_vector}
        cursor: str | None = None
        while True:
            answer = self._answer(DocumentsOut, "POST", path, _present({**body, "cursor": cursor}))
            yield from answer.documents
            cursor = answer.cursor
            if cursor is None:
                return

    def get_documents(self, collection: str, ids: Sequence[str], *, with_vector: bool = False) -> list[Document]:
        """Return the documents of these ids, each once, without those that the index does not have."""
        body = {"ids": list(ids), "with_vector": with_vector}
        return self._answer(GotOut, "POST", _path("collections", collection, "documents", "get"), body).documents

    def count(self, collection: str, *, filter: Mapping[str, Any] | None = None) -> int:  # noqa: A002 - the wire's name
        """Count the documents in the index, or those that match a filter, exactly."""
        body = _present({"filter": filter})
        return self._answer(CountOut, "POST", _path("collections", collection, "count"), body).count

    def image(self, collection: str, document_id: str, *, width: int | None = None, number: int = 0) -> bytes:
        """Return the file of a document's image, or its thumbnail of width 256 or 1024. `number` counts the images of
        a document that has several, from 0. Raises `NotFound` if there is none."""
        path = _path("collections", collection, "documents", document_id, "image")
        return self._request("GET", path, params=_present({"width": width, "n": number or None})).content

    def delete_documents(
        self,
        collection: str,
        ids: Sequence[str] | None = None,
        *,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - the wire's name
    ) -> Job:
        """Delete documents by their ids, or those in the index that match a filter now. A retry of the latter may make
        a second, harmless job."""
        body = _present({"ids": ids, "filter": filter})
        return self._answer(JobAcceptedOut, "POST", _path("collections", collection, "documents", "delete"), body).job

    def patch_document(
        self,
        collection: str,
        document_id: str,
        metadata: Mapping[str, Any] | None = None,
        *,
        remove: Sequence[str] = (),
    ) -> Job:
        """Change metadata of one document by a merge patch, in which None removes a field. `remove` takes its "text" or
        its "image" away, and the document is embedded again. Raises `NotFound` for a document that is not there."""
        body = _present({"metadata": metadata}) | dict.fromkeys(remove)
        path = _path("collections", collection, "documents", document_id)
        return self._answer(JobAcceptedOut, "PATCH", path, body).job

    def update_documents(
        self,
        collection: str,
        updates: Iterable[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        on_posted: Callable[[Posted], None] | None = None,
        max_documents: int = _CHUNK_UPDATES,
        max_bytes: int = _CHUNK_BYTES,
    ) -> list[Posted]:
        """Change metadata of any number of documents: `updates` are {"id", "metadata"}, the latter a merge patch. They
        are sent as `post_documents` sends documents."""
        path = _path("collections", collection, "documents", "update")
        return self._post_chunks(path, updates, idempotency_key, on_posted, max_documents, max_bytes)

    def update_matching(self, collection: str, filter: Mapping[str, Any], metadata: Mapping[str, Any]) -> Job:  # noqa: A002
        """Change metadata of the documents in the index that match a filter now, all by the same merge patch."""
        path = _path("collections", collection, "documents", "update")
        return self._answer(AcceptedOut, "POST", path, {"filter": filter, "metadata": metadata}).job

    def import_files(
        self,
        collection: str,
        uri: str,
        *,
        format: str | None = None,  # noqa: A002 - the wire's name
        mapping: Mapping[str, Any] | None = None,
        image_root: str | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Let the service read documents from files that it can reach; `load` sends files that only the caller can
        reach."""
        body = _present({"uri": uri, "format": format, "mapping": mapping, "image_root": image_root})
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return self._answer(
            JobAcceptedOut, "POST", _path("collections", collection, "imports"), body, headers=headers
        ).job

    # --- jobs

    def jobs(self, *, collection: str | None = None, limit: int = 50) -> list[Job]:
        """Return jobs, newest first."""
        params = _present({"collection": collection, "limit": limit})
        return self._answer(JobsOut, "GET", "/jobs", params=params).jobs

    def job(self, job_id: str) -> Job:
        return self._answer(Job, "GET", _path("jobs", job_id))

    def cancel_job(self, job_id: str) -> Job:
        """Cancel a job. Work in progress is finished first; wait for that with `wait_job`."""
        return self._answer(Job, "POST", _path("jobs", job_id, "cancel"))

    def retry_job(self, job_id: str) -> Job:
        """Start a new job with the failures of this one. Raises `Conflict` if there is nothing to retry."""
        return self._answer(JobAcceptedOut, "POST", _path("jobs", job_id, "retry")).job

    def failures(self, job_id: str, *, page: int = 100) -> Iterator[Failure]:
        """Yield every document of a job that could not be indexed."""
        offset = 0
        while True:
            params = {"limit": page, "offset": offset}
            failures = self._answer(FailuresOut, "GET", _path("jobs", job_id, "failures"), params=params).failures
            yield from failures
            if len(failures) < page:
                return
            offset += page

    def follow_job(self, job_id: str) -> Iterator[Job]:
        """Yield the job now and after each change, the last time when it has finished.

        A broken stream is opened again.
        """
        failed = 0
        while True:
            error: RetrievalError = DependencyUnavailable(f"{self.url} ended the events of job {job_id}")
            try:
                for job in self._events(job_id):
                    failed = 0
                    yield job
                    if job.state.finished:
                        return
            except httpx.RequestError as broken:
                error = _unreachable(self.url, broken)
            except (DependencyUnavailable, Overloaded) as refused:
                error = refused
            failed += 1
            if failed >= self._attempts:
                raise error
            self._sleep(getattr(error, "retry_after_s", 0.0) + _BACKOFF.delay_s(failed - 1, self._rng))

    def _events(self, job_id: str) -> Iterator[Job]:
        timeout = httpx.Timeout(self._http.timeout)
        timeout.read = _SILENCE_S
        with self._http.stream("GET", _path("jobs", job_id, "events"), timeout=timeout) as response:
            if not response.is_success:
                response.read()
                raise error_of(response, _retry_after_s(response))
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield self._read(Job, line.removeprefix("data: ").encode())

    def wait_job(
        self, job_id: str, *, timeout_s: float = 3600.0, on_progress: Callable[[Job], None] | None = None
    ) -> Job:
        """Wait until the job has finished, successfully or not, and return it. Raises `DependencyUnavailable` after
        `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        poll_s = _POLL_MIN_S
        while True:
            job = self.job(job_id)
            if on_progress is not None:
                on_progress(job)
            if job.state.finished:
                return job
            if time.monotonic() > deadline:
                raise DependencyUnavailable(f"job {job_id} is {job.state} after {timeout_s:g} s", limit=timeout_s)
            self._sleep(poll_s)
            poll_s = min(poll_s * 1.5, _POLL_MAX_S)

    # --- requests

    def _answer(self, kind: type[Answer], method: str, path: str, body: Any = None, **options: Any) -> Answer:
        return self._read(kind, self._request(method, path, body, **options).content)

    def _read(self, kind: type[Answer], content: bytes) -> Answer:
        """Parse an answer. Fields that only a newer service has are ignored."""
        try:
            return kind.model_validate_json(content)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, fault["loc"]))
            raise DependencyUnavailable(
                f"{self.url} answers something other than {kind.__name__} ({place or 'body'}: {fault['msg']}): "
                "is it ret2, of the same version?"
            ) from error

    def _request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        content = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
        sent_headers = {**(headers or {})} | ({} if content is None else {"Content-Type": "application/json"})
        request = self._http.build_request(method, path, content=content, params=params, headers=sent_headers)
        began = time.monotonic()
        tries = 0
        while True:
            answer, retry_after_s = self._try(request)
            if isinstance(answer, httpx.Response):
                return answer
            delay_s = (retry_after_s or 0.0) + _BACKOFF.delay_s(tries, self._rng)
            tries += 1
            out_of_time = time.monotonic() - began + delay_s > self._give_up_after_s
            if retry_after_s is None or out_of_time or tries >= self._attempts:
                raise answer
            self._sleep(delay_s)

    def _try(self, request: httpx.Request) -> tuple[httpx.Response | RetrievalError, float | None]:
        """Send a request once. Return the answer, or its error with the seconds after which a retry makes sense (None:
        it does not)."""
        try:
            response = self._http.send(request)
        except httpx.UnsupportedProtocol as error:
            raise InvalidInput(f"{self.url!r} is not an http or https URL") from error
        except httpx.RequestError as error:
            return _unreachable(self.url, error), 0.0
        if response.is_success:
            return response, None
        if response.status_code in _RETRIED_STATUS or _in_progress(response):
            after_s = _retry_after_s(response)
            refused = error_of(response, after_s)
            return refused, None if isinstance(refused, TimedOut) else after_s
        return error_of(response), None

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _LoadProgress:
    """Follows the jobs of one `load` in the order they were posted, which is the order they are worked on."""

    def __init__(self, client: Client, on_progress: Callable[[int], None]) -> None:
        self._client = client
        self._on_progress = on_progress
        self._start = 0  # position of the next chunk
        self._open: deque[tuple[Job, int]] = deque()  # with the position of the job's first document
        self._done: list[tuple[Job, int]] = []
        self._rejected: list[Rejected] = []

    def posted(self, posted: Posted) -> None:
        self._rejected.extend(posted.rejected)
        if posted.job is not None:
            self._open.append((posted.job, self._start))
        self._start += posted.sent
        if self._open:
            self._advance(self._client.job(self._open[0][0].id))

    def finish(self) -> Loaded:
        while self._open:
            self._client.wait_job(self._open[0][0].id, on_progress=self._advance)
        jobs = [job for job, _ in self._done]
        failures = tuple(
            _moved(failure, start)
            for job, start in self._done
            if job.failed
            for failure in self._client.failures(job.id)
        )
        indexed, skipped = sum(job.indexed for job in jobs), sum(job.skipped for job in jobs)
        truncated = sum(job.truncated for job in jobs)
        return Loaded(self._start, indexed, skipped, tuple(self._rejected), failures, truncated)

    def _advance(self, job: Job) -> None:
        """Record the present state of the oldest open job."""
        if job.state.finished:
            self._done.append((job, self._open.popleft()[1]))
        running = 0 if job.state.finished else job.indexed + job.skipped + job.failed
        finished = sum(job.indexed + job.skipped + job.failed for job, _ in self._done)
        self._on_progress(finished + running + len(self._rejected))


def _unreachable(url: str, error: httpx.RequestError) -> DependencyUnavailable:
    unavailable = DependencyUnavailable(f"{url} does not answer: {str(error) or type(error).__name__}")
    unavailable.__cause__ = error
    return unavailable


def error_of(response: httpx.Response, retry_after_s: float = 0.0) -> RetrievalError:
    """Return the error that a problem+json answer describes, or an error by the status of any other answer."""
    try:
        problem = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"detail": f"{response.request.url.host} answered {response.status_code}"}
    detail = str(problem.get("detail") or problem.get("title") or response.status_code)
    if response.status_code >= 500 and problem.get("request_id"):
        detail += f" (request {problem['request_id']})"
    kind = error_class(str(problem.get("code")), response.status_code)
    if issubclass(kind, Overloaded):
        return kind(detail, retry_after_s=retry_after_s)
    first: dict[str, Any] = next(iter(problem.get("errors") or ()), {})
    return kind(detail, field=first.get("field"), value=first.get("value"), limit=first.get("limit"))


def _item_error(item: SearchErrorOut | EncodeErrorOut) -> RetrievalError:
    return error_class(item.error.code, 500)(item.error.detail)


def _in_progress(response: httpx.Response) -> bool:
    """Return whether the first request with an idempotency key is still being received, or was, by a process that has
    died since."""
    return response.status_code == 409 and "retry-after" in response.headers


def _retry_after_s(response: httpx.Response) -> float:
    """Return the seconds of either form of the header (RFC 9110 §10.2.3), or 0 if it is absent or unreadable."""
    value = response.headers.get("retry-after", "")
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _chunks(documents: Iterable[Mapping[str, Any]], max_documents: int, max_bytes: int) -> Iterator[list[bytes]]:
    """Yield runs of serialised documents within both bounds. A document over `max_bytes` travels alone."""
    chunk: list[bytes] = []
    size = 0
    for document in documents:
        serialised = _serialised(document)
        if chunk and (len(chunk) == max_documents or size + len(serialised) > max_bytes):
            yield chunk
            chunk, size = [], 0
        chunk.append(serialised)
        size += len(serialised) + 1
    if chunk:
        yield chunk


def _serialised(document: Mapping[str, Any]) -> bytes:
    """Serialise a document as JSON; its images may be each a `Path` or bytes."""
    image, images = document.get("image"), document.get("images")
    if isinstance(image, bytes | Path):
        document = {**document, "image": image_wire(image)}
    if isinstance(images, list | tuple):
        sent = [image_wire(further) if isinstance(further, bytes | Path) else further for further in images]
        document = {**document, "images": sent}
    try:
        return orjson.dumps(document)
    except TypeError as error:
        raise unwritable(f"document {document.get('id')!r:.100}", document, error) from error


def _moved(item: Placed, start: int) -> Placed:
    """Return an item with the position of the whole call."""
    return item.model_copy(update={"position": start + item.position})


def _path(*parts: str) -> str:
    return "/" + "/".join(quote(part, safe="") for part in parts)
