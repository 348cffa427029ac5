"""What a collection on a Qdrant server is made with, and what is changed of one that is there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qdrant_client import models as q

from indexer.store.base import KeptOnServer, Layout, Quantization, ServerOptions
from indexer.store.server.ranking import quantization_of, vector_params, vectors_on_disk
from indexer.store.server.settings import CollectionSettings
from indexer.store.vectors import DENSE
from model.errors import InvalidInput

# What Qdrant cannot change on a collection that is there, or does not carry out: new copies of shards are sent from
# node to node for as long as that takes (docs/qdrant-faults.md).
_FIXED = ("shards", "replication_factor")


def creation(layout: Layout, settings: CollectionSettings) -> dict[str, Any]:
    """Return the arguments of `create_collection`."""
    return {
        **vector_params(
            layout, settings.vectors_on_disk, _quantized(settings.quantization, settings.quantized_in_memory)
        ),
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


def with_options(settings: CollectionSettings, options: ServerOptions) -> CollectionSettings:
    """Return the settings of a new collection that has options of its own. Raises `InvalidInput`."""
    try:
        return replace(settings, **options.chosen())
    except ValueError as error:
        raise InvalidInput(str(error), field="server") from error


def changes(
    config: q.CollectionConfig, keeping: KeptOnServer, options: ServerOptions, quantized_in_memory: bool
) -> dict[str, Any]:
    """Return the arguments of `update_collection` for options that differ from how it is kept. Raises `InvalidInput`
    for one that cannot be changed."""
    changed: dict[str, Any] = {}
    quorum, copies = options.write_consistency_factor, keeping.replication_factor
    for field in _FIXED:
        if (requested := getattr(options, field)) is not None:
            raise InvalidInput(
                f"server.{field} is {requested}, and the collection was made with {getattr(keeping, field)}, which "
                "stays: docs/qdrant-faults.md has the steps that add copies and nodes",
                field=f"server.{field}",
                value=requested,
                limit=getattr(keeping, field),
            )
    if quorum is not None and quorum > copies:
        raise InvalidInput(
            f"server.write_consistency_factor is {quorum}, limit is the collection's replication_factor, {copies}",
            field="server.write_consistency_factor",
            value=quorum,
            limit=copies,
        )
    if quorum is not None or options.payload_on_disk is not None:
        changed["collection_params"] = q.CollectionParamsDiff(
            write_consistency_factor=quorum, on_disk_payload=options.payload_on_disk
        )
    if options.hnsw_m is not None or options.hnsw_ef_construct is not None:
        changed["hnsw_config"] = q.HnswConfigDiff(m=options.hnsw_m, ef_construct=options.hnsw_ef_construct)
    return changed | _changed_vectors(config, options, quantized_in_memory)


def _changed_vectors(config: q.CollectionConfig, options: ServerOptions, in_memory: bool) -> dict[str, Any]:
    quantized: Any = None
    if options.quantization is not None:
        quantized = _quantized(options.quantization, in_memory) or q.Disabled.DISABLED
    changed: dict[str, Any] = {}
    of_vectors = q.VectorParamsDiff(on_disk=options.vectors_on_disk)
    # With latents the embeddings have a name, and their quantization is their own.
    named = isinstance(config.params.vectors, dict)
    if quantized is not None and named:
        of_vectors.quantization_config = quantized
    elif quantized is not None:
        changed["quantization_config"] = quantized
    if options.vectors_on_disk is not None or of_vectors.quantization_config is not None:
        changed["vectors_config"] = {DENSE if named else "": of_vectors}
    return changed


def _quantized(quantization: Quantization, in_memory: bool) -> q.QuantizationConfig | None:
    match quantization:
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
