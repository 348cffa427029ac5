"""Imports: every record of every format comes once, whoever reads which unit; what is wrong harms its record; nothing outside is read."""

import base64
import csv
import gzip
import io
import json
import os
import tarfile
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.domain.documents import Incoming, Rejected
from indexer.domain.incoming import DocumentBounds, incoming
from indexer.imports.locations import Places
from indexer.imports.planner import Imports, ImportSettings, Unit
from model.errors import DependencyUnavailable, Forbidden, InvalidInput, NotFound
from model.records.base import Cut
from model.types import Limits

PNG = b"\x89PNG\r\n\x1a\n pixels"
Write = Callable[[Path, Sequence[dict[str, Any]]], Path]


def imports(folder: Path, *, rows: int = 10, **options: Any) -> Imports:
    return Imports(ImportSettings((str(folder),), cut=Cut(rows=rows), **options))


def everything(reader: Imports, units: Sequence[Unit]) -> list[tuple[int, Incoming | Rejected]]:
    return [item for unit in units for item in reader.read(unit)]


def documents(items: Sequence[tuple[int, Incoming | Rejected]]) -> list[Incoming]:
    assert all(position == item.position for position, item in items)
    return [item for _, item in items if isinstance(item, Incoming)]


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    path.write_bytes(b"".join((row if isinstance(row, bytes) else orjson.dumps(row)) + b"\n" for row in rows))
    return path


def write_gz(path: Path, rows: Sequence[Any]) -> Path:
    plain = write_jsonl(path.with_suffix(".plain"), rows)
    path.write_bytes(gzip.compress(plain.read_bytes()))
    return path


def write_zst(path: Path, rows: Sequence[Any]) -> Path:
    plain = write_jsonl(path.with_suffix(".plain"), rows)
    path.write_bytes(pa.compress(plain.read_bytes(), "zstd", asbytes=True))
    return path


def write_csv(path: Path, rows: Sequence[Any]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["id", "text"], lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(path: Path, rows: Sequence[Any]) -> Path:
    pq.write_table(pa.table({name: [row[name] for row in rows] for name in ("id", "text")}), path, row_group_size=23)
    return path


def write_one_group(path: Path, rows: Sequence[Any]) -> Path:
    pq.write_table(pa.table({name: [row[name] for row in rows] for name in ("id", "text")}), path)
    return path


def write_tar(path: Path, samples: Sequence[dict[str, Any]], mode: Any = "w") -> Path:
    """Of each sample the members by extension; `key` is its name."""
    with tarfile.open(path, mode) as archive:
        for sample in samples:
            for kind, data in sample.items():
                if kind != "key":
                    info = tarfile.TarInfo(f"{sample['key']}.{kind}")
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return path


def write_text_tar(path: Path, rows: Sequence[Any]) -> Path:
    return write_tar(path, [{"key": row["id"], "json": json.dumps(row).encode()} for row in rows])


WRITERS: dict[str, tuple[str, Write]] = {
    "docs.jsonl": ("jsonl", write_jsonl),
    "docs.jsonl.gz": ("jsonl", write_gz),
    "docs.jsonl.zst": ("jsonl", write_zst),
    "docs.csv": ("csv", write_csv),
    "docs.parquet": ("parquet", write_parquet),
    "one-group.parquet": ("parquet", write_one_group),
    "docs.tar": ("webdataset", write_text_tar),
}
TABLE = {"id": "id", "text": "text"}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    texts=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=30),
        min_size=1,
        max_size=60,
    ),
    rows=st.integers(1, 70),
    name=st.sampled_from(sorted(WRITERS)),
)
def test_units_in_any_order_give_every_record_once(tmp_path: Path, texts: list[str], rows: int, name: str) -> None:
    format_, write = WRITERS[name]
    given_rows = [{"id": f"d{number:04}", "text": text} for number, text in enumerate(texts)]
    path = write(tmp_path / name, given_rows)
    reader = imports(tmp_path, rows=rows)
    units = list(reader.plan(str(path), format_, TABLE))
    assert [unit.first for unit in units] == [sum(each.count for each in units[:place]) for place in range(len(units))]
    again = [Unit.from_json(json.loads(json.dumps(unit.as_json()))) for unit in units]
    assert again == units
    found = documents(sorted(everything(reader, again[::-1]), key=lambda item: item[0]))
    assert [(each.position, each.id, each.text) for each in found] == [
        (place, row["id"], row["text"]) for place, row in enumerate(given_rows)
    ]
    if format_ in ("jsonl", "csv", "webdataset") and not name.endswith(("gz", "zst")):
        assert all(unit.count == rows for unit in units[:-1])
    if name.endswith(("gz", "zst")):
        assert len(units) == 1


def test_a_large_row_group_is_cut_and_a_small_one_is_one_unit(tmp_path: Path) -> None:
    path = write_one_group(tmp_path / "docs.parquet", [{"id": str(n), "text": "x"} for n in range(1000)])
    spans = [unit.span for unit in imports(tmp_path, rows=100).plan(str(path), "parquet")]
    assert [(span.start, span.end) for span in spans] == [(n, n + 100) for n in range(0, 1000, 100)]
    assert len(list(imports(tmp_path, rows=1).plan(str(path), "parquet"))) == 16  # each piece decodes those before it
    small = write_parquet(tmp_path / "small.parquet", [{"id": str(n), "text": "x"} for n in range(46)])
    assert [unit.span.group for unit in imports(tmp_path).plan(str(small), "parquet")] == [0, 0, 0, 1, 1, 1]
    assert [unit.span.group for unit in imports(tmp_path, rows=100).plan(str(small), "parquet")] == [0, 1]


def test_units_are_cut_by_bytes_too(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "docs.jsonl", [{"text": "x" * 1000}] * 10)
    reader = Imports(ImportSettings((str(tmp_path),), cut=Cut(size_bytes=3000)))
    assert [unit.count for unit in reader.plan(str(path), "jsonl")] == [3, 3, 3, 1]


def test_wrong_rows_are_rejected_in_their_place_and_the_others_read(tmp_path: Path) -> None:
    lines = [
        {"id": "a", "text": "good"},
        b"{oops",
        b"",
        b"[1]",
        {"id": "b\n", "text": "x"},
        {"id": "c"},
        {"id": "d", "text": 7},
        {"id": "e", "text": "x" * 101},
        {"id": "f", "text": "x", "colour": "red"},
        {"id": "g", "text": "x", "metadata": [1]},
        {"id": "h", "text": "x", "metadata": {"deep": {"er": {}}}},
        {"id": "i", "text": "x", "metadata": {"long": "y" * 200}},
        {"id": "j", "image": {"base64": "???"}},
        {"id": "k", "image": "../secret.png"},
        {"id": "l", "image": 3},
        {"id": "m", "image": "https://example.org/" + "x" * 9000},
        {"id": "z", "text": "good too"},
    ]
    path = write_jsonl(tmp_path / "docs.jsonl", lines)
    bounds = DocumentBounds(Limits(max_text_chars=100), max_metadata_bytes=100, max_metadata_depth=2)
    reader = imports(tmp_path, rows=4, bounds=bounds)
    items = everything(reader, list(reader.plan(str(path), "jsonl")))
    assert [position for position, _ in items] == list(range(16))
    assert [each.id for each in documents(items)] == ["a", "z"]
    rejected = {item.position: item for _, item in items if isinstance(item, Rejected)}
    assert [(item.code, item.detail[:50]) for item in rejected.values()] == [
        ("invalid_input", rejected[1].detail[:50]),
        ("invalid_input", "docs.jsonl line 4 is a JSON list, it must be an ob"),
        ("invalid_input", "docs.jsonl line 5: id: must be 1 to 512 characters"),
        ("invalid_input", "docs.jsonl line 6: neither text nor image: at leas"),
        ("invalid_input", "docs.jsonl line 7: text: Input should be a valid s"),
        ("too_large", "docs.jsonl line 8: text has 101 characters, limit "),
        ("invalid_input", "docs.jsonl line 9: unknown field 'colour': a docum"),
        ("invalid_input", "docs.jsonl line 10: metadata: Input should be a va"),
        ("too_large", "docs.jsonl line 11: metadata is nested 3 deep, lim"),
        ("too_large", "docs.jsonl line 12: metadata has 211 bytes as JSON"),
        ("invalid_input", "docs.jsonl line 13: image is not base64: Only base"),
        ("invalid_input", "docs.jsonl line 14: image '../secret.png' is outsi"),
        ("invalid_input", "docs.jsonl line 15: image: an image is an object w"),
        ("too_large", "docs.jsonl line 16: image URL has 9020 characters,"),
    ]
    assert rejected[1].detail.startswith("docs.jsonl line 2 is not JSON: ")
    assert rejected[4 - 1].id == "b\n"


@pytest.mark.parametrize(
    "bad",
    [
        {"passage_content": "half a pair \ud800"},
        {"passage_id": "\udfff", "passage_content": "x"},
        {"passage_content": "x", "n": ["\ud800"]},
    ],
)
def test_half_a_surrogate_pair_harms_its_record_alone(tmp_path: Path, bad: dict[str, Any]) -> None:
    """Python's own JSON, which reads the benchmarks' files, takes it; no database and no index does."""
    records = [{"passage_id": "a", "passage_content": "a"}, {"passage_id": "b", **bad}]
    path = tmp_path / "passages.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    reader = imports(tmp_path)
    units = list(reader.plan(str(path), "m2kr", {"metadata": ["n"]} if "n" in bad else None))
    good, refused = (item for _, item in everything(reader, units))
    assert isinstance(good, Incoming)
    assert isinstance(refused, Rejected)
    assert "passages.jsonl line 2" in refused.detail


@pytest.mark.parametrize("bad", ["id", "text", "image"])
def test_no_field_of_a_document_has_half_a_surrogate_pair(bad: str) -> None:
    document = {"id": "a", "text": "b", "image": "https://host/c.png"}
    document[bad] += "\ud800"
    with pytest.raises(InvalidInput, match=bad):
        incoming(0, document, DocumentBounds())


def test_a_string_of_parquet_that_is_not_utf_8_harms_its_row_alone(tmp_path: Path) -> None:
    texts = pa.array([b"one", b"\xff", b"three"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"id": ["a", "b", "c"], "text": texts}), tmp_path / "docs.parquet")
    reader = imports(tmp_path)
    read = [item for _, item in everything(reader, list(reader.plan(str(tmp_path / "docs.parquet"), "parquet")))]
    assert [type(item) for item in read] == [Incoming, Rejected, Incoming]
    assert isinstance(read[1], Rejected)
    assert read[1].detail.startswith("docs.parquet row 1: text is a value of type string that cannot be read")


def test_csv_rows_with_line_breaks_odd_bytes_and_wrong_cells(tmp_path: Path) -> None:
    path = tmp_path / "docs.csv"
    path.write_bytes(
        b'\xef\xbb\xbfid,text,n\n1,"two\nlines",3\n\n2,too,many,cells\n3,\xff\xfe,x\n4,"quote ""in"" it",\n5,last,6\n'
    )
    for rows in (1, 2, 100):
        reader = imports(tmp_path, rows=rows)
        items = everything(reader, list(reader.plan(str(path), "csv")))
        assert [(each.id, each.text, each.metadata) for each in documents(items)] == [
            ("1", "two\nlines", {"n": "3"}),
            ("4", 'quote "in" it', {}),
            ("5", "last", {"n": "6"}),
        ]
        assert [item.detail for _, item in items if isinstance(item, Rejected)] == [
            "docs.csv line 5 has 4 cells, the header has 3",
            "docs.csv line 6 is not UTF-8; name the encoding of the file with mapping.encoding",
        ]


def test_a_mapping_says_what_is_what(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    row = {"key": 7, "caption": "a cat", "file": "cat.png", "width": 3, "licence": None, "more": "x"}
    path = write_jsonl(tmp_path / "docs.jsonl", [row])
    reader = imports(tmp_path)
    mapping: dict[str, Any] = {"text": "caption", "image": "file", "id": "key", "metadata": ["width", "licence"]}
    ((_, item),) = everything(reader, list(reader.plan(str(path), "jsonl", mapping)))
    assert item == Incoming(0, "7", "a cat", PNG, None, {"width": 3})
    ((_, item),) = everything(reader, list(reader.plan(str(path), "jsonl", {**mapping, "metadata": "*"})))
    assert isinstance(item, Incoming)
    assert item.metadata == {"width": 3, "more": "x"}


@pytest.mark.parametrize(
    ("format_", "mapping", "field", "message"),
    [
        (
            "jsonl",
            {"txt": "caption"},
            "mapping.txt",
            "mapping.txt is unknown, allowed are text, image, images, id, metadata, image_root",
        ),
        ("jsonl", {"text": 3}, "mapping.text", "mapping.text is 3, it must be a name of 1 to 512 characters"),
        ("jsonl", {"text": "x" * 513}, "mapping.text", "1 to 512"),
        ("jsonl", {"id": "key"}, "mapping", "names neither text nor image"),
        ("jsonl", {"text": "text", "metadata": "n"}, "mapping.metadata", "must be a list of names"),
        ("jsonl", {"text": "text", "metadata": ["n"] * 257}, "mapping.metadata", "257 names, limit is 256"),
        ("jsonl", [], "mapping", "mapping is a list"),
        ("m2kr", {"text": "text"}, "mapping.text", "m2kr fixes text, image and id"),
        (
            "xml",
            None,
            "format",
            "format is 'xml', allowed are jsonl, csv, parquet, webdataset, images, photos, m2kr, mbeir",
        ),
        (
            "jsonl",
            {"text": "captoin"},
            "mapping.text",
            "mapping.text names 'captoin', which docs.jsonl does not have; it has id, text",
        ),
    ],
)
def test_wrong_arguments_name_field_value_and_limit(
    tmp_path: Path, format_: str, mapping: Any, field: str, message: str
) -> None:
    path = write_jsonl(tmp_path / "docs.jsonl", [{"id": "a", "text": "b"}])
    with pytest.raises(InvalidInput, match=message) as raised:
        list(imports(tmp_path).plan(str(path), format_, mapping))
    assert raised.value.field == field


@pytest.mark.parametrize("name", ["docs.csv", "docs.parquet", "docs.tar"])
def test_a_misspelt_column_is_refused_before_anything_is_lost(tmp_path: Path, name: str) -> None:
    format_, write = WRITERS[name]
    path = write(tmp_path / name, [{"id": "a", "text": "b"}])
    with pytest.raises(InvalidInput, match=r"mapping\.image names 'jpgg'"):
        list(imports(tmp_path).plan(str(path), format_, {"text": "text", "image": "jpgg"}))


# --- WebDataset


def test_a_sample_is_the_members_of_one_key(tmp_path: Path) -> None:
    samples = [
        {"key": "a/001", "jpg": PNG, "txt": " a cat \n", "json": b'{"width": 3, "key": "k1", "none": null}'},
        {"key": "a/002", "json": b'{"caption": "a dog"}', "png": PNG, "mp4": b"\0" * 9000},
        {"key": "a/.hidden", "txt": b"no"},
        {"key": "b/002", "txt": b"text alone"},
        {"key": "b/003", "cls": b"7", "seg.png": PNG},
        {"key": "b/004", "json": b"[1]", "jpg": PNG},
        {"key": "b/005", "txt": b"\xff\xfe"},
    ]
    encoded = [{k: v.encode() if k != "key" and isinstance(v, str) else v for k, v in each.items()} for each in samples]
    for path, mode in ((tmp_path / "pairs-00.tar", "w"), (tmp_path / "pairs-00.tar.gz", "w:gz")):
        write_tar(path, encoded, mode)
        reader = imports(tmp_path, rows=2)
        units = list(reader.plan(str(path), "webdataset"))
        assert [unit.count for unit in units] == ([6] if mode == "w:gz" else [2, 2, 2])
        items = everything(reader, units)
        assert documents(items) == [
            Incoming(0, f"{tmp_path.name}/pairs-00/a/001", "a cat", PNG, None, {"width": 3, "key": "k1"}),
            Incoming(1, f"{tmp_path.name}/pairs-00/a/002", "a dog", PNG, None, {"key": "a/002"}),
            Incoming(2, f"{tmp_path.name}/pairs-00/b/002", "text alone", None, None, {"key": "b/002"}),
            Incoming(3, f"{tmp_path.name}/pairs-00/b/003", "7", PNG, None, {"key": "b/003"}),
        ]
        assert [item.detail[:72] for _, item in items if isinstance(item, Rejected)] == [
            f"{path.name} sample 5 (b/004) has a text that cannot be read: the JSON member"[:72],
            f"{path.name} sample 6 (b/005) has a text that cannot be read: 'utf-8' codec"[:72],
        ]


def test_the_mapping_of_the_issue_on_a_tar(tmp_path: Path) -> None:
    sample = {"key": "001", "jpg": PNG, "json": b'{"caption": "a cat", "a": 1, "b": 2, "c": 3}'}
    path = write_tar(tmp_path / "x.tar", [sample])
    reader = imports(tmp_path)
    mapping = {"text": "caption", "image": "jpg", "id": "key", "metadata": ["a", "b"]}
    ((_, item),) = everything(reader, list(reader.plan(str(path), "webdataset", mapping)))
    assert item == Incoming(0, "001", "a cat", PNG, None, {"a": 1, "b": 2})


def test_long_names_as_gnu_and_pax_write_them(tmp_path: Path) -> None:
    for format_ in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{format_}.tar"
        with tarfile.open(path, "w", format=format_) as archive:
            for number in range(5):
                info = tarfile.TarInfo(f"{'long' * 40}/{number}.txt")
                info.size = 1
                archive.addfile(info, io.BytesIO(b"%d" % number))
        reader = imports(tmp_path, rows=1)
        units = list(reader.plan(str(path), "webdataset"))
        assert len(units) == 5
        assert [each.text for each in documents(everything(reader, units[::-1]))] == ["4", "3", "2", "1", "0"]


@pytest.mark.parametrize("cut_at", [700, 1024 + 100, 1024 + 512 + 3, 2048])
def test_a_tar_that_was_cut_off_is_not_a_shorter_one(tmp_path: Path, cut_at: int) -> None:
    path = write_tar(tmp_path / "x.tar", [{"key": str(n), "txt": b"x" * 500} for n in range(4)])
    path.write_bytes(path.read_bytes()[:cut_at])
    with pytest.raises(InvalidInput, match=r"x\.tar is not a readable tar after byte"):
        list(imports(tmp_path).plan(str(path), "webdataset"))


# --- benchmarks, folders of images


def test_m2kr_passages(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(PNG)
    lines: list[Any] = [
        {"passage_id": 1, "passage_text": "one", "passage_image_path": "a.jpg"},
        b'{"passage_id": "p2", "passage_text": "two", "passage_image_path": NaN}',
        {"passage_id": "p3", "passage_content": "original"},
        {"passage_text": "no id"},
        {"passage_id": "p5", "passage_text": "x", "passage_image_path": "gone.jpg"},
        {"passage_id": "p6", "passage_text": ""},
    ]
    path = write_jsonl(tmp_path / "oven_passages_test.jsonl", lines)
    reader = imports(tmp_path)
    items = everything(reader, list(reader.plan(str(path), "m2kr")))
    assert documents(items) == [
        Incoming(0, "1", "one", PNG), Incoming(1, "p2", "two"), Incoming(2, "p3", "original")
    ]  # fmt: skip
    assert [item.detail for _, item in items if isinstance(item, Rejected)] == [
        "oven_passages_test.jsonl line 4: passage_id is missing, expected an id or a list of ids",
        "oven_passages_test.jsonl line 5: image 'gone.jpg' cannot be read: FileNotFoundError",
        "oven_passages_test.jsonl line 6: neither text nor image: at least one is needed (got \"{'id': 'p6'}\")",
    ]


def test_mbeir_pools_and_where_their_images_are(tmp_path: Path) -> None:
    root = tmp_path / "M-BEIR"
    pools, pictures = root / "cand_pool" / "local", root / "mbeir_images"
    pools.mkdir(parents=True)
    pictures.mkdir()
    (pictures / "a.jpg").write_bytes(PNG)
    row = {"did": "9:1", "txt": "a dog", "img_path": "mbeir_images/a.jpg", "modality": "image,text", "src_content": "s"}
    write_jsonl(pools / "mbeir_cirr_task7_cand_pool.jsonl", [row, {"did": "9:2", "txt": None, "img_path": None}])
    write_jsonl(pools / "mbeir_oven_task6_cand_pool.jsonl", [{"did": "5:1", "txt": "Is it?", "img_path": None}])
    reader = imports(tmp_path)
    items = everything(reader, list(reader.plan(str(pools), "mbeir", {"metadata": ["modality"]})))
    assert documents(items) == [
        Incoming(0, "9:1", "A dog.", PNG, None, {"modality": "image,text"}), Incoming(2, "5:1", "Is it?")
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "table.csv"])
def test_a_folder_of_images_with_a_table_beside_them(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cat.png").write_bytes(PNG)
    if name.endswith("csv"):
        (tmp_path / name).write_text("file_name,text,kind\nin/cat.png,a cat,animal\ngone.png,x,y\n")
    else:
        rows = [{"file_name": "in/cat.png", "text": "a cat", "kind": "animal"}, {"file_name": "gone.png", "text": "x"}]
        write_jsonl(tmp_path / name, rows)
    reader = imports(tmp_path)
    (_, first), (_, second) = everything(reader, list(reader.plan(str(tmp_path), "images")))
    assert first == Incoming(0, None, "a cat", PNG, None, {"kind": "animal"})
    assert isinstance(second, Rejected)
    assert (
        second.detail
        == f"{name} line {3 if name.endswith('csv') else 2}: image 'gone.png' cannot be read: FileNotFoundError"
    )


def test_which_table_of_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has no file that ends with"):
        list(imports(tmp_path).plan(str(tmp_path), "images"))
    (tmp_path / "a.csv").write_text("file_name\n")
    (tmp_path / "b.csv").write_text("file_name\n")
    with pytest.raises(InvalidInput, match=r"several CSV or JSONL files \(a\.csv, b\.csv\)"):
        list(imports(tmp_path).plan(str(tmp_path), "images"))


# --- where files may be


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    (tmp_path / "root2").mkdir()
    write_jsonl(tmp_path / "root2" / "secret.jsonl", [{"text": "secret"}])
    (tmp_path / "secret.png").write_bytes(PNG)
    return write_jsonl(tmp_path / "secret.jsonl", [{"text": "secret"}])


@pytest.mark.parametrize(
    "uri",
    [
        "{0}/secret.jsonl",
        "{0}/root/../secret.jsonl",
        "file://{0}/secret.jsonl",
        "file://{0}/root/%2e%2e/secret.jsonl",
        "{0}/root2/secret.jsonl",
        "{0}/root/link.jsonl",
        "{0}/root/folder/secret.jsonl",
        "{0}/root/*.jsonl",
        "{0}/*.jsonl",
        "s3://bucket/docs.jsonl",
        "https://example.org/docs.jsonl",
    ],
)
def test_nothing_outside_the_roots_is_read(tmp_path: Path, outside: Path, uri: str) -> None:
    (tmp_path / "root" / "link.jsonl").symlink_to(outside)
    (tmp_path / "root" / "folder").symlink_to(tmp_path)
    reader = imports(tmp_path / "root")
    with pytest.raises(Forbidden):
        list(reader.plan(uri.format(tmp_path), "jsonl"))
    if not uri.startswith("https"):
        with pytest.raises(Forbidden):
            reader.check(uri.format(tmp_path), "jsonl")


@pytest.mark.parametrize(
    "uri",
    ["ftp://host/x.jsonl", "simplecache::s3://b/x", "github://a:b@c/x", "s3://k:s@bucket/x", "a\0b", "", "x" * 5000],
)
def test_a_uri_that_will_not_do(tmp_path: Path, uri: str) -> None:
    with pytest.raises(InvalidInput):
        imports(tmp_path).check(uri, "jsonl")


def test_without_roots_nothing_is_read(tmp_path: Path, outside: Path) -> None:
    with pytest.raises(Forbidden, match="none is set"):
        Imports(ImportSettings()).check(str(outside), "jsonl")


def test_a_row_cannot_name_a_file_outside(tmp_path: Path, outside: Path) -> None:
    root = tmp_path / "root"
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(root / "pipe.png")
    rows = [{"image": name} for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "a\0b", "pipe.png")]
    path = write_jsonl(root / "docs.jsonl", rows)
    reader = imports(root)
    items = everything(reader, list(reader.plan(str(path), "jsonl")))
    assert documents(items) == []
    with pytest.raises(Forbidden):
        reader.check(str(path), "jsonl", {"image": "image", "image_root": str(tmp_path)})
    wide = imports(tmp_path)
    mapping = {"image": "image", "image_root": str(tmp_path)}
    found = documents(everything(wide, list(wide.plan(str(path), "jsonl", mapping))))
    assert [(each.position, each.image) for each in found] == [(1, PNG)]  # the one whose path stays in that folder


def test_a_link_that_comes_between_plan_and_read_leads_nowhere(tmp_path: Path, outside: Path) -> None:
    path = write_jsonl(tmp_path / "root" / "docs.jsonl", [{"text": "mine"}])
    reader = imports(tmp_path / "root")
    (unit,) = reader.plan(str(path), "jsonl")
    path.unlink()
    path.symlink_to(outside)
    ((_, item),) = reader.read(unit)
    assert isinstance(item, Rejected)
    assert item.code == "forbidden"


def test_a_pipe_is_not_a_file(tmp_path: Path) -> None:
    """Opening one would hang."""
    os.mkfifo(tmp_path / "docs.jsonl")
    with pytest.raises(InvalidInput, match="is not a file"):
        list(imports(tmp_path).plan(str(tmp_path / "docs.jsonl"), "jsonl"))


def test_a_link_inside_the_root_is_followed(tmp_path: Path) -> None:
    """As the cache of Hugging Face has its files."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "docs.jsonl").symlink_to(write_jsonl(tmp_path / "blobs" / "abc", [{"text": "x"}]))
    reader = imports(tmp_path)
    for uri in ("snapshot", "snapshot/docs.jsonl", "snapshot/*.jsonl"):
        assert len(everything(reader, list(reader.plan(f"{tmp_path}/{uri}", "jsonl")))) == 1


def test_folders_patterns_and_what_is_not_there(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        write_jsonl(tmp_path / name, [{"text": name}])
    reader = imports(tmp_path)
    for uri in (str(tmp_path), f"{tmp_path}/*.jsonl", f"file://{tmp_path}/*.jsonl"):
        items = everything(reader, list(reader.plan(uri, "jsonl")))
        assert [(each.position, each.text) for each in documents(items)] == [(0, "a.jsonl"), (1, "b.jsonl")]
    for uri in (f"{tmp_path}/gone.jsonl", f"{tmp_path}/gone/*.jsonl"):
        with pytest.raises(NotFound):
            reader.check(uri, "jsonl")
    with pytest.raises(InvalidInput, match="has 2 files, limit is 1"):
        imports(tmp_path, max_files=1).check(str(tmp_path), "jsonl")
    with pytest.raises(InvalidInput, match="has more than 1 records"):
        list(imports(tmp_path, max_rows=1).plan(str(tmp_path), "jsonl"))


@pytest.mark.parametrize("format_", ["jsonl", "csv", "parquet", "webdataset"])
@pytest.mark.parametrize("data", [b"", b"\n\n", b"\0" * 10240])
def test_files_without_records_are_an_error_not_an_empty_success(tmp_path: Path, format_: str, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    if format_ == "jsonl" and data.startswith(b"\0"):
        return  # one line that is not JSON
    with pytest.raises(InvalidInput):
        list(imports(tmp_path).plan(str(tmp_path / "x"), format_))


# --- damage and change


def test_a_file_that_changed_is_rejected_to_the_last_record(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "docs.jsonl", [{"text": str(n)} for n in range(25)])
    reader = imports(tmp_path)
    units = list(reader.plan(str(path), "jsonl"))
    write_jsonl(path, [{"text": "new"}])
    items = everything(reader, units)
    assert [position for position, _ in items] == list(range(25))
    assert {item.detail for _, item in items if isinstance(item, Rejected)} == {
        "docs.jsonl has changed since this import was planned; import it again"
    }
    path.unlink()
    assert [item.code for _, item in everything(reader, units) if isinstance(item, Rejected)] == ["not_found"] * 25


def test_a_unit_of_another_count_still_adds_up(tmp_path: Path) -> None:
    """The file was written to without its size or time changing."""
    path = write_jsonl(tmp_path / "docs.jsonl", [{"text": str(n)} for n in range(3)])
    reader = imports(tmp_path)
    (unit,) = reader.plan(str(path), "jsonl")
    longer = list(reader.read(replace(unit, span=replace(unit.span, count=5))))
    assert [isinstance(item, Incoming) for _, item in longer] == [True, True, True, False, False]
    assert len(list(reader.read(replace(unit, span=replace(unit.span, count=2))))) == 2


def test_a_damaged_page_of_parquet_costs_what_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "docs.parquet"
    rows = [{"id": str(n), "text": os.urandom(50).hex()} for n in range(100)]
    pq.write_table(
        pa.table({k: [r[k] for r in rows] for k in ("id", "text")}), path, row_group_size=50, write_page_checksum=True
    )
    data = bytearray(path.read_bytes())
    data[1000:1200] = b"\xff" * 200
    path.write_bytes(data)
    reader = imports(tmp_path, rows=50)
    items = everything(reader, list(reader.plan(str(path), "parquet")))
    assert [position for position, _ in items] == list(range(100))
    assert [each.position for each in documents(items)] == list(range(50, 100))


def test_a_cut_off_gz_is_an_error(tmp_path: Path) -> None:
    path = write_gz(tmp_path / "docs.jsonl.gz", [{"text": os.urandom(20).hex()} for _ in range(1000)])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InvalidInput, match=r"docs\.jsonl\.gz is not a readable compressed file"):
        list(imports(tmp_path).plan(str(path), "jsonl"))


def test_a_store_that_does_not_answer_is_no_fault_of_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_jsonl(tmp_path / "docs.jsonl", [{"text": "x"}])
    reader = imports(tmp_path)
    (unit,) = reader.plan(str(path), "jsonl")

    def unreachable(_self: Places, _uri: str, _stop: object) -> Any:
        raise DependencyUnavailable("the store does not answer")

    monkeypatch.setattr(Places, "open", unreachable)
    with pytest.raises(DependencyUnavailable):
        list(reader.read(unit))


# --- memory


@pytest.mark.parametrize(
    "name", ["docs.jsonl", "docs.jsonl.gz", "docs.csv", "docs.parquet", "one-group.parquet", "docs.tar"]
)
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    """20 and 80 MB of documents, planned and read: the peak is the same."""
    format_, write = WRITERS[name]
    reader = imports(tmp_path, rows=500)

    def peak_bytes(count: int) -> int:
        path = write(tmp_path / name, [{"id": f"{number:06}", "text": "x" * 10_000} for number in range(count)])
        tracemalloc.start()
        arrow = pa.total_allocated_bytes()
        highest, read = 0, 0
        for unit in reader.plan(str(path), format_):
            for _ in reader.read(unit):
                read += 1
                highest = max(highest, pa.total_allocated_bytes() - arrow)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert read == count
        return peak + highest

    small, large = peak_bytes(2000), peak_bytes(8000)
    assert large < small * 1.2 + 500_000
    assert large < 16_000_000


def test_images_of_parquet_as_bytes_and_as_hugging_face_has_them(tmp_path: Path) -> None:
    table = pa.table({"image": [{"bytes": PNG, "path": None}], "raw": [PNG], "b64": [base64.b64encode(PNG).decode()]})
    pq.write_table(table, tmp_path / "x.parquet")
    reader = imports(tmp_path)
    for name in ("image", "raw"):
        ((_, item),) = everything(reader, list(reader.plan(str(tmp_path / "x.parquet"), "parquet", {"image": name})))
        assert isinstance(item, Incoming)
        assert item.image == PNG
