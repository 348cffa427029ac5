"""Equal scores, more than a page query_limits at: every page is a window into one ranking."""

from pathlib import Path

import pytest
import qdrant_edge as qe

from indexer.domain.documents import point_id
from indexer.store import ties
from indexer.store.base import Layout
from indexer.store.edge.filters import ranked
from indexer.store.edge.ranking import vector_params
from indexer.store.ties import in_order, is_complete, query_limits


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ties, "_FEW", 10)
    monkeypatch.setattr(ties, "MANY", 60)


@pytest.mark.parametrize("n", [5, 20, 55, 300])
def test_pages_of_equal_scores_are_windows_into_one_ranking(few: None, tmp_path: Path, n: int) -> None:
    shard = qe.EdgeShard.create(str(tmp_path), qe.EdgeConfig(**vector_params(Layout(2))))
    ids = [point_id(f"d{i}") for i in range(n + 3)]
    written = [qe.Point(key, [1.0, 0.0] if i < n else [1.0, 0.1], {}) for i, key in enumerate(ids)]
    shard.update(qe.UpdateOperation.upsert_points(written))
    whole = [key for key, _ in ranked(shard, 50, queries=[qe.Query.Nearest([1.0, 0.1])])]
    assert set(whole[:3]) == set(ids[n:])
    assert whole[3:] == sorted(whole[3:])
    assert n > 60 or whole == [*sorted(ids[n:]), *sorted(ids[:n])][:50]
    for wanted in range(50):
        assert [key for key, _ in ranked(shard, wanted, queries=[qe.Query.Nearest([1.0, 0.1])])] == whole[:wanted]
    shard.close()


def test_how_far_is_looked() -> None:
    assert query_limits(10) == (11, 1_010, 12_000)
    assert query_limits(11_500) == (11_501, 12_000)
    assert query_limits(11_999) == (12_000,)
    assert query_limits(30_000) == (30_001,)
    assert is_complete([3.0, 2.0], 2, 3)  # there are no more
    assert is_complete([3.0, 2.0, 1.0], 2, 3)
    assert not is_complete([3.0, 1.0, 1.0], 2, 3)
    assert in_order([("b", 1.0), ("a", 1.0), ("c", 2.0)], 2) == [("c", 2.0), ("a", 1.0)]
