"""A ledger that an older version wrote, on both databases: its work goes on, and its schema is then that of a new one; and the way back."""

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from ledger_steps import Clock, accept, check_counts, ids, settle, settle_all

from indexer.domain.jobs import JobKind, JobState, Status
from indexer.ledger.database import Database
from indexer.ledger.ledger import Ledger
from indexer.ledger.migrations import BACK, MIGRATIONS, NEWEST
from indexer.ledger.schema import jobs, steps
from model.errors import Conflict, InvalidInput
from model.types import ModelInfo

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
    assert ledger.collections.find.blocking("flags").instruction == "find"
    done = ledger.jobs.find.blocking(job_id(1))
    assert (done.state, done.indexed, done.skipped, done.failed) == (JobState.SUCCEEDED_WITH_FAILURES, 1, 1, 1)
    assert (done.finished_at, done.cancelled, done.retry_of) == (done.updated_at, 0, None)
    assert [one.document_id for one in ledger.jobs.failures.blocking(done.id)] == ["b"]
    check_counts(ledger, [job_id(number) for number in (1, 4, 7, 8)])
    assert ledger.submissions.open.blocking("flags", done.kind, idempotency_key="first") == (done, False)
    with pytest.raises(Conflict, match="another body"):
        ledger.submissions.check_body.blocking(done.id, "other")


def test_its_work_goes_on_in_order(first: str, open_ledger: OpenLedger, clock: Clock) -> None:
    clock.now = 1_100.0  # every lease and pause of then is over
    ledger = open_ledger()
    seen = []
    while batches := ledger.batches.claim.blocking(100, 60.0):
        for batch in batches:
            seen.append((ids(batch), batch.crashes))
            assert settle(ledger, batch)
    assert seen == [("de", 0), ("f", 1), ("f", 0), ("da", 0)]
    assert [ledger.jobs.find.blocking(job_id(number)).state for number in (4, 7, 8)] == [JobState.SUCCEEDED] * 3


def test_new_jobs_come_after_those_of_then(first: str, open_ledger: OpenLedger) -> None:
    ledger = open_ledger()
    accepted = ledger.submissions.commit.blocking(job_id(9))
    assert [job.id for job in ledger.jobs.newest.blocking()] == [
        accepted.id,
        job_id(8),
        job_id(7),
        job_id(4),
        job_id(1),
    ]


def test_what_failed_then_was_not_kept_and_what_fails_now_is(first: str, open_ledger: OpenLedger, clock: Clock) -> None:
    ledger = open_ledger()
    with pytest.raises(Conflict, match="nothing to try again"):
        ledger.retries.start.blocking(job_id(1))
    clock.now = 1_100.0
    settle_all(ledger, Status.FAILED)
    assert ledger.retries.start.blocking(job_id(8))[0].accepted == 2


def test_the_schema_is_that_of_a_new_one(
    first: str, open_ledger: OpenLedger, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    new_url = another_url(first, tmp_path, request)
    new = Ledger.open(new_url)
    try:
        assert shape(open_ledger().database) == shape(new.database)
    finally:
        new.close()


def another_url(url: str, folder: Path, request: pytest.FixtureRequest) -> str:
    """Of an empty database of the same kind."""
    if url.startswith("sqlite"):
        return f"sqlite:///{folder / 'another'}"
    found: str = request.getfixturevalue("postgres").new_database()
    return found


def shape(database: Database) -> dict[str, Any]:
    """Columns, keys and indexes of every table, without names that no statement uses."""
    found = sa.inspect(database._engine)
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
    assert {ledger.jobs.find.blocking(job_id(1)).failed for ledger in opened} == {1}


def test_of_many_who_make_a_new_one_at_once_one_does(url: str, open_ledger: OpenLedger) -> None:
    with ThreadPoolExecutor(4) as threads:
        opened = list(threads.map(lambda _: open_ledger(), range(4)))
    assert [ledger.jobs.newest.blocking() for ledger in opened] == [[]] * 4


def test_a_newer_schema_is_refused_and_left_as_it_is(ledger: Ledger, open_ledger: OpenLedger, url: str) -> None:
    statement = "PRAGMA user_version = 99" if url.startswith("sqlite") else "UPDATE ledger_schema SET version = 99"
    with ledger.database._engine.begin() as connection:
        connection.exec_driver_sql(statement)
    for _ in range(2):
        with pytest.raises(Conflict, match=f"has schema 99, this version of ret2 reads up to {NEWEST}") as refused:
            open_ledger()
        assert "not-for-any-log" not in refused.value.detail


# --- back


def content(url: str, schema: int) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Brought to that schema: the shape of every table, and its rows."""
    database = Database(url, schema=schema)
    try:
        with database._engine.connect() as connection:
            tables = sa.MetaData()
            tables.reflect(connection)
            rows = {
                table.name: sorted((dict(row) for row in connection.execute(sa.select(table)).mappings()), key=repr)
                for table in sorted(tables.tables.values(), key=lambda one: one.name)
                if table.name != "ledger_schema"
            }
        by_column = {name: [dict(sorted(row.items())) for row in found] for name, found in rows.items()}
        return shape(database), by_column
    finally:
        database.close()


def test_each_migration_has_its_way_back() -> None:
    assert BACK.keys() == MIGRATIONS.keys()


def test_every_schema_is_the_same_whichever_way_it_is_reached(
    first: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Up from the first, one by one; then down again to each, up to the newest, and down once more: shapes and rows alike."""
    up = {version: content(first, version) for version in range(1, NEWEST + 1)}
    for version in range(NEWEST, 0, -1):
        assert content(first, version) == up[version], version
    for version in range(1, NEWEST):
        assert content(first, NEWEST) == up[NEWEST]
        assert content(first, version) == up[version], version
    assert content(another_url(first, tmp_path, request), NEWEST)[0] == up[NEWEST][0]


@pytest.mark.parametrize("version", range(1, NEWEST + 1))
def test_a_new_one_goes_down_to_each_and_up_again(url: str, version: int) -> None:
    new = content(url, NEWEST)
    content(url, version)
    assert content(url, NEWEST) == new


def test_what_was_accepted_survives_the_way_down_and_up(first: str, open_ledger: OpenLedger, clock: Clock) -> None:
    for version in (NEWEST, 1, NEWEST):
        content(first, version)
    test_its_work_goes_on_in_order(first, open_ledger, clock)


def test_held_work_is_due_at_once(ledger: Ledger, open_ledger: OpenLedger, url: str) -> None:
    accept(ledger, "a", "b")
    ledger.batches.release.blocking(
        ledger.batches.claim.blocking(1, 60.0), retry_after_s=600.0, waiting_on="encoder", whole_collection=True
    )
    assert ledger.batches.claim.blocking(100, 60.0) == []
    content(url, 7)
    assert [ids(batch) for batch in open_ledger().batches.claim.blocking(100, 60.0)] == ["b"]


def refused(url: str, schema: int, why: str) -> None:
    before = content(url, NEWEST)
    with pytest.raises(Conflict, match=why):
        Database(url, schema=schema)
    assert content(url, NEWEST) == before, "nothing is changed, not the steps before that one either"


def test_an_unfinished_repair_is_not_lost(ledger: Ledger, url: str) -> None:
    row = {"id": job_id(1), "collection": "flags", "kind": "repair", "state": "queued", "seq": 1}
    with ledger.database.write() as connection:
        connection.execute(sa.insert(jobs).values(**row, created_at=1.0, updated_at=1.0))
    refused(url, 8, "schema 8 would lose work: 1 repairs are unfinished")
    with ledger.database.write() as connection:
        connection.execute(sa.update(jobs).values(state="succeeded", finished_at=2.0))
    content(url, 8)
    content(url, NEWEST)
    assert ledger.jobs.newest.blocking() == []


def test_an_unfinished_import_is_not_lost(ledger: Ledger, url: str) -> None:
    job = ledger.imports.accept.blocking("flags", {"format": "jsonl", "files": ["a"]})
    refused(url, 6, "schema 6 would lose work: 1 imports are unfinished")
    content(url, 7)
    ledger.jobs.cancel.blocking(job.id)
    assert ledger.jobs.find.blocking(job.id).state.finished
    kept = accept(ledger, "ab")
    content(url, 6)
    content(url, NEWEST)
    assert [one.id for one in ledger.jobs.newest.blocking()] == [kept.id]


def test_what_is_being_accepted_meanwhile_is_not_lost(ledger: Ledger, url: str) -> None:
    """Going back waits for it, and looks then."""
    row = {"id": job_id(1), "collection": "flags", "kind": "import", "state": "queued", "seq": 1}
    content(url, 7)
    with ThreadPoolExecutor(1) as threads:
        with ledger.database.write() as connection:
            connection.execute(sa.insert(jobs).values(**row, created_at=1.0, updated_at=1.0))
            connection.execute(sa.insert(steps).values(job_id=job_id(1)))
            goes_back = threads.submit(Database, url, schema=6)
            wait([goes_back], timeout=2)
        with pytest.raises(Conflict, match="1 imports are unfinished"):
            goes_back.result()
    content(url, NEWEST)
    assert ledger.jobs.find.blocking(job_id(1)).kind == JobKind.IMPORT


def test_a_reindex_is_not_lost(ledger: Ledger, url: str) -> None:
    new = ModelInfo("new", "fingerprint-2", 8, 10, 16)
    ledger.reindexes.start.blocking(ledger.collections.find.blocking("flags"), new, documents=3, max_failures=0)
    refused(url, 2, "schema 2 would lose work: 1 reindexes are not over")
    content(url, 3)


def test_points_that_a_reindex_made_are_not_lost(ledger: Ledger, url: str) -> None:
    with ledger.database._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE collections SET generation = 1")
    refused(url, 1, "1 collections have been reindexed")


def test_a_cancelled_job_does_not_come_alive_again(ledger: Ledger, url: str) -> None:
    job, kept = accept(ledger, "a", "b"), accept(ledger, "c")
    (held,) = ledger.batches.claim.blocking(1, 60.0)
    ledger.jobs.cancel.blocking(job.id)
    refused(url, 1, "1 jobs are being cancelled")
    settle(ledger, held)
    content(url, 1)
    content(url, NEWEST)
    assert [one.id for one in ledger.jobs.newest.blocking()] == [kept.id]


def test_there_are_no_other_schemas(url: str) -> None:
    for schema in (0, -1, NEWEST + 1):
        with pytest.raises(
            InvalidInput, match=f"no schema {schema}, this version of ret2 knows those from 1 to {NEWEST}"
        ):
            Database(url, schema=schema)
