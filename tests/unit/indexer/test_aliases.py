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
    opened = Ledger(url)
    for name in ("a", "b"):
        opened.create_collection(collection(name))
    yield opened
    opened.close()


def collection(name: str, **settings: Any) -> Collection:
    return Collection(name, "f", "m", 8, 1.0, None, **settings)


def test_settings_come_back(ledger: Ledger) -> None:
    made = collection("c", limit=7, indexes={"ü.x": FieldType.GEO})
    ledger.create_collection(made)
    assert ledger.collection("c") == ledger.resolve("c") == made
    assert ledger.collections() == [ledger.collection("a"), ledger.collection("b"), made]


def test_an_alias_is_made_switched_and_dropped(ledger: Ledger) -> None:
    assert ledger.set_alias("live", "a")
    assert ledger.set_alias("other", "a")
    assert ledger.resolve("live").name == "a"
    assert ledger.set_alias("live", "b") is False
    assert ledger.resolve("live").name == "b"
    assert ledger.aliases() == {"live": "b", "other": "a"}
    assert ledger.aliases("a") == {"other": "a"}
    ledger.drop_alias("live")
    for call in (
        lambda: ledger.resolve("live"),
        lambda: ledger.drop_alias("live"),
        lambda: ledger.set_alias("x", "none"),
    ):
        with pytest.raises(NotFound):
            call()
    assert ledger.aliases() == {"other": "a"}


def test_one_name_is_one_thing(ledger: Ledger) -> None:
    ledger.set_alias("live", "a")
    with pytest.raises(Conflict, match="there is a collection 'b'"):
        ledger.set_alias("b", "a")
    with pytest.raises(Conflict, match="'live' is an alias"):
        ledger.create_collection(collection("live"))
    with pytest.raises(NotFound):
        ledger.collection("live")


def test_an_alias_goes_with_its_collection(ledger: Ledger) -> None:
    ledger.set_alias("live", "a")
    ledger.drop_collection("a")
    assert ledger.aliases() == {}
    ledger.create_collection(collection("live"))


def test_a_change_that_raises_changes_nothing(ledger: Ledger) -> None:
    def refuse(_there: Collection) -> Collection:
        raise Conflict("no")

    with pytest.raises(Conflict):
        ledger.change_collection("a", refuse)
    with pytest.raises(NotFound):
        ledger.change_collection("none", lambda there: there)
    assert ledger.collection("a") == collection("a")


def test_counts(ledger: Ledger) -> None:
    def post(name: str, *ids: str) -> None:
        job, _ = ledger.open_job(name, JobKind.DOCUMENTS)
        ledger.append(job.id, [(position, Document(one, one)) for position, one in enumerate(ids)])
        ledger.commit_job(job.id)

    def settle(*failed: str) -> None:
        (batch,) = ledger.claim(1, 60.0)
        outcomes = [
            Outcome(position, one.id, Status.FAILED if one.id in failed else Status.INDEXED, "bad", "it is")
            for position, one in batch.items
        ]
        assert ledger.finish([(batch, outcomes)])

    post("a", "x", "y", "z")
    post("b", "w")
    assert (ledger.counts("a"), ledger.counts("b")) == (Counts(3, 0), Counts(1, 0))
    settle("x", "y")
    assert (ledger.counts("a"), ledger.counts("b")) == (Counts(0, 2), Counts(1, 0))
    settle("w")
    post("a", "x", "z")
    assert ledger.counts("a") == Counts(2, 2)
    settle("z")  # x is well now
    assert (ledger.counts("a"), ledger.counts("b")) == (Counts(0, 2), Counts(0, 1))
