"""What a collection on a Qdrant server is made with."""

from __future__ import annotations

from typing import Any

from qdrant_client import models as q

from indexer.store.base import Layout
from indexer.store.server.ranking import quantization_of, vector_params, vectors_on_disk
from indexer.store.server.settings import CollectionSettings


def creation(layout: Layout, settings: CollectionSettings) -> dict[str, Any]:
    """Return the arguments of `create_collection`."""
    return {
        **vector_params(layout, settings.vectors_on_disk, _quantization(settings)),
        "shard_number": settings.shards,
        "replication_factor": settings.replication_factor,
        "write_consistency_factor": settings.write_consistency_factor,
        "on_disk_payload": settings.payload_on_disk,
        "hnsw_config": q.HnswConfigDiff(m=settings.hnsw_m, ef_construct=settings.hnsw_ef_construct),
        "optimizers_config": q.OptimizersConfigDiff(indexing_threshold=settings.indexing_threshold_kb),
    }


def creation_like(layout: Layout, config: q.CollectionConfig) -> dict[str, Any]:
    """Return the arguments that keep a new collection as another one is kept now, whoever changed that one."""
    params, strict = config.params, config.strict_mode_config
    return {
        **vector_params(layout, vectors_on_disk(params) or None, quantization_of(config)),
        "shard_number": params.shard_number,
        "replication_factor": params.replication_factor,
        "write_consistency_factor": params.write_consistency_factor,
        "on_disk_payload": params.on_disk_payload,
        "hnsw_config": q.HnswConfigDiff(**config.hnsw_config.model_dump()),
        "strict_mode_config": None if strict is None else q.StrictModeConfig(**strict.model_dump()),
    }


def _quantization(settings: CollectionSettings) -> q.QuantizationConfig | None:
    in_memory = settings.quantized_in_memory
    match settings.quantization:
        case "scalar":
            scalar = q.ScalarQuantizationConfig(type=q.ScalarType.INT8, quantile=0.99, always_ram=in_memory)
            return q.ScalarQuantization(scalar=scalar)
        case "binary":
            return q.BinaryQuantization(binary=q.BinaryQuantizationConfig(always_ram=in_memory))
        case "product":
            product = q.ProductQuantizationConfig(compression=q.CompressionRatio.X16, always_ram=in_memory)
            return q.ProductQuantization(product=product)
        case "none":
            return None
