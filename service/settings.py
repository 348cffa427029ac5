"""Every setting and every bound (docs/promises.md#promise-5), from `RET2_…` environment variables."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar

from pydantic import Field, SecretStr, create_model, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from indexer.blobs.image_store import BlobSettings
from indexer.blobs.thumbnails import KeepSettings
from indexer.domain.incoming import DocumentBounds
from indexer.encoding.encoder import Lane
from indexer.encoding.http_encoder import EncoderClientSettings
from indexer.fetcher import FetchSettings
from indexer.imports.downloads import CopySettings
from indexer.imports.locations import is_web
from indexer.imports.planner import ImportSettings
from indexer.settings import IndexerSettings
from indexer.store.edge.settings import EdgeSettings
from indexer.store.indexes import READABLE_DOCUMENTS
from indexer.store.server.settings import CollectionSettings, ServerStoreSettings
from model.cpu.quota import usable_cpus
from model.errors import InvalidInput
from model.settings import declared_settings, setting
from model.types import Limits
from service.encoder.sources import read_sources
from service.http.settings import ConnectionTimeouts, HttpBounds, QuotaSettings
from service.search.bounds import SearchBounds


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """Costs are tower positions: image patches plus text tokens (`Prepared.cost`)."""

    max_search_cost: int = setting(
        32_768, "max_search_queue_cost", "waiting search inputs: image patches plus text tokens", gt=0
    )
    max_bulk_cost: int = setting(
        65_536, "max_bulk_queue_cost", "waiting document inputs: image patches plus text tokens", gt=0
    )
    max_batch_cost: int = 2_048
    searches_per_bulk: int = setting(
        4, "searches_per_bulk", "search batches in a row before a waiting bulk batch has its turn", gt=0
    )
    max_queue_s: float = setting(
        10.0,
        "max_queue_s",
        "no lane holds more than the model does in this time, measured: a slow device is full sooner",
        gt=0,
    )
    wait_share: float = setting(
        0.2,
        "batch_wait_share",
        "how long a batch that is not full waits for inputs on their way, of the time the last batch took",
        ge=0,
        le=1,
    )
    max_wait_s: float = (
        0.1  # and no longer: an answer, its caller's next request and a photo's decoding take some tens of ms
    )

    def bound(self, lane: Lane, cost_per_s: float | None) -> int:
        """Return what may wait in a lane at once; `cost_per_s` is None while nothing has been measured."""
        fixed = self.max_search_cost if lane is Lane.SEARCH else self.max_bulk_cost
        return fixed if cost_per_s is None else min(fixed, max(self.max_batch_cost, int(cost_per_s * self.max_queue_s)))


_SHARED = ("encoder_url", "qdrant_url", "database_url", "blobs_url")
_POSTGRESQL = ("postgresql://", "postgres://")

Part = TypeVar("Part")
Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]

# How soon a worker sees what another process accepted, at a millisecond of PostgreSQL's time a look. Alone it is woken
# instead.
_POLL_SHARED_S = 1.0


class ServerRole(StrEnum):
    """The role of a `ret2 serve` process."""

    ALL = "all"
    ENCODER = "encoder"
    API = "api"
    INDEXER = "indexer"

    @property
    def shares(self) -> bool:
        """Whether its index, ledger and images are other processes' too."""
        return self in (ServerRole.API, ServerRole.INDEXER)


_PARTS: tuple[type, ...] = (
    Limits,
    DocumentBounds,
    HttpBounds,
    QuotaSettings,
    ConnectionTimeouts,
    SearchBounds,
    QueueSettings,
    EncoderClientSettings,
    ServerStoreSettings,
    CollectionSettings,
    EdgeSettings,
    BlobSettings,
    KeepSettings,
    FetchSettings,
    ImportSettings,
    CopySettings,
    IndexerSettings,
)

if TYPE_CHECKING:
    _PartsSettings = BaseSettings
else:
    _PartsSettings = create_model(
        "_PartsSettings",
        __base__=BaseSettings,
        **{
            declared.name: (
                declared.kind,
                Field(declared.default, description=declared.description, **declared.bounds),
            )
            for part in _PARTS
            for declared in declared_settings(part)
        },
    )


class Settings(_PartsSettings):
    """The settings of a process: its own, and those that its parts declare (`model.settings`).

    Read once per process, by whoever assembles it. A size in bytes, a time in seconds, a cost in tower positions.
    """

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
    cache_dir: Path | None = Field(
        None, description="folder of compiled models, which can be made again; unset: ~/.cache/ret2"
    )
    models: str = Field(
        "everyday=bundled:everyday,atlas=bundled:atlas",
        description="models to serve, the default first, each as NAME=SOURCE: `bundled:everyday`, `bundled:atlas`, a "
        "folder, or `hub:ORG/NAME`, pinned by `@COMMIT` or `@TAG`; comma-separated, or the flag once for each. A bare "
        "SOURCE is served by its own last name",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$", description="auto, cpu, cuda, cuda:N or mps")
    precision: str = Field(
        "auto",
        pattern="^(auto|float32|bfloat16|float16|int8)$",
        description="of weights and activations; auto: bfloat16 where the processor or GPU computes in it, else "
        "float32 on a CPU and float16 on CUDA; int8: on a CPU, with the extra ret2[int8]",
    )
    compile: bool = Field(
        False, description="compile the vision tower at start, a minute or more, and keep it so if that measures faster"
    )
    threads: Positive | None = Field(
        None, description="CPU threads of the models; unset: one per core, within the CPU quota"
    )
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

    cors_origins: str | None = Field(
        None,
        pattern=r"^(\*|https?://[^/,\s]+(,https?://[^/,\s]+)*)$",
        description="origins whose pages may call this API from a browser: https://a.example,https://b.example, or *; "
        "unset: none",
    )

    # --- an encoder in another process
    encoder_url: str | None = Field(
        None,
        pattern=r"^https?://[^/,\s][^,\s]*(,https?://[^/,\s][^,\s]*)*$",
        description="addresses of `--role encoder` processes, comma-separated, each asked which models it has; the "
        "first model of the first is the default; unset: the models are in this one",
    )
    encoder_api_key: SecretStr | None = Field(None, description="API key that the encoders want")

    # --- vectors on a Qdrant server
    qdrant_url: str | None = Field(
        None,
        pattern=r"^https?://[^/@,]+(/[^@,]*)?(, *https?://[^/@,]+(/[^@,]*)?)*$",
        description="http://HOST:PORT of a Qdrant server, or of the nodes of a cluster with commas between; https is "
        "TLS for gRPC too; unset: embedded Qdrant Edge in data_dir",
    )
    qdrant_api_key: SecretStr | None = Field(None, description="API key that the Qdrant server wants")

    # --- how collections are made on a Qdrant server; those already there stay as they are
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
    sweep_every_s: float = Field(
        6 * 3600.0, ge=0, description="how often images that nothing refers to any more are deleted; 0: never"
    )

    # --- files to import from
    import_roots: str = Field(
        "",
        description="what may be imported, comma-separated: local folders, and URL prefixes such as "
        "s3://bucket/exports or "
        "https://host/ (https:// is any public host); whoever may write to a collection may read there. Empty: nothing",
    )
    import_readers: Annotated[int, Field(gt=0, le=64)] = Field(
        1, description="units read at once; more help where images are read one by one from far away"
    )

    # --- bounds on a search
    undeclared_filter_documents: Positive = Field(
        READABLE_DOCUMENTS,
        description="documents whose metadata a filter may read where it names fields that are not declared; one that "
        "would read more is refused",
    )

    # --- bounds on what waits for the model
    max_batch_cost: Positive | None = Field(
        None,
        description="the cost of one forward, in image patches plus text tokens; unset: measured at start, to be fast "
        "and fit, and corrected while serving",
    )
    prepare_threads: Positive | None = Field(
        None, description="threads that decode and tokenise; unset: one per core within the CPU quota, 2 to 8"
    )

    # --- bounds on time
    request_timeout_s: Seconds = Field(30.0, description="one search or encode call, waiting included")
    wait_timeout_s: Seconds = Field(60.0, description="`?wait=true` before the answer is 202 and the job goes on")
    ready_max_age_s: Seconds = Field(30.0, description="age of the last good forward before /readyz runs one itself")
    stuck_after_s: Seconds = Field(
        120.0, description="a forward, or the decoding of one input, longer than this turns /livez"
    )
    grace_s: Seconds = Field(25.0, description="from SIGTERM to exit; Kubernetes kills after 30 by default")

    @model_validator(mode="after")
    def _shared_with_others(self) -> Self:
        """Check that a role whose data is shared with other processes keeps none of it in this machine's data
        folder."""
        for name in _SHARED if self.role.shares else ():
            if getattr(self, name) is None:
                raise ValueError(f"RET2_ROLE={self.role} works together with other processes: set RET2_{name.upper()}")
        url = self.database_url.get_secret_value() if self.database_url else _POSTGRESQL[0]
        if not url.startswith(_POSTGRESQL):
            raise ValueError("RET2_DATABASE_URL must begin with postgresql://")
        return self

    @model_validator(mode="after")
    def _a_body_fits(self) -> Self:
        http = self.http
        if http.max_bodies_bytes < http.max_body_bytes:
            raise ValueError(
                f"RET2_MAX_BODIES_BYTES is {http.max_bodies_bytes}, but one body may have {http.max_body_bytes}: "
                "RET2_MAX_BODY_BYTES"
            )
        return self

    @model_validator(mode="after")
    def _an_answer_fits(self) -> Self:
        for whole, part in (("max_answers_bytes", "max_answer_bytes"), ("max_held_hits", "max_search_hits")):
            if getattr(self, whole) < getattr(self, part):
                raise ValueError(
                    f"RET2_{whole.upper()} is {getattr(self, whole)}, but one answer may have {getattr(self, part)}: "
                    f"RET2_{part.upper()}"
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
        try:
            read_sources(self.models)
        except InvalidInput as error:
            raise ValueError(f"RET2_MODELS: {error.detail}") from error
        if self.role is ServerRole.ENCODER and self.encoder_url is not None:
            raise ValueError("RET2_ENCODER_URL is set, but this process is to be the encoder: RET2_ROLE=encoder")
        return self

    @model_validator(mode="after")
    def _qdrant_can_be_so(self) -> Self:
        self._part(CollectionSettings)
        if self.qdrant_url is not None:
            self.qdrant(self.qdrant_url)
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
    def encoder_urls(self) -> tuple[str, ...]:
        return tuple(self.encoder_url.split(",")) if self.encoder_url else ()

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
        return self._part(BlobSettings, url=self.blobs_url or f"file://{self.data_dir.expanduser() / 'blobs'}")

    @property
    def keep(self) -> KeepSettings:
        return self._part(KeepSettings)

    @cached_property
    def document_bounds(self) -> DocumentBounds:
        return self._part(DocumentBounds, limits=self.limits)

    @property
    def imports(self) -> ImportSettings:
        roots = tuple(root.strip() for root in self.import_roots.split(",") if root.strip())
        web = any(is_web(root) for root in roots)
        return self._part(
            ImportSettings, roots=roots, copies=self._copies if web else None, bounds=self.document_bounds
        )

    @property
    def _copies(self) -> CopySettings:
        fetch = self.fetch
        return self._part(
            CopySettings,
            folder=self.data_dir.expanduser() / "imports",
            allow_private=fetch.allow_private,
            max_redirects=fetch.max_redirects,
        )

    @cached_property
    def limits(self) -> Limits:
        return self._part(Limits)

    def encoder_client(self, url: str) -> EncoderClientSettings:
        key = self.encoder_api_key
        return self._part(EncoderClientSettings, url=url, api_key=key.get_secret_value() if key else None)

    def qdrant(self, url: str) -> ServerStoreSettings:
        key = self.qdrant_api_key
        return self._part(
            ServerStoreSettings,
            url=url,
            api_key=key.get_secret_value() if key else None,
            readable_documents=self.undeclared_filter_documents,
            collection=self._part(CollectionSettings),
        )

    @property
    def edge(self) -> EdgeSettings:
        return self._part(EdgeSettings)

    def queue(self, measured_batch_cost: int) -> QueueSettings:
        return self._part(QueueSettings, max_batch_cost=self.max_batch_cost or measured_batch_cost)

    @cached_property
    def http(self) -> HttpBounds:
        return self._part(HttpBounds)

    @cached_property
    def search(self) -> SearchBounds:
        return self._part(SearchBounds, timeout_s=self.request_timeout_s)

    @property
    def requests_s(self) -> int:
        """Half of the grace time: what requests have to end, before the worker and the batcher have the other half."""
        return max(1, int(self.grace_s / 2))

    @property
    def quotas(self) -> QuotaSettings:
        quotas = self._part(QuotaSettings)
        if self.api_keys_file is None:
            return quotas
        return replace(
            quotas,
            in_flight=quotas.in_flight or _half(self.http.max_requests_in_flight),
            event_streams=_half(self.http.max_event_streams),
            document_streams=_half(self.http.max_document_streams),
        )

    @cached_property
    def list_limits(self) -> dict[str, int]:
        """The longest list that a request body may have, by its field."""
        inputs = max(self.http.max_inputs_per_call, self.http.max_embeddings_per_call)
        return {
            "searches": self.http.max_searches_per_call,
            **dict.fromkeys(("inputs", "input", "texts", "images"), inputs),
        }

    @property
    def connections(self) -> ConnectionTimeouts:
        return self._part(ConnectionTimeouts)

    @property
    def prepares(self) -> int:
        # Two at least: a large image must not keep a short text from being tokenised.
        return self.prepare_threads or max(2, min(8, usable_cpus()))

    @property
    def fetch(self) -> FetchSettings:
        return self._part(FetchSettings, max_bytes=self.limits.max_image_bytes)

    @property
    def indexer(self) -> IndexerSettings:
        indexer = self._part(IndexerSettings, reindex_linger_s=self.request_timeout_s)
        return indexer if self.database_url is None else replace(indexer, poll_s=_POLL_SHARED_S)

    def _part(self, part: type[Part], **derived: Any) -> Part:
        """Build the settings of a part from those that it declares, and from what follows of others."""
        declared = {setting.field: getattr(self, setting.name) for setting in declared_settings(part)}
        return part(**declared, **derived)


def all_settings() -> dict[str, FieldInfo]:
    """Return every setting by its name: those of the process, then those of its parts."""
    of_parts = {declared.name for part in _PARTS for declared in declared_settings(part)}
    return dict(sorted(Settings.model_fields.items(), key=lambda item: item[0] in of_parts))


def _half(limit: int) -> int:
    """Return the share of one API key where nothing else is set, so that another key always has room."""
    return max(1, limit // 2)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
