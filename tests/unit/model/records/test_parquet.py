"""Parquet: each Arrow type as the JSON that it means, or refused for its field alone; nothing is unpacked that is over the bounds."""

import datetime as dt
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from import_files import PNG, faults_of, fields_of, open_file, read_both, read_whole

from model.records import parquet, parquet_pages
from model.records.arrow_values import json_values
from model.records.base import Refused

U = uuid.UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([2**64 - 1, None], pa.uint64()), [2**64 - 1, None]),
        (pa.array([1.5, float("nan"), None]), [1.5, None, None]),
        (pa.array([Decimal("9.90"), Decimal("120.00"), None], pa.decimal128(10, 2)), [9.9, 120, None]),
        (pa.array([Decimal("0.12345678901234567890")], pa.decimal128(20, 20)), ["0.12345678901234567890"]),
        (pa.array([Decimal(10**30 + 1)], pa.decimal128(38, 0)), [str(10**30 + 1)]),
        (pa.array([dt.date(2024, 2, 29)]), ["2024-02-29"]),
        (pa.array([dt.date(2024, 2, 29)], pa.date64()), ["2024-02-29"]),
        (pa.array([1], pa.timestamp("s")), ["1970-01-01T00:00:01"]),
        (pa.array([1_000], pa.timestamp("us", "UTC")), ["1970-01-01T00:00:00.001000+00:00"]),
        (pa.array([1_000_000_001, -1, 1000], pa.timestamp("ns")), [
            "1970-01-01T00:00:01.000000001", "1969-12-31T23:59:59.999999999", "1970-01-01T00:00:00.000001"]),
        (pa.array([1], pa.timestamp("ns", "UTC")), ["1970-01-01T00:00:00.000000001+00:00"]),
        (pa.array([3_600_000_000_001], pa.time64("ns")), ["01:00:00.000000001"]),
        (pa.array([61], pa.time32("s")), ["00:01:01"]),
        (pa.array([1_500], pa.duration("ms")), [1.5]),
        (pa.array([86_400], pa.duration("s")), [86_400]),
        (pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int64())), [{"a": 1}, None]),
        (pa.array([[(1, "x")]], pa.map_(pa.int32(), pa.string())), [{"1": "x"}]),
        (pa.array([{"a": [1, None]}, None]), [{"a": [1, None]}, None]),
        (pa.array(["x", "y", "x"]).dictionary_encode(), ["x", "y", "x"]),
        (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), [[1, 2]]),
        (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([U.bytes], pa.binary(16))), [str(U)]),
        (pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}'])), [{"a": 1}]),
        (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0], pa.int8())), [True, False]),
        (pa.array([b"x"]), [b"x"]),
    ],
)  # fmt: skip
def test_a_value_is_the_json_that_it_means(array: Any, expected: list[Any]) -> None:
    assert json_values(array) == expected


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (pa.array([4_000_000, 0], pa.int32()).cast(pa.date32()), "outside the years 1 to 9999"),
        (pa.array([2**40, 0], pa.timestamp("s")), "outside the years 1 to 9999"),
        (pa.array([2**62, 0], pa.timestamp("s")), "outside the years 1 to 9999"),
        (pa.array([float("inf"), 0.0]), "infinite"),
        (pa.array([[("a", 1), ("a", 2)], []], pa.map_(pa.string(), pa.int64())), "two values for one key"),
        (pa.array([b"\xff", b""], pa.binary()).view(pa.string()), "cannot be read"),
    ],
)
def test_a_value_that_json_cannot_hold_is_refused_alone(array: Any, reason: str) -> None:
    refused, good = json_values(array)
    assert isinstance(refused, Refused)
    assert reason in refused.reason
    assert not isinstance(good, Refused)


def test_a_field_that_is_refused_is_left_out_and_said(tmp_path: Path) -> None:
    table = pa.table({
        "id": pa.array([U.bytes, U.bytes], pa.binary(16)), "text": ["a", "b"], "image": pa.array([[{"bytes": PNG, "path": "x"}] * 2, None]),
        "thumb": [b"\x89PNG", None], "n": [1, 2],
    })  # fmt: skip
    pq.write_table(table, tmp_path / "x.parquet")
    first, second = read_both(tmp_path / "x.parquet", "parquet")
    assert first.fields == {"id": str(U), "text": "a", "image": {"bytes": PNG, "path": "x"}, "metadata": {"n": 1}}
    assert first.left_out == (
        "a picture of a list that its document does not use",
        "field 'thumb': bytes that are not the image of the document",
    )
    assert second.fields == {"id": str(U), "text": "b", "metadata": {"n": 2}}


def test_whole_numbers_that_became_floats_are_ids_without_a_point(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1.0, float("nan"), 2.5], "text": ["a", "b", "c"]}), tmp_path / "x.parquet")
    assert [fields.get("id") for fields in fields_of(read_both(tmp_path / "x.parquet", "parquet"))] == [
        "1",
        None,
        "2.5",
    ]


def write_shared(path: Path, array: Any) -> Path:
    table = pa.table({"id": [str(n) for n in range(len(array))], "text": ["x"] * len(array), "value": array})
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=2**30, store_schema=False)
    return path


def test_a_large_value_that_rows_share_is_unpacked_for_a_few_rows_at_a_time(tmp_path: Path) -> None:
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 64, pa.int32()), pa.array(["a" * (16 * 2**20)]))
    path = write_shared(tmp_path / "x.parquet", shared)
    assert path.stat().st_size < 10_000
    before, peak = pa.total_allocated_bytes(), 0
    with path.open("rb") as file:
        plan = parquet_pages.plan_row_group(file, pq.ParquetFile(path).metadata, 0, ["id", "text", "value"], 64)
    assert plan.dictionaries == ("value",)
    count = 0
    with open_file(path) as opened:
        for record in parquet.records(opened):
            count += 1
            assert isinstance(record.fields, dict)
            peak = max(peak, pa.total_allocated_bytes() - before)
    assert count == 64
    assert peak < 200 * 2**20


def test_a_row_over_the_bound_fails_alone(tmp_path: Path) -> None:
    large = pa.DictionaryArray.from_arrays(pa.array([0] * 101, pa.int32()), pa.array(["a" * 2**20]))
    path = write_shared(tmp_path / "x.parquet", pa.ListArray.from_arrays(pa.array([0, 100, 101], pa.int32()), large))
    documents = read_both(path, "parquet")
    assert [fields["id"] for fields in fields_of(documents)] == ["1"]
    assert faults_of(documents) == ["x.parquet row 0 has over 67108864 bytes"]


def test_lists_and_pages_that_unpack_to_too_much_fail_their_row_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = pa.ListArray.from_arrays(
        pa.array([0, 20_000_000, 20_000_001], pa.int32()), pa.array(np.full(20_000_001, 7))
    )
    documents = read_both(write_shared(tmp_path / "x.parquet", values), "parquet")
    assert [fault.partition(":")[0] for fault in faults_of(documents)] == [
        "x.parquet row 0 cannot be read", "x.parquet row 1 cannot be read"
    ]  # fmt: skip
    monkeypatch.setattr(parquet_pages, "_MAX_PAGE_BYTES", 1000)
    documents = read_whole(write_shared(tmp_path / "y.parquet", pa.array(["long" * 1000])), "parquet")
    assert "has a page that unpacks to" in faults_of(documents)[0]


VALUES = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(
    rows=st.lists(st.fixed_dictionaries({
        "n": VALUES, "tags": st.none() | st.lists(st.text(max_size=4), max_size=3), "at": st.none() | st.datetimes(),
        "raw": st.none() | st.binary(max_size=3), "price": st.none() | st.decimals(-999, 999, places=2),
    }), min_size=1, max_size=30),
    group=st.integers(1, 10), cut=st.integers(1, 5), version=st.sampled_from(["1.0", "2.0"]),
)  # fmt: skip
def test_every_row_is_a_document_as_arrow_itself_has_it(
    tmp_path: Path, rows: list[dict[str, Any]], group: int, cut: int, version: Any
) -> None:
    schema = pa.schema({
        "text": pa.string(), "n": pa.int64(), "tags": pa.list_(pa.string()), "at": pa.timestamp("us"), "raw": pa.binary(),
        "price": pa.decimal128(7, 2),
    })  # fmt: skip
    table = pa.Table.from_pylist([{"text": "x", **row} for row in rows], schema)
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=group, data_page_version=version)
    documents = read_both(tmp_path / "x.parquet", "parquet", None, cut)
    assert len(documents) == len(rows)
    for document, row in zip(documents, rows, strict=True):
        expected = {name: value for name, value in row.items() if value is not None and name != "raw"}
        if "at" in expected:
            expected["at"] = expected["at"].isoformat()
        if "price" in expected:
            expected["price"] = float(expected["price"])
        assert isinstance(document.fields, dict)
        assert document.fields.get("metadata", {}) == expected
        assert len(document.left_out) == (row["raw"] is not None)
