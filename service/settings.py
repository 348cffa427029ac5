"""Every setting and every bound (docs/promises.md#promise-5), from `RET2_…` environment variables."""

from __future__ import annotations

import ipaddress
import math
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self, cast

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from indexer.blobs.image_store import BlobSettings
from indexer.blobs.thumbnails import Keep
from indexer.domain.incoming import DocumentBounds
from indexer.encoding.encoder import Lane
from indexer.encoding.http_encoder import EncoderClientSettings
from indexer.fetcher import FetchSettings
from indexer.imports.downloads import CopySettings
from indexer.imports.locations import is_web
from indexer.imports.planner import ImportSettings
from indexer.settings import IndexerSettings
from indexer.store.server.settings import CollectionSettings, Quantization, ServerStoreSettings
from model.types import Limits


@dataclass(frozen=True, slots=True)
class QuotaSettings:
    """None is without a limit."""

    requests_per_s: float | None = None
    burst: int | None = None  # None: as many as in one second, at least one
    in_flight: int | None = None

    @property
    def capacity(self) -> float:
        return float(self.burst or max(1, math.ceil(self.requests_per_s or 0)))


@dataclass(frozen=True, slots=True)
class ConnectionTimeouts:
    """`head_s`: to receive a request line and headers. `write_s`: how long a caller may read nothing of an answer."""

    head_s: float = 10.0
    write_s: float = 30.0


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """Costs are tower positions: image patches plus text tokens (`Prepared.cost`)."""

    max_search_cost: int = 32_768
    max_bulk_cost: int = 65_536
    max_batch_cost: int = 2_048
    searches_per_bulk: int = 4
    max_queue_s: float = 10.0  # a lane takes no more than the model does in this time: a slow one is full sooner
    wait_share: float = 0.2  # of the time the last batch took: what one that is not full waits for inputs on their way
    max_wait_s: float = (
        0.1  # and no longer: an answer, its caller's next request and a photo's decoding take some tens of ms
    )

    def bound(self, lane: Lane, cost_per_s: float | None) -> int:
        """What may wait in a lane at once; `cost_per_s` is None while nothing has been measured."""
        fixed = self.max_search_cost if lane is Lane.SEARCH else self.max_bulk_cost
        return fixed if cost_per_s is None else min(fixed, max(self.max_batch_cost, int(cost_per_s * self.max_queue_s)))


_SHARED = ("encoder_url", "qdrant_url", "database_url", "blobs_url")
_POSTGRESQL = ("postgresql://", "postgres://")

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]
MIB = 2**20

# How soon a worker sees what another process accepted, at a millisecond of PostgreSQL's time a look. Alone it is woken
# instead.
_POLL_SHARED_S, _POLL_ALONE_S = 1.0, 5.0


class ServerRole(StrEnum):
    """What one `ret2 serve` process is."""

    ALL = "all"
    ENCODER = "encoder"
    API = "api"
    INDEXER = "indexer"

    @property
    def shares(self) -> bool:
        """Whether its index, ledger and images are other processes' too."""
        return self in (ServerRole.API, ServerRole.INDEXER)


class Settings(BaseSettings):
    """Read once per process, by whoever assembles it. A size in bytes, a time in seconds, a cost in tower positions."""

    model_config = SettingsConfigDict(env_prefix="RET2_", extra="forbid", frozen=True)

    # --- what and where
    role: ServerRole = Field(
        ServerRole.ALL,
        description="all: everything in one process; encoder: only the model, which fetches and stores nothing; api: "
        "HTTP "
        "without model and worker; indexer: a worker and the probes. The last two have everything else in common with "
        "others",
    )
    host: str = Field("127.0.0.1", description="address to listen on; other than loopback it needs API keys")
    port: int = Field(8080, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port with nothing but /metrics, which the other port then has not; 0 takes a free one; unset: on "
        "the same port",
    )
    data_dir: Path = Field(
        Path("~/.local/share/ret2"), description="folder of the embedded mode: index, ledger, images"
    )
    model: str = Field(
        "bundled:everyday",
        description="`bundled:everyday`, `bundled:atlas`, a folder, or `hub:ORG/NAME`, pinned by `@COMMIT` or `@TAG`",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$", description="auto, cpu, cuda, cuda:N or mps")
    precision: str = Field(
        "auto",
        pattern="^(auto|float32|bfloat16|float16)$",
        description="of weights and activations; auto: float32 on a CPU, on CUDA bfloat16, or float16 where it has "
        "none",
    )
    compile: bool = Field(
        False, description="compile the vision tower at start, a minute or more, and keep it so if that measures faster"
    )
    threads: Positive | None = Field(None, description="CPU threads of the model; unset: torch decides")
    log_level: str = Field(
        "info", pattern="(?i)^(debug|info|warning|error)$", description="debug, info, warning or error"
    )
    log_format: str | None = Field(
        None, pattern="^(json|text)$", description="json or text; unset: text on a terminal, else json"
    )

    # --- who
    api_keys_file: Path | None = Field(
        None, description="file of API keys, a line each as `ret2 keys new` writes it; unset: no keys"
    )
    insecure: bool = Field(False, description="allow listening on other than loopback without API keys")

    key_requests_per_s: Annotated[float, Field(gt=0)] | None = Field(
        None, description="requests per second of one API key, in each process; unset: no limit"
    )
    key_burst_requests: Positive | None = Field(
        None, description="requests of one API key that may come at once; unset: as many as in a second"
    )
    key_requests_in_flight: Positive | None = Field(
        None,
        description="requests of one API key being answered at once, in each process; unset: half of "
        "max_requests_in_flight",
    )
    cors_origins: str | None = Field(
        None,
        pattern=r"^(\*|https?://[^/,\s]+(,https?://[^/,\s]+)*)$",
        description="origins whose pages may call this API from a browser: https://a.example,https://b.example, or *; "
        "unset: none",
    )

    # --- an encoder in another process
    encoder_url: str | None = Field(
        None,
        pattern=r"^https?://[^/]",
        description="address of a `--role encoder` process; unset: the model is in this one",
    )
    encoder_api_key: SecretStr | None = Field(None, description="API key that the encoder wants")
    encoder_timeout_s: Seconds = Field(
        30.0, description="one call of the encoder, all attempts and waiting in its queue included"
    )
    encoder_attempts: Positive = Field(3, description="attempts at a call of the encoder that does not reach it")

    # --- a second model, with which collections are reindexed
    next_model: str | None = Field(
        None, description="as `model`: a second one in this process, for collections that are reindexed with it"
    )
    next_encoder_url: str | None = Field(
        None,
        pattern=r"^https?://[^/]",
        description="or the address of a second `--role encoder` process, with the same key",
    )
    reindex_grace_s: float = Field(
        3600.0, ge=0, description="how long after a reindex the previous generation is kept for a rollback"
    )

    # --- vectors on a Qdrant server
    qdrant_url: str | None = Field(
        None,
        pattern=r"^https?://[^/@]+(/[^@]*)?$",
        description="Qdrant server or cluster; https is TLS for gRPC too; unset: embedded Qdrant Edge in data_dir",
    )
    qdrant_api_key: SecretStr | None = Field(None, description="API key that the Qdrant server wants")
    qdrant_prefer_grpc: bool = Field(True, description="speak gRPC with Qdrant, which is faster; else HTTP alone")
    qdrant_grpc_port: int = Field(6334, ge=1, le=65535, description="Qdrant's port for gRPC")
    qdrant_timeout_s: Positive = Field(10, description="one call of Qdrant; whole seconds")
    qdrant_connections: Positive = Field(100, description="calls of Qdrant at a time; others wait for a place")
    qdrant_prefix: str = Field(
        "",
        pattern=r"^[a-z0-9_-]{0,63}$",
        description="begins the name of each collection there, for several deployments on one server",
    )

    # --- how collections are made on a Qdrant server; those already there stay as they are
    qdrant_shards: Positive | None = Field(None, description="shards of a collection; unset: one per node")
    qdrant_replication_factor: Positive = Field(1, description="copies of each shard")
    qdrant_write_consistency_factor: Positive = Field(
        1, description="copies that have to have written before a write counts; at most the replication factor"
    )
    qdrant_vectors_on_disk: bool = Field(False, description="vectors in memory-mapped files instead of memory")
    qdrant_payload_on_disk: bool = Field(True, description="texts and metadata on disk instead of in memory")
    qdrant_quantization: str = Field(
        "none",
        pattern="^(none|scalar|binary|product)$",
        description="none, scalar, binary or product; candidates are rescored with the whole vectors",
    )
    qdrant_quantized_in_memory: bool = Field(
        True, description="quantized vectors in memory, wherever the whole ones are"
    )
    qdrant_oversampling: float = Field(
        2.0, ge=1, le=100, description="candidates for each hit where there is quantization"
    )
    qdrant_hnsw_m: Positive | None = Field(
        None, description="links of a node of the HNSW graph; unset: Qdrant's default"
    )
    qdrant_hnsw_ef_construct: Positive | None = Field(
        None, description="neighbours looked at as the HNSW graph is built; unset: Qdrant's default"
    )
    qdrant_hnsw_ef: Positive | None = Field(
        None, description="neighbours looked at by a search; unset: Qdrant's default"
    )
    qdrant_indexing_threshold_kb: Positive = Field(
        10_000, description="segments with more vectors than this get an HNSW graph; smaller ones are searched exactly"
    )
    qdrant_defer_indexing_documents: Positive = Field(
        50_000,
        description="while one job has this many documents to come, and more than its collection holds, no HNSW graph "
        "is built: "
        "one build later instead of many",
    )

    # --- jobs in a database
    database_url: SecretStr | None = Field(
        None,
        description="postgresql://USER:PASSWORD@HOST:PORT/NAME, for any number of processes; unset: SQLite in data_dir",
    )

    # --- images
    blobs_url: str | None = Field(
        None,
        description="where images are kept: a folder or an fsspec URL such as s3://bucket/images, of this service "
        "alone; "
        "credentials come from its own variables (AWS_ACCESS_KEY_ID, …); unset: data_dir",
    )
    blobs_timeout_s: Seconds = Field(30.0, description="one image read or written there")
    keep_images: Keep = Field(
        Keep.ORIGINAL,
        description="what is kept of an image once it is indexed: original, thumbnail or none; the model always sees "
        "the original. "
        "A reindex uses what is kept: with none there is no image to show (404), and a document that is an image alone "
        "cannot be reindexed",
    )
    thumbnail_px: int = Field(512, ge=16, le=4096, description="longer side of a thumbnail")
    sweep_every_s: float = Field(
        6 * 3600.0, ge=0, description="how often images that nothing refers to any more are deleted; 0: never"
    )
    sweep_grace_s: float = Field(
        24 * 3600.0,
        ge=600,
        description="younger images stay, whatever refers to them: over twice the longest time from storing an image "
        "to "
        "accepting or indexing its document",
    )

    # --- files to import from
    import_roots: str = Field(
        "",
        description="what may be imported, comma-separated: local folders, and URL prefixes such as "
        "s3://bucket/exports or "
        "https://host/ (https:// is any public host); whoever may write to a collection may read there. Empty: nothing",
    )
    import_max_file_bytes: Positive = Field(10 * 1024 * MIB, description="one file that is downloaded by https")
    import_max_copies_bytes: Positive = Field(
        40 * 1024 * MIB, description="all files downloaded by https; beyond it what was used longest ago goes"
    )
    import_max_rows: Positive = Field(100_000_000, description="records of one import")
    import_max_files: Positive = Field(10_000, description="files of one import")
    import_timeout_s: Seconds = Field(30.0, description="one request to a store of files")
    import_readers: Annotated[int, Field(gt=0, le=64)] = Field(
        1, description="units read at once; more help where images are read one by one from far away"
    )

    # --- bounds on a request
    max_body_bytes: Positive = Field(64 * MIB, description="one request body")
    max_bodies_bytes: Positive = Field(
        512 * MIB, description="all request bodies held at once, streams not counted; read and decoded they take more"
    )
    max_stream_bytes: Positive = Field(4096 * MIB, description="one NDJSON stream of documents")
    max_answer_bytes: Positive = Field(
        64 * MIB,
        description="one answer of /search or /search/batch; a search that would go over it is an error of its own",
    )
    max_json_bytes: Positive = Field(8 * MIB, description="one request body of a call that takes no image")
    max_json_values: Positive = Field(
        100_000,
        description="commas and opening brackets of one JSON body outside its texts, which is how much there is to build from it",
    )
    max_documents_values: Positive = Field(
        1_000_000, description="the same of a JSON list of documents, or of one line of an NDJSON stream"
    )
    max_image_bytes: Positive = Field(20 * MIB, description="one image file")
    max_image_px: Positive = Field(50_000_000, description="width times height of one image")
    max_text_chars: Positive = Field(100_000, description="one text; over the model's token limit it is truncated")
    max_metadata_bytes: Positive = Field(64 * 1024, description="one document's metadata as JSON")
    max_metadata_depth: Positive = Field(8, description="nesting of one document's metadata")
    max_documents_per_call: Positive = Field(
        10_000, description="documents of one JSON call; an NDJSON stream has no such limit"
    )
    max_inputs_per_call: Positive = Field(256, description="inputs of one /encode or /v1/embeddings call")
    max_searches_per_call: Positive = Field(64, description="searches of one /search/batch call")
    max_search_hits: Positive = Field(1_000, description="hits of one search")
    max_search_depth: Positive = Field(
        10_000,
        description="how far a ranking can be walked, by offset or cursor, and how much of it groups are sought in",
    )
    max_requests_in_flight: Positive = Field(256, description="requests being answered at once; probes are not counted")

    # --- bounds on what waits for the model
    max_search_queue_cost: Positive = Field(32_768, description="waiting search inputs: image patches plus text tokens")
    max_bulk_queue_cost: Positive = Field(65_536, description="waiting document inputs: image patches plus text tokens")
    max_queue_s: Seconds = Field(
        10.0, description="no lane holds more than the model does in this time, measured: a slow device is full sooner"
    )
    max_batch_cost: Positive | None = Field(
        None,
        description="what the model has in hand at once, in image patches plus text tokens: one forward, or on a CPU "
        "one a thread "
        "together; unset: measured at start, to be fast and fit",
    )
    batch_wait_share: float = Field(
        0.2,
        ge=0,
        le=1,
        description="how long a batch that is not full waits for inputs on their way, of the time the last batch took",
    )
    searches_per_bulk: Positive = Field(
        4, description="search batches in a row before a waiting bulk batch has its turn"
    )
    prepare_threads: Positive | None = Field(
        None, description="threads that decode and tokenise; unset: one per core, 2 to 8"
    )

    # --- bounds on time
    request_timeout_s: Seconds = Field(30.0, description="one search or encode call, waiting included")
    wait_timeout_s: Seconds = Field(60.0, description="`?wait=true` before the answer is 202 and the job goes on")
    ready_max_age_s: Seconds = Field(30.0, description="age of the last good forward before /readyz runs one itself")
    stuck_after_s: Seconds = Field(
        120.0, description="a forward, or the decoding of one input, longer than this turns /livez"
    )
    grace_s: Seconds = Field(25.0, description="from SIGTERM to exit; Kubernetes kills after 30 by default")
    head_timeout_s: Seconds = Field(
        10.0, description="from the first byte of a request, or a new connection, to the end of its headers"
    )
    body_timeout_s: Seconds = Field(
        30.0, description="the next KiB of a request body, or its end; a caller that is slower is answered 408"
    )
    write_timeout_s: Seconds = Field(
        30.0, description="a caller that reads nothing of its answer for so long is disconnected"
    )

    # --- bounds on fetching and indexing
    fetch_timeout_s: Seconds = Field(10.0, description="fetching one URL, redirects included")
    fetch_max_redirects: int = Field(3, ge=0, description="redirects of one URL")
    fetch_allow_private: bool = Field(
        False, description="allow URLs with private and loopback addresses: for tests and closed networks"
    )
    index_batch_documents: Annotated[int, Field(gt=0, le=256)] = Field(
        64, description="documents of one encoder call and one upsert"
    )
    index_max_attempts: Positive = Field(8, description="attempts at a batch before its documents are failures")
    index_concurrency: Positive = Field(2, description="batches a worker has in flight")

    @model_validator(mode="after")
    def _shared_with_others(self) -> Self:
        """Of a role whose data is other processes' too, none of it may be in this machine's data folder."""
        for name in _SHARED if self.role.shares else ():
            if getattr(self, name) is None:
                raise ValueError(f"RET2_ROLE={self.role} works together with other processes: set RET2_{name.upper()}")
        url = self.database_url.get_secret_value() if self.database_url else _POSTGRESQL[0]
        if not url.startswith(_POSTGRESQL):
            raise ValueError("RET2_DATABASE_URL must begin with postgresql://")
        return self

    @model_validator(mode="after")
    def _a_body_fits(self) -> Self:
        if self.max_bodies_bytes < self.max_body_bytes:
            raise ValueError(
                f"RET2_MAX_BODIES_BYTES is {self.max_bodies_bytes}, but one body may have {self.max_body_bytes}: "
                "RET2_MAX_BODY_BYTES"
            )
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.metrics_port and self.metrics_port == self.port:
            raise ValueError(
                f"RET2_METRICS_PORT is {self.metrics_port}, as is RET2_PORT: take another, or leave it unset"
            )
        return self

    @model_validator(mode="after")
    def _models_are_where_they_can_be(self) -> Self:
        if self.role is ServerRole.ENCODER and self.encoder_url is not None:
            raise ValueError("RET2_ENCODER_URL is set, but this process is to be the encoder: RET2_ROLE=encoder")
        if self.next_model is not None and (
            self.next_encoder_url or self.encoder_url or self.role is ServerRole.ENCODER
        ):
            raise ValueError(
                "RET2_NEXT_MODEL is for a process that has its first model in itself and no other one; "
                "beside RET2_ENCODER_URL set RET2_NEXT_ENCODER_URL, and an encoder process has one model"
            )
        if self.next_encoder_url is not None and self.role is ServerRole.ENCODER:
            raise ValueError("RET2_NEXT_ENCODER_URL is set, but this process is to be the encoder: RET2_ROLE=encoder")
        return self

    @model_validator(mode="after")
    def _qdrant_can_be_so(self) -> Self:
        if self.qdrant_write_consistency_factor > self.qdrant_replication_factor:
            raise ValueError(
                f"RET2_QDRANT_WRITE_CONSISTENCY_FACTOR is {self.qdrant_write_consistency_factor}, "
                f"limit is RET2_QDRANT_REPLICATION_FACTOR, {self.qdrant_replication_factor}"
            )
        return self

    @model_validator(mode="after")
    def _not_open_by_accident(self) -> Self:
        if not (_is_loopback(self.host) or self.api_keys_file or self.insecure):
            raise ValueError(
                f"RET2_HOST={self.host} can be reached from other machines and there are no API keys; "
                "set RET2_API_KEYS_FILE, or RET2_INSECURE=true if the network keeps strangers out"
            )
        return self

    @property
    def ledger_url(self) -> str:
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir.expanduser() / 'ledger.sqlite'}"

    @property
    def keeps_data_here(self) -> bool:
        """Something of it is in `data_dir`, which is one process's alone."""
        return not self.role.shares and None in (self.qdrant_url, self.database_url, self.blobs_url)

    @property
    def blobs(self) -> BlobSettings:
        url = self.blobs_url or f"file://{self.data_dir.expanduser() / 'blobs'}"
        return BlobSettings(url, self.blobs_timeout_s, self.sweep_grace_s)

    @property
    def document_bounds(self) -> DocumentBounds:
        return DocumentBounds(self.limits, self.max_metadata_bytes, self.max_metadata_depth)

    @property
    def imports(self) -> ImportSettings:
        roots = tuple(root.strip() for root in self.import_roots.split(",") if root.strip())
        web = any(is_web(root) for root in roots)
        return ImportSettings(
            roots,
            copies=self._copies if web else None,
            bounds=self.document_bounds,
            max_files=self.import_max_files,
            max_rows=self.import_max_rows,
            timeout_s=self.import_timeout_s,
        )

    @property
    def _copies(self) -> CopySettings:
        return CopySettings(
            self.data_dir.expanduser() / "imports",
            self.import_max_file_bytes,
            self.import_max_copies_bytes,
            allow_private=self.fetch_allow_private,
            max_redirects=self.fetch_max_redirects,
        )

    @property
    def limits(self) -> Limits:
        return Limits(self.max_text_chars, self.max_image_bytes, self.max_image_px)

    def encoder_client(self, url: str) -> EncoderClientSettings:
        key = self.encoder_api_key
        return EncoderClientSettings(
            url,
            api_key=key.get_secret_value() if key else None,
            timeout_s=self.encoder_timeout_s,
            attempts=self.encoder_attempts,
        )

    def qdrant(self, url: str) -> ServerStoreSettings:
        key = self.qdrant_api_key
        return ServerStoreSettings(
            url,
            api_key=key.get_secret_value() if key else None,
            prefer_grpc=self.qdrant_prefer_grpc,
            grpc_port=self.qdrant_grpc_port,
            timeout_s=self.qdrant_timeout_s,
            connections=self.qdrant_connections,
            collection_prefix=self.qdrant_prefix,
            collection=CollectionSettings(
                shards=self.qdrant_shards,
                replication_factor=self.qdrant_replication_factor,
                write_consistency_factor=self.qdrant_write_consistency_factor,
                vectors_on_disk=self.qdrant_vectors_on_disk,
                payload_on_disk=self.qdrant_payload_on_disk,
                quantization=cast(Quantization, self.qdrant_quantization),
                quantized_in_memory=self.qdrant_quantized_in_memory,
                oversampling=self.qdrant_oversampling,
                hnsw_m=self.qdrant_hnsw_m,
                hnsw_ef_construct=self.qdrant_hnsw_ef_construct,
                hnsw_ef=self.qdrant_hnsw_ef,
                indexing_threshold_kb=self.qdrant_indexing_threshold_kb,
            ),
        )

    def queue(self, measured_batch_cost: int) -> QueueSettings:
        return QueueSettings(
            max_search_cost=self.max_search_queue_cost,
            max_bulk_cost=self.max_bulk_queue_cost,
            max_batch_cost=self.max_batch_cost or measured_batch_cost,
            searches_per_bulk=self.searches_per_bulk,
            max_queue_s=self.max_queue_s,
            wait_share=self.batch_wait_share,
        )

    @property
    def requests_s(self) -> int:
        """Half of the grace time: what requests have to end, before the worker and the batcher have the other half."""
        return max(1, int(self.grace_s / 2))

    @property
    def quotas(self) -> QuotaSettings:
        in_flight = self.key_requests_in_flight
        if in_flight is None and self.api_keys_file is not None:
            in_flight = max(1, self.max_requests_in_flight // 2)
        return QuotaSettings(self.key_requests_per_s, self.key_burst_requests, in_flight)

    @property
    def list_limits(self) -> dict[str, int]:
        """The longest list that a request body may have, by its field."""
        inputs = self.max_inputs_per_call
        return {"searches": self.max_searches_per_call, "inputs": inputs, "input": inputs}

    @property
    def connections(self) -> ConnectionTimeouts:
        return ConnectionTimeouts(self.head_timeout_s, self.write_timeout_s)

    @property
    def prepares(self) -> int:
        # Two at least: a large image must not keep a short text from being tokenised.
        return self.prepare_threads or max(2, min(8, os.cpu_count() or 2))

    @property
    def fetch(self) -> FetchSettings:
        return FetchSettings(
            self.max_image_bytes, self.fetch_timeout_s, self.fetch_max_redirects, self.fetch_allow_private
        )

    @property
    def indexer(self) -> IndexerSettings:
        return IndexerSettings(
            batch_documents=self.index_batch_documents,
            max_attempts=self.index_max_attempts,
            concurrency=self.index_concurrency,
            poll_s=_POLL_ALONE_S if self.database_url is None else _POLL_SHARED_S,
            reindex_grace_s=self.reindex_grace_s,
            reindex_linger_s=self.request_timeout_s,
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
