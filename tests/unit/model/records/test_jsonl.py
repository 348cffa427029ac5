"""JSON lines and arrays, compressed or not: every record once, damage and padding said."""

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from import_files import faults_of, fields_of, read_both, read_whole

from model.records import jsonl

ROWS = [{"id": str(number), "text": 'quo"te, [brackets] {braces} \\ ' + "x" * number} for number in range(7)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zst])
def test_all_members_and_frames_are_read(tmp_path: Path, pack: Any) -> None:
    half = LINES.index(b"\n") + 5
    (tmp_path / "x.jsonl.gz").write_bytes(pack(LINES[:half]) + pack(LINES[half:]))
    assert fields_of(read_both(tmp_path / "x.jsonl.gz", "jsonl")) == ROWS


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zst])
def test_padding_is_said_and_costs_no_record(tmp_path: Path, pack: Any) -> None:
    (tmp_path / "x").write_bytes(pack(LINES) + b"\0" * 100_000)
    documents = read_both(tmp_path / "x", "jsonl")
    assert fields_of(documents) == ROWS
    assert documents[-1].left_out == ("the padding behind the compressed data: 100000 NUL bytes",)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zst])
def test_what_is_not_compressed_behind_it_is_a_failure(tmp_path: Path, pack: Any) -> None:
    (tmp_path / "x").write_bytes(pack(LINES) + b"\0garbage of some length")
    documents = read_both(tmp_path / "x", "jsonl")
    assert fields_of(documents) == ROWS
    assert len(faults_of(documents)) == 1
    assert "goes on after its compressed data" in faults_of(documents)[0]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, zst])
def test_a_file_that_was_cut_off_is_said(tmp_path: Path, pack: Any) -> None:
    (tmp_path / "x").write_bytes(pack(LINES)[:-9])
    assert "it was cut off" in faults_of(read_both(tmp_path / "x", "jsonl"))[-1]


def test_skippable_frames_of_pzstd(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.zst").write_bytes(SKIPPABLE + zst(LINES) + SKIPPABLE + zst(b'{"id": "z"}\n') + SKIPPABLE)
    assert fields_of(read_both(tmp_path / "x.jsonl.zst", "jsonl")) == [*ROWS, {"id": "z"}]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_utf_16_is_said_at_once(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "x.jsonl").write_bytes(LINES.decode().encode(encoding))
    (fault,) = faults_of(read_whole(tmp_path / "x.jsonl", "jsonl"))
    assert "JSON must be in UTF-8; convert it" in fault


def test_a_byte_order_mark_is_no_part_of_the_json(tmp_path: Path) -> None:
    for content in (LINES, json.dumps(ROWS).encode()):
        (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + content)
        assert fields_of(read_both(tmp_path / "x.jsonl", "jsonl")) == ROWS


@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_a_file_of_documents(tmp_path: Path, indent: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "_READ_BYTES", 7)
    (tmp_path / "x.json").write_text(json.dumps([*ROWS[:3], 7, *ROWS[3:]], indent=indent))
    documents = read_both(tmp_path / "x.json", "jsonl")
    assert fields_of(documents) == ROWS
    assert faults_of(documents) == ["x.json element 4 is a JSON int, it must be an object"]


@pytest.mark.parametrize(
    ("content", "ids", "fault"),
    [
        ('[{"id": "a"}, {"id": "b"', ["a"], "ends in the middle of element 2"),
        ('[{"id": "a"}] {"id": "b"}', ["a"], "goes on after its JSON array"),
        ('[{"id": "a"},, {"id": "b"}]', ["a", "b"], "element 2 is not JSON"),
        ('[{"id": "a"}, {"id": oops}, {"id": "b"}]', ["a", "b"], "element 2 is not JSON"),
    ],
)
def test_an_array_that_is_damaged(tmp_path: Path, content: str, ids: list[str], fault: str) -> None:
    (tmp_path / "x.json").write_text(content)
    documents = read_both(tmp_path / "x.json", "jsonl")
    assert [fields["id"] for fields in fields_of(documents)] == ids
    assert len(faults_of(documents)) == 1
    assert fault in faults_of(documents)[0]


def test_an_element_and_a_line_over_the_bound_fail_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_RECORD_BYTES", 100)
    monkeypatch.setattr(jsonl, "_READ_BYTES", 32)
    rows = [{"id": "a"}, {"id": "b", "text": "x" * 1000}, {"id": "c"}]
    (tmp_path / "x.json").write_text(json.dumps(rows))
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("x.json", "x.jsonl"):
        documents = read_both(tmp_path / name, "jsonl")
        assert [fields["id"] for fields in fields_of(documents)] == ["a", "c"]
        assert "is over 100 bytes" in faults_of(documents)[0]


def test_a_line_without_an_end_ends_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "MAX_RECORD_BYTES", 100)
    monkeypatch.setattr(jsonl, "MAX_SKIPPED_BYTES", 1000)
    (tmp_path / "x.jsonl").write_text('{"id": "a"}\n' + "x" * 5000)
    assert faults_of(read_both(tmp_path / "x.jsonl", "jsonl")) == ["x.jsonl: a line goes on for more than 1000 bytes"]


NAMES = st.text('"\\a', max_size=2)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('"\\[]{},é', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80, deadline=None)
@given(
    values=st.lists(JSON, min_size=1, max_size=12),
    as_array=st.booleans(),
    pack=st.sampled_from([bytes, gzip.compress, zst]),
    cut=st.integers(1, 5),
)
def test_every_value_is_a_document_or_a_failure_as_a_plain_reader_has_it(
    tmp_path: Path, values: list[Any], as_array: bool, pack: Any, cut: int
) -> None:
    values = [{"id": "first"}, *values]
    content = json.dumps(values) if as_array else "".join(json.dumps(value) + "\n" for value in values)
    (tmp_path / "x").write_bytes(pack(content.encode()))
    documents = read_both(tmp_path / "x", "jsonl", None, cut)
    assert [document.fields if isinstance(document.fields, dict) else None for document in documents] == [
        value if isinstance(value, dict) else None for value in values
    ]
