"""The settings of a Qdrant server: its connection, and how its collections are created. Plain values: no client is
imported."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from indexer.store.base import Quantization
from indexer.store.indexes import READABLE_DOCUMENTS
from model.settings import setting

# With 100,000 vectors of 256 dimensions, recall@10 of queries in a random direction is 0.93 with it, and 0.63 with the
# server's own 100 (docs/sizing.md); near a document both are 1.00. A search takes 4.1 ms instead of 2.0.
HNSW_EF = 512
INDEXING_THRESHOLD_KB = 10_000  # Qdrant's default: segments over it get an HNSW index


@dataclass(frozen=True, slots=True)
class CollectionSettings:
    """The settings of new collections that name no options of their own; present ones stay as they are. None leaves it
    to the server."""

    shards: int | None = setting(None, "qdrant_shards", "shards of a collection; unset: one per node", gt=0)
    replication_factor: int | None = setting(
        None, "qdrant_replication_factor", "copies of each shard; unset: the server's own number, 1", gt=0
    )
    write_consistency_factor: int | None = setting(
        None,
        "qdrant_write_consistency_factor",
        "copies that have to have written before a write counts; at most the replication factor; unset: 1",
        gt=0,
    )
    vectors_on_disk: bool | None = setting(
        None,
        "qdrant_vectors_on_disk",
        "vectors in memory-mapped files instead of memory; unset: as the server has it, in memory",
    )
    payload_on_disk: bool | None = setting(
        None,
        "qdrant_payload_on_disk",
        "texts and metadata on disk instead of in memory; unset: as the server has it, on disk",
    )
    quantization: Quantization = setting(
        "none",
        "qdrant_quantization",
        "none, scalar, binary or product; candidates are rescored with the whole vectors",
    )
    quantized_in_memory: bool = setting(
        True, "qdrant_quantized_in_memory", "quantized vectors in memory, wherever the whole ones are"
    )
    oversampling: float = setting(
        2.0, "qdrant_oversampling", "candidates for each hit where there is quantization", ge=1, le=100
    )
    hnsw_m: int | None = setting(
        None, "qdrant_hnsw_m", "links of a node of the HNSW graph; unset: Qdrant's default", gt=0
    )
    hnsw_ef_construct: int | None = setting(
        None,
        "qdrant_hnsw_ef_construct",
        "neighbours looked at as the HNSW graph is built; unset: Qdrant's default",
        gt=0,
    )
    hnsw_ef: int = setting(
        HNSW_EF,
        "qdrant_hnsw_ef",
        "neighbours looked at by a search that names no `ef`; more are slower",
        ge=16,
        le=4096,
    )
    indexing_threshold_kb: int = setting(
        INDEXING_THRESHOLD_KB,
        "qdrant_indexing_threshold_kb",
        "segments with more vectors than this get an HNSW graph; smaller ones are searched exactly",
        gt=0,
    )

    def __post_init__(self) -> None:
        copies = self.replication_factor or 1
        if not 1 <= (self.write_consistency_factor or 1) <= copies:
            raise ValueError(
                f"write_consistency_factor is {self.write_consistency_factor}, "
                f"limit is 1 to the replication_factor, {copies} "
                "(RET2_QDRANT_WRITE_CONSISTENCY_FACTOR, RET2_QDRANT_REPLICATION_FACTOR)"
            )
        if self.oversampling < 1:
            raise ValueError(f"oversampling is {self.oversampling}, the least is 1")
        if self.indexing_threshold_kb < 1:  # 0 would never index
            raise ValueError(f"indexing_threshold_kb is {self.indexing_threshold_kb}, the least is 1")


@dataclass(frozen=True, slots=True)
class ServerStoreSettings:
    """An https URL means TLS for REST and gRPC alike."""

    # One address, or several of one cluster with commas between.
    url: str
    api_key: str | None = field(default=None, repr=False)
    api_key_file: Path | None = setting(
        None, "qdrant_api_key_file", "file with that key, read again whenever it changes; instead of the key itself"
    )
    client_certificate: Path | None = setting(
        None, "qdrant_client_certificate", "PEM file with the certificate to show to the Qdrant server"
    )
    client_key: Path | None = setting(
        None, "qdrant_client_key", "PEM file with the key of that certificate; unset: it is in the same file"
    )
    prefer_grpc: bool = setting(True, "qdrant_prefer_grpc", "speak gRPC with Qdrant, which is faster; else HTTP alone")
    grpc_port: int = setting(6334, "qdrant_grpc_port", "Qdrant's port for gRPC", ge=1, le=65535)
    # As the client has them.
    timeout_s: int = setting(10, "qdrant_timeout_s", "one search or other read of Qdrant; whole seconds", gt=0)
    write_timeout_s: int = setting(30, "qdrant_write_timeout_s", "one write of points to Qdrant; whole seconds", gt=0)
    definition_timeout_s: int = setting(
        60, "qdrant_definition_timeout_s", "making, changing or dropping a Qdrant collection; whole seconds", gt=0
    )
    upsert_points: int = 128  # of one call
    # They wait within `timeout_s`.
    connections: int = setting(100, "qdrant_connections", "calls of Qdrant at a time; others wait for a place", gt=0)
    collection_prefix: str = setting(
        "",
        "qdrant_prefix",
        "begins the name of each collection there, for several deployments on one server",
        pattern=r"^[a-z0-9_-]{0,63}$",
    )
    # Whose metadata a filter may read where no index answers it.
    readable_documents: int = READABLE_DOCUMENTS
    collection: CollectionSettings = field(default_factory=CollectionSettings)

    def __post_init__(self) -> None:
        if not 64 <= self.upsert_points <= 256:
            raise ValueError(f"upsert_points is {self.upsert_points}, limit is 64 to 256")
        if self.timeout_s < 1:
            raise ValueError(f"timeout_s is {self.timeout_s}, the least is 1")
        if self.api_key and self.api_key_file:
            raise ValueError("RET2_QDRANT_API_KEY and RET2_QDRANT_API_KEY_FILE are both set: keep one")
        for url in self.urls:
            if self.prefer_grpc and "//" in url and urlsplit(url).path.strip("/"):
                raise ValueError(
                    f"the Qdrant address {url} has a path, which gRPC cannot use: set "
                    "RET2_QDRANT_PREFER_GRPC=false, or give an address without a path"
                )

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses, one by one."""
        return tuple(url.strip() for url in self.url.split(",") if url.strip())

    def at(self, url: str) -> ServerStoreSettings:
        """Return these settings for one of the addresses."""
        return replace(self, url=url)
