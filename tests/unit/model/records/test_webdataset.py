"""WebDataset: the members of a key are one sample wherever they stand; what is repeated, unused or too large is said."""

import random
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from import_files import PNG, faults_of, fields_of, read_both, read_whole, write_tar

from indexer.imports import local_reader
from model.records import webdataset

MODES = [("x.tar", "w"), ("x.tar.gz", "w:gz"), ("x.tar.xz", "w:xz")]


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_members_of_one_key_are_one_document_wherever_they_stand(tmp_path: Path, name: str, mode: str) -> None:
    pictures = [(f"{number}.jpg", PNG) for number in range(6)]
    texts = [(f"{number}.txt", b"text %d" % number) for number in range(6)]
    documents = read_both(write_tar(tmp_path / name, [*pictures, *texts], mode), "webdataset")
    assert [(fields["text"], fields["image"]) for fields in fields_of(documents)] == [
        (f"text {number}", PNG) for number in range(6)
    ]
    assert not faults_of(documents)


def test_a_repeated_key_is_said_and_harms_no_other(tmp_path: Path) -> None:
    members = [
        ("a.jpg", PNG),
        ("a.txt", b"first"),
        ("b.txt", b"b"),
        ("a.jpg", PNG),
        ("a.txt", b"second"),
        ("c.txt", b"c"),
        ("c.txt", b"d"),
    ]
    documents = read_both(write_tar(tmp_path / "x.tar", members), "webdataset")
    assert [fields["text"] for fields in fields_of(documents)] == ["first", "b"]
    assert faults_of(documents) == [
        "x.tar sample 3 (a) repeats the key of sample 1 with members that it has: 'a.jpg', 'a.txt'; keys must be unique in a shard",
        "x.tar sample 4 (c) has two members 'txt'",
    ]


def test_dots_in_names_and_pictures_that_are_not_used(tmp_path: Path) -> None:
    members = [("shot.front.jpg", PNG), ("shot.txt", b"a shot"), ("0.input.jpg", PNG), ("0.outputs.txt", b"out")]
    members += [(f"IMG.{number}.jpg", PNG) for number in range(3)]
    documents = read_both(write_tar(tmp_path / "x.tar", members), "webdataset")
    assert [(fields.get("text"), fields["image"]) for fields in fields_of(documents)] == [
        ("a shot", PNG), ("out", PNG), (None, PNG)
    ]  # fmt: skip
    unused = "a picture (.jpg) of a sample that its document does not use"
    assert [document.left_out for document in documents] == [(), (), (unused, unused)]
    mapped = read_whole(tmp_path / "x.tar", "webdataset", {"text": "txt"})
    assert mapped[0].left_out == (unused,)


def test_shards_of_one_name_in_two_folders_have_other_ids(tmp_path: Path) -> None:
    identifiers = set()
    for folder in ("cc3m", "cc12m"):
        (tmp_path / folder).mkdir()
        path = write_tar(tmp_path / folder / "00000.tar", [("1.txt", b"x")])
        identifiers |= {fields["id"] for fields in fields_of(read_both(path, "webdataset"))}
    assert identifiers == {"cc3m/00000/1", "cc12m/00000/1"}


def test_a_sample_over_the_bound_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "MAX_RECORD_BYTES", 1000)
    members = [("a.txt", b"a"), *[(f"b.x{number}.jpg", b"x" * 400) for number in range(3)], ("c.txt", b"c")]
    documents = read_both(write_tar(tmp_path / "x.tar", members), "webdataset")
    assert [fields["text"] for fields in fields_of(documents)] == ["a", "c"]
    assert faults_of(documents) == [
        "x.tar sample 2: with 'b.x2.jpg', which has 400 bytes, the sample is over 1000 bytes"
    ]


def test_a_header_that_asks_for_gigabytes_is_not_read(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 3 << 30
    good = write_tar(tmp_path / "good.tar", [("a.txt", b"a"), ("b.txt", b"b")]).read_bytes().rstrip(b"\0")
    good += b"\0" * (-len(good) % 512)
    (tmp_path / "x.tar").write_bytes(good + header.tobuf() + b"\0" * 10240)
    documents = read_both(tmp_path / "x.tar", "webdataset")
    assert [fields["text"] for fields in fields_of(documents)] == ["a"]
    assert "a header of 3221225472 bytes, limit is 1048576" in faults_of(documents)[0]


def test_what_stands_behind_the_end_of_the_archive_is_said(tmp_path: Path) -> None:
    first = write_tar(tmp_path / "a.tar", [("a.txt", b"a")]).read_bytes()
    (tmp_path / "x.tar").write_bytes(first + write_tar(tmp_path / "b.tar", [("b.txt", b"b")]).read_bytes())
    documents = read_both(tmp_path / "x.tar", "webdataset")
    assert [fields["text"] for fields in fields_of(documents)] == []
    assert "goes on after the end of the archive" in faults_of(documents)[-1]


def reference(members: list[tuple[str, bytes]]) -> list[tuple[str, set[str]] | None]:
    """Put members together slowly and plainly: runs of neighbours, each to the sample of its key unless that has one of them."""
    runs: list[tuple[str, list[str]]] = []
    for name, _ in members:
        key, _, kind = name.partition(".")
        if not runs or runs[-1][0] != key:
            runs.append((key, []))
        runs[-1][1].append(kind)
    samples: list[tuple[str, list[str]] | None] = []
    for key, kinds in runs:
        known = next((sample for sample in samples if sample and sample[0] == key), None)
        if known is None:
            samples.append((key, list(kinds)))
        elif set(known[1]) & set(kinds):
            samples.append(None)
        else:
            known[1].extend(kinds)
    return [None if s is None or len(set(s[1])) < len(s[1]) else (s[0], set(s[1])) for s in samples]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(
    members=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["txt", "jpg", "json"])), min_size=1, max_size=10
    ),
    mode=st.sampled_from(MODES[:2]),
    rows=st.integers(1, 3),
)
def test_any_order_of_members_gives_what_a_plain_reader_gives(
    tmp_path: Path, members: list[tuple[str, str]], mode: tuple[str, Any], rows: int
) -> None:
    content = {"txt": b"text", "jpg": PNG, "json": b'{"n": 1}'}
    named = [(f"{key}.{kind}", content[kind]) for key, kind in members]
    documents = read_both(write_tar(tmp_path / mode[0], named, mode[1]), "webdataset", None, rows)
    expected = reference(named)
    assert len(documents) == len(expected)
    for document, sample in zip(documents, expected, strict=True):
        if sample is None:
            assert not isinstance(document.fields, dict)
            continue
        key, kinds = sample
        assert isinstance(document.fields, dict)
        assert document.fields["id"] == f"{tmp_path.name}/x/{key}"
        assert ("text" in document.fields, "image" in document.fields) == ("txt" in kinds, "jpg" in kinds)
        assert ("n" in document.fields["metadata"]) == ("json" in kinds)


def test_memory_does_not_grow_with_a_scattered_shard(tmp_path: Path) -> None:
    """The index goes to a temporary file; members are read from where they stand."""
    order = [(f"{number}.{kind}", b"x" * 2000) for kind in ("txt", "text") for number in range(3000)]
    random.Random(1).shuffle(order)
    write_tar(tmp_path / "x.tar", order)
    tracemalloc.start()
    assert len(read_iterated(tmp_path / "x.tar")) == 3000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6_000_000


def read_iterated(path: Path) -> set[str]:
    return {document["id"] for _, document in local_reader.read(path) if isinstance(document, dict)}
