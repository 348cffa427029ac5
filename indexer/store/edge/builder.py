"""The process that builds a collection's next shard while the present one is searched and written to.

`edge.build` starts it as `python -m indexer.store.edge.builder FD PARENT_PID ORDER`. It copies the shard in use, gives
back the space of deleted points, makes payload indexes and a graph, and then writes what was written meanwhile. Edge's
calls for that block their process for minutes: this one, at the lowest priority. It dies with its parent, and says
over the pipe what it has done. No torch.
"""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import qdrant_edge as qe

from indexer.durability import sync_tree
from indexer.store.edge import child, journal
from indexer.store.edge.build import COPIED, FINISH, FINISHED, GONE, READY, REMOVE, REMOVED, Order
from indexer.store.edge.filters import INDEX_KINDS, field_type
from indexer.store.edge.graph import GRAPH, NEVER_KB, hnsw_config, measured_graph
from indexer.store.edge.journal import JournalReader
from indexer.store.edge.ranking import has_parts, vector_params
from indexer.store.edge.snapshot import copy
from indexer.store.payload import quoted

_LOWEST_PRIORITY = 19
# So little is left to write that writers need not wait long for it: some hundred points.
_ALMOST_BYTES = 500_000
_PAUSE_S = 0.05


def main() -> None:
    fd, parent_pid, order = int(sys.argv[1]), int(sys.argv[2]), Order.load(sys.argv[3])
    child.live_with_parent(parent_pid)
    with Connection(fd) as pipe:
        try:
            _build(pipe, order)
        except (EOFError, BrokenPipeError):
            return
        except Exception as error:
            pipe.send(f"{type(error).__name__}: {error}"[:300])
            raise


def _build(pipe: Connection[Any, Any], order: Order) -> None:
    path = Path(order.path)
    # Writers wait for the copy, so it is not made at the lowest priority.
    copy(Path(order.used), path)
    pipe.send(COPIED)
    _yield_to_others()
    shard = qe.EdgeShard.load(str(path), _config(order, has_parts(path)))
    _make_indexes(shard, order)
    shard.optimize()
    for name in (GRAPH, REMOVED):
        (path / name).unlink(missing_ok=True)
    if order.graph:
        measured_graph(shard, order.layout, order.quantization != "none", parts=has_parts(path)).write(path)
    _flush(shard, path)
    writes = JournalReader(path.with_name(journal.NAME))
    _catch_up(pipe, shard, path, writes)
    shard.close()
    writes.close()
    sync_tree(path)
    pipe.send(FINISHED)
    if pipe.recv() == REMOVE:
        shutil.rmtree(path.with_name(f"{GONE}{os.getpid()}"), ignore_errors=True)


def _yield_to_others() -> None:
    """Compute only while nobody else would. Linux then takes this core for an idle one, and does not make the processes
    that search and write share another."""
    os.nice(_LOWEST_PRIORITY)
    if sys.platform == "linux":
        # Some containers have no such policy, or forbid it.
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _config(order: Order, parts: bool) -> qe.EdgeConfig:
    """Return what makes `optimize` write one segment of all points that are there."""
    optimizers = qe.EdgeOptimizersConfig(
        deleted_threshold=1e-6,
        vacuum_min_vector_number=1,
        default_segment_number=1,
        max_segment_size=NEVER_KB,
        indexing_threshold=1 if order.graph else NEVER_KB,
    )
    return qe.EdgeConfig(
        **vector_params(order.layout, order.quantization, parts=parts),
        hnsw_config=hnsw_config(order.threads, order.full_scan_kb),
        optimizers=optimizers,
        max_search_threads=1,
    )


def _make_indexes(shard: qe.EdgeShard, order: Order) -> None:
    present = {quoted(path): field_type(index.data_type) for path, index in shard.info().payload_schema.items()}
    for path, kind in order.indexes.items():
        if present.get(path) == kind:
            continue
        if path in present:
            shard.update(qe.UpdateOperation.delete_field_index(path))
        shard.update(qe.UpdateOperation.create_field_index(path, INDEX_KINDS[kind]))


def _catch_up(pipe: Connection[Any, Any], shard: qe.EdgeShard, path: Path, writes: JournalReader) -> None:
    """Write what was written since the copy, until the other end says that no more comes."""
    ready = flushed = False
    while True:
        last = ready and pipe.poll(_PAUSE_S) and pipe.recv() == FINISH
        _replay(shard, path, writes)
        if last:
            return
        if ready or writes.unread_bytes > _ALMOST_BYTES:
            continue
        if flushed:
            pipe.send(READY)
            ready = True
        else:
            _flush(shard, path)
            flushed = True


def _replay(shard: qe.EdgeShard, path: Path, writes: JournalReader) -> None:
    for operation, points in writes.operations():
        before = shard.info().points_count
        shard.update(operation)
        if points is None or shard.info().points_count < before + points:
            (path / REMOVED).touch()


def _flush(shard: qe.EdgeShard, path: Path) -> None:
    """Bring to disk what there is, while nobody waits for it."""
    shard.flush()
    sync_tree(path)


if __name__ == "__main__":
    main()
