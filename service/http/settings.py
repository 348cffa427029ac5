"""The limits of callers: what they may send, hold and receive, and in what time (docs/promises.md#promise-5)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from model.settings import setting


@dataclass(frozen=True, slots=True)
class HttpBounds:
    """The bounds on requests and answers."""

    max_body_bytes: int = setting(64 * 2**20, "max_body_bytes", "one request body", gt=0)
    max_bodies_bytes: int = setting(
        512 * 2**20,
        "max_bodies_bytes",
        "all request bodies held at once, streams not counted; read and decoded they take more",
        gt=0,
    )
    max_stream_bytes: int = setting(4096 * 2**20, "max_stream_bytes", "one NDJSON stream of documents", gt=0)
    max_answer_bytes: int = setting(
        64 * 2**20,
        "max_answer_bytes",
        "one answer of /search or /search/batch; a search that would go over it is an error of its own",
        gt=0,
    )
    max_answers_bytes: int = setting(
        512 * 2**20,
        "max_answers_bytes",
        "all answers over 128 KiB held at once: written, and not yet read by their callers",
        gt=0,
    )
    max_json_bytes: int = setting(8 * 2**20, "max_json_bytes", "one request body of a call that takes no image", gt=0)
    max_json_values: int = setting(
        100_000,
        "max_json_values",
        "commas and opening brackets of one JSON body outside its texts, which is how much there is to build from it",
        gt=0,
    )
    max_documents_values: int = setting(
        500_000,
        "max_documents_values",
        "the same of a JSON list of documents, or of one line of an NDJSON stream",
        gt=0,
    )
    max_documents_per_call: int = setting(
        10_000, "max_documents_per_call", "documents of one JSON call; an NDJSON stream has no such limit", gt=0
    )
    max_updated_documents: int = setting(
        100_000, "max_updated_documents", "documents of one update by a filter; over it nothing is changed", gt=0
    )
    max_inputs_per_call: int = setting(256, "max_inputs_per_call", "inputs of one /encode call", gt=0)
    max_embeddings_per_call: int = setting(
        2_048,
        "max_embeddings_per_call",
        "inputs of one call of /v1/embeddings, /v1/multimodalembeddings or /v2/embed; embedded "
        "max_inputs_per_call at a time",
        gt=0,
    )
    max_searches_per_call: int = setting(64, "max_searches_per_call", "searches of one /search/batch call", gt=0)
    max_requests_in_flight: int = setting(
        256, "max_requests_in_flight", "requests being answered at once; probes and streams are not counted", gt=0
    )
    max_event_streams: int = setting(256, "max_event_streams", "open streams of job events", gt=0)
    max_document_streams: int = setting(
        64, "max_document_streams", "NDJSON streams of documents being received at once", gt=0
    )
    body_timeout_s: float = setting(
        30.0,
        "body_timeout_s",
        "the next KiB of a request body, or its end; a caller that is slower is answered 408",
        gt=0,
    )


@dataclass(frozen=True, slots=True)
class QuotaSettings:
    """None is without a limit."""

    requests_per_s: float | None = setting(
        None, "key_requests_per_s", "requests per second of one API key, in each process; unset: no limit", gt=0
    )
    # At least one.
    burst: int | None = setting(
        None,
        "key_burst_requests",
        "requests of one API key that may come at once; unset: as many as in a second",
        gt=0,
    )
    in_flight: int | None = setting(
        None,
        "key_requests_in_flight",
        "requests of one API key being answered at once, in each process; unset: half of max_requests_in_flight",
        gt=0,
    )
    event_streams: int | None = None
    document_streams: int | None = None

    @property
    def capacity(self) -> float:
        return float(self.burst or max(1, math.ceil(self.requests_per_s or 0)))


@dataclass(frozen=True, slots=True)
class ConnectionTimeouts:
    """The time that a connection may take to send the head of a request, and to read a part of an answer."""

    head_s: float = setting(
        10.0,
        "head_timeout_s",
        "from the first byte of a request, or a new connection, to the end of its headers",
        gt=0,
    )
    write_s: float = setting(
        30.0, "write_timeout_s", "a caller that reads nothing of its answer for so long is disconnected", gt=0
    )
