"""The ledger's benchmark does what it times: everything accepted is claimed and finished, in batches of one call."""

from pathlib import Path

from benchmarks import ledger
from benchmarks.ledger import BATCH, measure
from indexer.ledger.ledger import Ledger


def test_everything_is_accepted_and_done(tmp_path: Path) -> None:
    accepting, working = measure(f"sqlite:///{tmp_path / 'ledger'}", 11 * BATCH + 5, (1,))
    assert (accepting.what, working.what) == ("accept", "claim and finish")
    assert accepting.documents == working.documents == 11 * BATCH + 5
    assert str(working).startswith("| claim and finish | 1 | 709 |")


def test_a_claim_is_one_call(tmp_path: Path) -> None:
    opened = Ledger.open(f"sqlite:///{tmp_path / 'ledger'}")
    opened.collections.create.blocking(ledger.Collection("bench", "f", "m", 8, 1.0))
    ledger.accept(opened, 3 * BATCH)
    assert [len(batch.items) for batch in opened.batches.claim.blocking(BATCH, 60.0, max_documents=BATCH)] == [BATCH]
    opened.close()
