"""How a Qdrant server is reached, and how its collections are made. Plain values: no client is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

INDEXING_THRESHOLD_KB = 10_000  # Qdrant's default: segments over it get an HNSW index

Quantization = Literal["none", "scalar", "binary", "product"]


@dataclass(frozen=True, slots=True)
class CollectionSettings:
    """How new collections are made; those already there stay as they are. None leaves it to the server."""

    shards: int | None = None
    replication_factor: int = 1
    write_consistency_factor: int = 1  # replicas that have to have written before a write is acknowledged
    vectors_on_disk: bool = False
    payload_on_disk: bool = True
    quantization: Quantization = "none"
    quantized_in_memory: bool = True
    oversampling: float = 2.0  # with quantization: candidates a hit, rescored with the whole vectors
    hnsw_m: int | None = None
    hnsw_ef_construct: int | None = None
    hnsw_ef: int | None = None  # of a search
    indexing_threshold_kb: int = INDEXING_THRESHOLD_KB

    def __post_init__(self) -> None:
        if not 1 <= self.write_consistency_factor <= self.replication_factor:
            raise ValueError(
                f"write_consistency_factor is {self.write_consistency_factor}, "
                f"limit is 1 to the replication_factor, {self.replication_factor}"
            )
        if self.oversampling < 1:
            raise ValueError(f"oversampling is {self.oversampling}, the least is 1")
        if self.indexing_threshold_kb < 1:  # 0 would never index
            raise ValueError(f"indexing_threshold_kb is {self.indexing_threshold_kb}, the least is 1")


@dataclass(frozen=True, slots=True)
class ServerStoreSettings:
    """An https URL means TLS for REST and gRPC alike."""

    url: str
    api_key: str | None = field(default=None, repr=False)
    prefer_grpc: bool = True
    grpc_port: int = 6334
    timeout_s: int = 10  # of a call; whole seconds, as the client has them
    upsert_points: int = 128  # of one call
    connections: int = 100  # calls at a time; others wait for a place within `timeout_s`
    collection_prefix: str = ""  # for several deployments on one server
    collection: CollectionSettings = field(default_factory=CollectionSettings)

    def __post_init__(self) -> None:
        if not 64 <= self.upsert_points <= 256:
            raise ValueError(f"upsert_points is {self.upsert_points}, limit is 64 to 256")
        if self.timeout_s < 1:
            raise ValueError(f"timeout_s is {self.timeout_s}, the least is 1")
