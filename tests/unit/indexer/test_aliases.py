"""Aliases, settings and counts in the ledger, with SQLite and PostgreSQL; and the way there from an older schema."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres_server import postgres, postgres_process, postgres_url  # noqa: F401 - fixtures

from indexer.domain.collections import Collection, Counts
from indexer.domain.documents import Document
from indexer.domain.jobs import JobKind, Outcome, Status
from indexer.filters import FieldType
from indexer.ledger.ledger import Ledger
from model.errors import Conflict, NotFound


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    url = f"sqlite:///{tmp_path / 'l.sqlite'}" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    opened = Ledger.open(url)
    for name in ("a", "b"):
        opened.collections.create.blocking(collection(name))
    yield opened
    opened.close()


def collection(name: str, **settings: Any) -> Collection:
    return Collection(name, "f", "m", 8, 1.0, None, **settings)


def test_settings_come_back(ledger: Ledger) -> None:
    made = collection("c", limit=7, indexes={"ü.x": FieldType.GEO})
    ledger.collections.create.blocking(made)
    assert ledger.collections.find.blocking("c") == ledger.collections.resolve.blocking("c") == made
    assert ledger.collections.all.blocking() == [
        ledger.collections.find.blocking("a"),
        ledger.collections.find.blocking("b"),
        made,
    ]


def test_an_alias_is_made_switched_and_dropped(ledger: Ledger) -> None:
    assert ledger.aliases.set.blocking("live", "a")
    assert ledger.aliases.set.blocking("other", "a")
    assert ledger.collections.resolve.blocking("live").name == "a"
    assert ledger.aliases.set.blocking("live", "b") is False
    assert ledger.collections.resolve.blocking("live").name == "b"
    assert ledger.aliases.all.blocking() == {"live": "b", "other": "a"}
    assert ledger.aliases.all.blocking("a") == {"other": "a"}
    ledger.aliases.drop.blocking("live")
    for call in (
        lambda: ledger.collections.resolve.blocking("live"),
        lambda: ledger.aliases.drop.blocking("live"),
        lambda: ledger.aliases.set.blocking("x", "none"),
    ):
        with pytest.raises(NotFound):
            call()
    assert ledger.aliases.all.blocking() == {"other": "a"}


def test_one_name_is_one_thing(ledger: Ledger) -> None:
    ledger.aliases.set.blocking("live", "a")
    with pytest.raises(Conflict, match="there is a collection 'b'"):
        ledger.aliases.set.blocking("b", "a")
    with pytest.raises(Conflict, match="'live' is an alias"):
        ledger.collections.create.blocking(collection("live"))
    with pytest.raises(NotFound):
        ledger.collections.find.blocking("live")


def test_an_alias_goes_with_its_collection(ledger: Ledger) -> None:
    ledger.aliases.set.blocking("live", "a")
    ledger.collections.drop.blocking("a")
    assert ledger.aliases.all.blocking() == {}
    ledger.collections.create.blocking(collection("live"))


def test_a_change_that_raises_changes_nothing(ledger: Ledger) -> None:
    def refuse(_there: Collection) -> Collection:
        raise Conflict("no")

    with pytest.raises(Conflict):
        ledger.collections.change.blocking("a", refuse)
    with pytest.raises(NotFound):
        ledger.collections.change.blocking("none", lambda there: there)
    assert ledger.collections.find.blocking("a") == collection("a")


def test_counts(ledger: Ledger) -> None:
    def post(name: str, *ids: str) -> None:
        job, _ = ledger.submissions.open.blocking(name, JobKind.DOCUMENTS)
        ledger.submissions.append.blocking(job.id, [(position, Document(one, one)) for position, one in enumerate(ids)])
        ledger.submissions.commit.blocking(job.id)

    def settle(*failed: str) -> None:
        (batch,) = ledger.batches.claim.blocking(1, 60.0)
        outcomes = [
            Outcome(position, one.id, Status.FAILED if one.id in failed else Status.INDEXED, "bad", "it is")
            for position, one in batch.items
        ]
        assert ledger.batches.finish.blocking([(batch, outcomes)])

    post("a", "x", "y", "z")
    post("b", "w")
    assert ledger.collections.counts.blocking() == {"a": Counts(3, 0), "b": Counts(1, 0)}
    settle("x", "y")
    assert ledger.collections.counts.blocking() == {"a": Counts(0, 2), "b": Counts(1, 0)}
    settle("w")
    post("a", "x", "z")
    assert ledger.collections.counts.blocking("a") == {"a": Counts(2, 2)}
    settle("z")  # x is well now
    assert ledger.collections.counts.blocking() == {"a": Counts(0, 2), "b": Counts(0, 1)}
