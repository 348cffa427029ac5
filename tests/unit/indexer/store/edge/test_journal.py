"""The writes that a builder reads while they are written."""

from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as qe

from indexer.domain.documents import point_id
from indexer.domain.points import Point
from indexer.store.base import Layout
from indexer.store.bm25 import document_words
from indexer.store.edge.batch import pack
from indexer.store.edge.journal import Journal, JournalReader
from indexer.store.edge.ranking import vector_params
from indexer.store.payload import point_of
from indexer.store.vectors import words_name

LAYOUT = Layout(2)
A, B, C = (point_id(name) for name in "abc")


def point(document_id: str, metadata: dict[str, Any], text: str | None = None) -> Point:
    return Point(document_id, np.array([0, 1], np.float32), text, None, metadata, "")


def test_a_shard_that_reads_the_journal_has_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "shard").mkdir()
    shard = qe.EdgeShard.create(str(tmp_path / "shard"), qe.EdgeConfig(**vector_params(LAYOUT)))
    journal = Journal(tmp_path / "journal")
    reader = JournalReader(tmp_path / "journal")
    metadata = {"n": 2**63, "x": 0.1, "list": [None, True, "\u00e9"]}
    journal.upsert(pack([point("a", metadata, "red boat"), point("b", {})], LAYOUT), 2)
    brought = []
    for operation, points in reader.operations():
        shard.update(operation)
        brought.append(points)
    journal.upsert(pack([point("c", {})], LAYOUT), 1)
    journal.set_payloads({C: {"k": "new"}})
    journal.delete([B])
    assert reader.unread_bytes > 0
    for operation, points in reader.operations():
        shard.update(operation)
        brought.append(points)
    assert brought == [2, 1, None, None]
    assert reader.unread_bytes == 0
    records = {str(record.id): record for record in shard.retrieve([A, B, C], True, True)}
    assert records.keys() == {A, C}
    assert point_of(records[A].payload).metadata == metadata
    assert records[A].vector[words_name("simple")].indices == list(document_words("red boat", "simple").ids)
    assert records[C].payload["k"] == "new"
    reader.close()
    journal.close()
    shard.close()


def test_an_entry_that_is_half_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.delete([A, B, C])
    whole = (tmp_path / "journal").read_bytes()
    (tmp_path / "half").write_bytes(whole[:20])
    reader = JournalReader(tmp_path / "half")
    assert list(reader.operations()) == []
    with (tmp_path / "half").open("ab") as file:
        file.write(whole[20:])
    assert len(list(reader.operations())) == 1
    reader.close()
    journal.close()
