"""A ledger that an older version wrote, on both databases: its work goes on, and its schema is then that of a new one."""

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from ledger_steps import Clock, check_counts, ids, settle, settle_all

from indexer.ledger import Ledger
from indexer.ledger.migrations import NEWEST
from indexer.records import JobState, Status
from model.errors import Conflict

GOLDEN = Path(__file__).parents[2] / "golden"
OpenLedger = Callable[..., Ledger]


def job_id(number: int) -> str:
    return f"{number:032}"


@pytest.fixture
def first(url: str) -> str:
    """The URL of a ledger as schema 1 left it."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.executescript((GOLDEN / "ledger-v1.sqlite.sql").read_text())
    else:
        engine = sa.create_engine(url.replace("postgresql", "postgresql+psycopg", 1))
        with engine.begin() as connection:
            connection.exec_driver_sql((GOLDEN / "ledger-v1.postgresql.sql").read_text())
        engine.dispose()
    return url


def test_what_it_knew_it_still_knows(first: str, open_ledger: OpenLedger) -> None:
    ledger = open_ledger()
    assert ledger.collection("flags").instruction == "find"
    done = ledger.job(job_id(1))
    assert (done.state, done.indexed, done.skipped, done.failed) == (JobState.SUCCEEDED_WITH_FAILURES, 1, 1, 1)
    assert (done.finished_at, done.cancelled, done.retry_of) == (done.updated_at, 0, None)
    assert [one.document_id for one in ledger.failures(done.id)] == ["b"]
    check_counts(ledger, [job_id(number) for number in (1, 4, 7, 8)])
    assert ledger.open_job("flags", done.kind, idempotency_key="first") == (done, False)
    with pytest.raises(Conflict, match="another body"):
        ledger.check_body(done.id, "other")


def test_its_work_goes_on_in_order(first: str, open_ledger: OpenLedger, clock: Clock) -> None:
    clock.now = 1_100.0  # every lease and pause of then is over
    ledger = open_ledger()
    seen = []
    while batches := ledger.claim(100, 60.0):
        for batch in batches:
            seen.append((ids(batch), batch.crashes))
            assert settle(ledger, batch)
    assert seen == [("de", 0), ("f", 1), ("f", 0), ("da", 0)]
    assert [ledger.job(job_id(number)).state for number in (4, 7, 8)] == [JobState.SUCCEEDED] * 3


def test_new_jobs_come_after_those_of_then(first: str, open_ledger: OpenLedger) -> None:
    ledger = open_ledger()
    accepted = ledger.commit_job(job_id(9))
    assert [job.id for job in ledger.jobs()] == [accepted.id, job_id(8), job_id(7), job_id(4), job_id(1)]


def test_what_failed_then_was_not_kept_and_what_fails_now_is(first: str, open_ledger: OpenLedger, clock: Clock) -> None:
    ledger = open_ledger()
    with pytest.raises(Conflict, match="nothing to try again"):
        ledger.retry_job(job_id(1))
    clock.now = 1_100.0
    settle_all(ledger, Status.FAILED)
    assert ledger.retry_job(job_id(8))[0].accepted == 2


def test_the_schema_is_that_of_a_new_one(
    first: str, open_ledger: OpenLedger, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    new_url = f"sqlite:///{tmp_path / 'new'}"
    if not first.startswith("sqlite"):
        new_url = request.getfixturevalue("postgres").new_database()
    new = Ledger(new_url)
    try:
        assert shape(open_ledger()) == shape(new)
    finally:
        new.close()


def shape(ledger: Ledger) -> dict[str, Any]:
    """Columns, keys and indexes of every table, without names that no statement uses."""
    found = sa.inspect(ledger._engine)
    return {
        table: {
            "columns": {c["name"]: (str(c["type"]), c["nullable"]) for c in found.get_columns(table)},
            "primary": found.get_pk_constraint(table)["constrained_columns"],
            "foreign": [
                (key["constrained_columns"], key["referred_table"], key["options"])
                for key in found.get_foreign_keys(table)
            ],
            "unique": sorted(sorted(key["column_names"]) for key in found.get_unique_constraints(table)),
            "indexes": sorted((one["name"] or "", one["column_names"]) for one in found.get_indexes(table)),
        }
        for table in found.get_table_names()
        if table != "ledger_schema"
    }


def test_of_many_who_start_at_once_one_migrates(first: str, open_ledger: OpenLedger) -> None:
    with ThreadPoolExecutor(4) as threads:
        opened = list(threads.map(lambda _: open_ledger(), range(4)))
    assert {ledger.job(job_id(1)).failed for ledger in opened} == {1}


def test_of_many_who_make_a_new_one_at_once_one_does(url: str, open_ledger: OpenLedger) -> None:
    with ThreadPoolExecutor(4) as threads:
        opened = list(threads.map(lambda _: open_ledger(), range(4)))
    assert [ledger.jobs() for ledger in opened] == [[]] * 4


def test_a_newer_schema_is_refused_and_left_as_it_is(ledger: Ledger, open_ledger: OpenLedger, url: str) -> None:
    statement = "PRAGMA user_version = 99" if url.startswith("sqlite") else "UPDATE ledger_schema SET version = 99"
    with ledger._engine.begin() as connection:
        connection.exec_driver_sql(statement)
    for _ in range(2):
        with pytest.raises(Conflict, match=f"has schema 99, this version of ret2 reads up to {NEWEST}") as refused:
            open_ledger()
        assert "not-for-any-log" not in refused.value.detail
