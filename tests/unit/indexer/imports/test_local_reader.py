"""Documents from files: every record comes once, in order, in the wire form; a bad one harms only itself."""

import base64
import gzip
import io
import json
import string
import tarfile
import tracemalloc
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.imports import local_reader
from model.errors import InvalidInput, TooLarge
from model.records import jsonl as lines

PNG = b"\x89PNG\r\n\x1a\n pixels"
PNG_BASE64 = {"base64": base64.b64encode(PNG).decode()}

documents = st.fixed_dictionaries(
    {
        "id": st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20),
        "text": st.text(min_size=1, max_size=50),
    },
    optional={
        "metadata": st.dictionaries(
            st.text(string.ascii_letters, min_size=1), st.integers(-(2**31), 2**31) | st.booleans() | st.text()
        )
    },
)


def found(items: Iterable[local_reader.Item]) -> list[Any]:
    return [item for _, item in items]


def write_jsonl(path: Path, *lines: Any) -> Path:
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(docs=st.lists(documents, max_size=20), blanks=st.lists(st.integers(0, 20), max_size=5))
def test_jsonl_gives_back_what_was_written(tmp_path: Path, docs: list[dict[str, Any]], blanks: list[int]) -> None:
    lines: list[Any] = list(docs)
    for place in blanks:
        lines.insert(place, b"  ")
    path = write_jsonl(tmp_path / "docs.jsonl", *lines)
    assert found(local_reader.read(path)) == docs


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(docs=st.lists(documents, min_size=1, max_size=200))
def test_parquet_gives_back_what_was_written(tmp_path: Path, docs: list[dict[str, Any]]) -> None:
    columns = {name: [doc.get(name) for doc in docs] for name in ("id", "text")}
    columns["metadata"] = [json.dumps(doc["metadata"]) if "metadata" in doc else None for doc in docs]
    path = tmp_path / "docs.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=70)
    expected = [{k: v for k, v in doc.items() if k != "metadata" or v} for doc in docs]
    assert found(local_reader.read(path)) == expected
    assert local_reader.count(path) == len(docs)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.binary(max_size=300))
def test_junk_is_reported_and_never_raises(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "junk.jsonl"
    path.write_bytes(b'{"id": "before", "text": "t"}\n' + junk + b'\n{"id": "after", "text": "t"}')
    items = list(local_reader.read(path))
    assert items[0] == ("junk.jsonl line 1", {"id": "before", "text": "t"})
    assert items[-1][1] == {"id": "after", "text": "t"}


def test_a_bad_line_is_reported_with_its_number(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "docs.jsonl",
        b"\xef\xbb\xbf" + b'{"id": "a", "text": "t"}',
        b"",
        b"{oops",
        b"[1]",
        {"id": "b", "text": "t"},
    )
    read = list(local_reader.read(path))
    assert [where for where, _ in read] == [f"docs.jsonl line {number}" for number in (1, 3, 4, 5)]
    items = found(read)
    assert items[0] == {"id": "a", "text": "t"}
    assert isinstance(items[1], InvalidInput)
    assert "docs.jsonl line 3 is not JSON" in items[1].detail
    assert isinstance(items[2], InvalidInput)
    assert "docs.jsonl line 4 is a JSON list" in items[2].detail
    assert items[3] == {"id": "b", "text": "t"}


def test_a_line_over_the_bound_is_skipped_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_RECORD_BYTES", 100)
    path = write_jsonl(
        tmp_path / "d.jsonl",
        {"id": "a", "text": "t"},
        {"text": "x" * 1000},
        {"id": "b", "text": "t"},
        b'"' + b"y" * 500,
    )
    (_, first), (_, long), (_, third), (_, last) = local_reader.read(path)
    assert (first, third) == ({"id": "a", "text": "t"}, {"id": "b", "text": "t"})
    assert isinstance(long, TooLarge)
    assert "line 2 is over 100 bytes" in long.detail
    assert isinstance(last, TooLarge)


@pytest.mark.parametrize(
    "image", ["pictures/cat.png", {"path": "pictures/cat.png"}, {"bytes": None, "path": "./pictures/cat.png"}]
)
def test_an_image_path_is_relative_to_the_file(tmp_path: Path, image: Any) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "cat.png").write_bytes(PNG)
    path = write_jsonl(tmp_path / "docs.jsonl", {"id": "cat", "image": image})
    assert found(local_reader.read(path)) == [{"id": "cat", "image": PNG_BASE64}]


@pytest.mark.parametrize("image", ["/etc/hostname", "../secret.png", "missing.png", "nul\0.png", "link.png", ""])
def test_an_image_path_that_leaves_the_folder_or_is_missing(tmp_path: Path, image: str) -> None:
    (tmp_path / "secret.png").write_bytes(PNG)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    path = write_jsonl(folder / "docs.jsonl", {"id": "a", "image": image}, {"id": "b", "text": "t"})
    (_, bad), (_, good) = local_reader.read(path)
    assert isinstance(bad, InvalidInput)
    assert "docs.jsonl line 1" in bad.detail
    assert good == {"id": "b", "text": "t"}


@pytest.mark.parametrize(
    ("given_image", "wire"),
    [
        ("https://example.org/cat.png", {"url": "https://example.org/cat.png"}),
        ("data:image/png;base64,AAAA", "data:image/png;base64,AAAA"),
        ({"url": "https://example.org/cat.png"}, {"url": "https://example.org/cat.png"}),
        (PNG_BASE64, PNG_BASE64),
    ],
)
def test_images_that_need_no_file(tmp_path: Path, given_image: Any, wire: Any) -> None:
    path = write_jsonl(tmp_path / "docs.jsonl", {"image": given_image})
    assert found(local_reader.read(path)) == [{"image": wire}]


def test_parquet_images_and_columns(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": [1, 2],
            "text": ["one", "two"],
            "image": [PNG, None],
            "region": ["Europe", None],
            "day": [date(2024, 2, 29), None],
        }
    )
    pq.write_table(table, tmp_path / "docs.parquet")
    assert [item for _, item in local_reader.read(tmp_path / "docs.parquet")] == [
        {"id": "1", "text": "one", "image": PNG_BASE64, "metadata": {"region": "Europe", "day": "2024-02-29"}},
        {"id": "2", "text": "two"},
    ]


def test_parquet_image_struct_and_metadata_struct_or_map(tmp_path: Path) -> None:
    metadata = pa.array([[("a", "1")]], type=pa.map_(pa.string(), pa.string()))
    image = [{"bytes": PNG, "path": "x.png"}]
    pq.write_table(pa.table({"image": image, "metadata": metadata, "ignored": [1]}), tmp_path / "map.parquet")
    pq.write_table(pa.table({"image": image, "metadata": [{"a": "1"}]}), tmp_path / "struct.parquet")
    for name in ("map.parquet", "struct.parquet"):
        assert found(local_reader.read(tmp_path / name)) == [{"image": PNG_BASE64, "metadata": {"a": "1"}}]


def test_parquet_metadata_that_is_no_object_harms_its_row_only(tmp_path: Path) -> None:
    path = tmp_path / "docs.parquet"
    pq.write_table(pa.table({"id": ["a", "b", "c"], "text": ["t"] * 3, "metadata": ["[1]", "{oops", '{"x": 1}']}), path)
    (_, first), (_, second), (_, third) = local_reader.read(path)
    assert isinstance(first, InvalidInput)
    assert isinstance(second, InvalidInput)
    assert "docs.parquet row 1" in second.detail
    assert third == {"id": "c", "text": "t", "metadata": {"x": 1}}


@pytest.mark.parametrize("name", ["docs.xlsx", "missing.jsonl", "broken.parquet", "broken.tar", "broken.jsonl.gz"])
def test_a_file_that_cannot_be_read_at_all(tmp_path: Path, name: str) -> None:
    for odd in ("docs.xlsx", "broken.tar"):
        (tmp_path / odd).write_text("id,text")
    (tmp_path / "broken.jsonl.gz").write_bytes(b"\x1f\x8b not really")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InvalidInput, match=name):
        list(local_reader.read(tmp_path / name))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """30 MB of documents, read while holding a few hundred kB."""
    path = tmp_path / "large.jsonl"
    with path.open("w") as file:
        for number in range(3000):
            file.write(json.dumps({"id": str(number), "text": "x" * 10_000}) + "\n")
    tracemalloc.start()
    assert sum(1 for _ in local_reader.read(path)) == 3000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


def test_compressed_lines_a_tar_and_a_folder_of_images(tmp_path: Path) -> None:
    lines = b'{"id": "a", "text": "one"}\n{"id": "b", "text": "t"}\n'
    (tmp_path / "docs.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "docs.ndjson.zst").write_bytes(pa.compress(lines, "zstd", asbytes=True))
    for name in ("docs.jsonl.gz", "docs.ndjson.zst"):
        assert found(local_reader.read(tmp_path / name)) == [{"id": "a", "text": "one"}, {"id": "b", "text": "t"}]
    with tarfile.open(tmp_path / "pairs-0.tar", "w") as archive:
        for name, data in (("7.png", PNG), ("7.txt", b"a cat")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    assert list(local_reader.read(tmp_path / "pairs-0.tar")) == [
        (
            "pairs-0.tar sample 1",
            {"id": f"{tmp_path.name}/pairs-0/7", "text": "a cat", "image": PNG_BASE64, "metadata": {"key": "7"}},
        )
    ]
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "cat.png").write_bytes(PNG)
    (folder / "metadata.csv").write_text("file_name,text,kind\ncat.png,a cat,animal\n")
    assert found(local_reader.read(folder)) == [{"text": "a cat", "image": PNG_BASE64, "metadata": {"kind": "animal"}}]


def test_a_format_and_a_mapping_that_are_named(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "docs.jsonl", {"caption": "a", "n": 1}, {"passage_id": "p", "passage_text": "b"})
    (_, first), _ = local_reader.read(path, mapping={"text": "caption", "metadata": ["n"]})
    assert first == {"text": "a", "metadata": {"n": 1}}
    (_, wrong), (_, second) = local_reader.read(path, format="m2kr")
    assert isinstance(wrong, InvalidInput)
    assert "docs.jsonl line 1: passage_id is missing" in wrong.detail
    assert second == {"id": "p", "text": "b"}
