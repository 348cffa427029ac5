"""The cached description of a collection on a Qdrant server, and what is said of one that is not ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qdrant_client import models as q

from indexer.filters import FieldType
from indexer.store.base import KeptOnServer, Layout
from indexer.store.server.filters import KINDS
from indexer.store.server.ranking import quantization_name, vectors_on_disk
from indexer.store.server.strict import StrictLimits
from model.errors import Conflict


@dataclass(slots=True)
class Description:
    """The cached description of a collection, which saves a call for each operation."""

    layout: Layout
    # By path.
    indexed: Mapping[str, FieldType]
    # Those that are declared and not shown yet, because they are being built.
    coming: Mapping[str, FieldType]
    # Whose metadata a filter may read where no index answers it.
    readable_documents: int
    documents: int
    strict: StrictLimits
    # As the collection has it on the server, whose own API may have changed it.
    copies: int
    quantized: bool
    kept: KeptOnServer
    # Monotonic seconds.
    until: float

    @property
    def ordering(self) -> q.WriteOrdering | None:
        """Without an order two processes that write one document through two nodes may leave its copies different for
        good."""
        return q.WriteOrdering.MEDIUM if self.copies > 1 else None


def kind_of(index: q.PayloadIndexInfo, name: str, path: str) -> FieldType:
    """Raise `Conflict` for a type of index that this service does not make: it may answer filters otherwise."""
    kind = KINDS.get(index.data_type)
    if kind is None:
        raise Conflict(
            f"another application gave collection {name} an index of type {index.data_type.value} on {path}, which may "
            "answer filters wrongly: remove that index from the Qdrant server",
            field="collection",
            value=name,
        )
    return kind


def describe_foreign(info: q.CollectionInfo) -> str:
    vectors = info.config.params.vectors
    named = vectors if isinstance(vectors, dict) else {"": vectors}
    sizes = [f"{params.size} dimensions, {params.distance.value}" for params in named.values() if params is not None]
    return f"{info.points_count or 0} points of {' and '.join(sizes) or 'no vectors'}"


def kept(info: q.CollectionInfo, hnsw_ef: int) -> KeptOnServer:
    config, params = info.config, info.config.params
    strict = config.strict_mode_config
    return KeptOnServer(
        status=info.status.value,
        shards=params.shard_number or 1,
        replication_factor=params.replication_factor or 1,
        write_consistency_factor=params.write_consistency_factor or 1,
        quantization=quantization_name(config),
        vectors_on_disk=vectors_on_disk(params),
        payload_on_disk=bool(params.on_disk_payload),
        hnsw_m=config.hnsw_config.m,
        hnsw_ef_construct=config.hnsw_config.ef_construct,
        hnsw_ef=hnsw_ef,
        strict_mode=strict is not None and bool(strict.enabled),
    )
