"""Training and benchmarks read files as imports do: with the same faults, each said with its place."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import InvalidInput, TooLarge
from model.evaluation.benchmark_files import rows
from model.records import jsonl
from model.records.local_file import read_local
from model.training.pairs import read_pairs

ROWS = [{"a": 1}, {"a": "two"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def fields(path: Path) -> list[Any]:
    return [record.fields for record in read_local(path)]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", LINES),
        ("a.ndjson", LINES.replace(b"\n", b"\r\n\r\n")),
        ("a.jsonl", b"\xef\xbb\xbf" + LINES),
        ("a.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("a.jsonl", json.dumps(ROWS).encode()),
    ],
)
def test_every_way_to_write_the_same_rows(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert fields(tmp_path / name) == ROWS
    assert [row.fields for row in rows(tmp_path / name)] == ROWS


def test_parquet_has_the_same_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": ["x", None], "b": [[1, 2], None]}), tmp_path / "a.parquet")
    assert fields(tmp_path / "a.parquet") == [{"a": "x", "b": [1, 2]}, {"a": None, "b": None}]


def test_nan_of_pandas_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": NaN}')
    [row] = rows(tmp_path / "a.jsonl")
    assert not row.has("a")


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.jsonl", LINES.decode().encode("utf-16"), "a.jsonl is encoded in UTF-16, JSON must be in UTF-8"),
        ("a.jsonl", b'[{"a": 1}, {"a"', "the JSON array ends in the middle of element 2"),
        ("a.parquet", b"PAR0", "a.parquet is not a readable Parquet file"),
        ("a.csv", b"a\n1\n", "a.csv is of type '.csv', readable are .jsonl, .ndjson, .parquet"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(data)
    for read in (fields, lambda path: list(rows(path)), read_pairs):
        with pytest.raises(InvalidInput) as caught:
            read(tmp_path / name)
        assert says in caught.value.detail


def test_a_line_over_the_bound_is_skipped_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_RECORD_BYTES", 100)
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "' + b"x" * 200 + b'"}\n' + LINES)
    long, *others = fields(tmp_path / "a.jsonl")
    assert isinstance(long, TooLarge)
    assert long.detail == "a.jsonl line 1 is over 100 bytes"
    assert others == ROWS


def test_a_value_that_json_cannot_hold_is_the_error_of_its_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1.5, float("inf")]}), tmp_path / "a.parquet")
    good, bad = fields(tmp_path / "a.parquet")
    assert good == {"a": 1.5}
    assert isinstance(bad, InvalidInput)
    assert bad.detail == "a.parquet row 1: a is a number that is infinite"
