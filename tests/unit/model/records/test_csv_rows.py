"""CSV: strict quotes that harm one row, large cells, delimiters and encodings that are found or asked for."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from import_files import faults_of, fields_of, read_both, read_whole

from model.records import csv_rows


def write(path: Path, content: str | bytes, encoding: str = "utf-8") -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def ids(documents: Any) -> list[str]:
    return [fields["id"] for fields in fields_of(documents)]


def test_a_quote_that_is_never_closed_harms_its_row_alone(tmp_path: Path) -> None:
    rows = "".join(f"r{number},{chr(34) if number == 4 else ''}row number {number}\n" for number in range(5000))
    documents = read_both(write(tmp_path / "x.csv", f"id,text\n{rows}"), "csv", rows=1000)
    assert ids(documents) == [f"r{number}" for number in range(5000) if number != 4]
    assert faults_of(read_whole(tmp_path / "x.csv", "csv")) == [
        "x.csv line 6 is not CSV: a quote opens in it that is not closed before a delimiter or the end of a line; "
        "lines 7 to 5001, which it swallowed, were read as rows of their own"
    ]


def test_a_row_that_a_quote_swallowed_is_not_lost_inside_another(tmp_path: Path) -> None:
    content = 'id,text,n\na,"open, 4\nb,"another ""open"" end",5\nc,"two\nlines",6\nd,"screen" of 55",7\ne,last,8\n'
    documents = read_both(write(tmp_path / "x.csv", content), "csv")
    assert [(fields["id"], fields["text"]) for fields in fields_of(documents)] == [
        ("b", 'another "open" end'), ("c", "two\nlines"), ("e", "last")
    ]  # fmt: skip
    assert [fault.partition(" is not CSV")[0] for fault in faults_of(documents)] == ["x.csv line 2", "x.csv line 6"]


def test_a_cell_may_be_as_large_as_an_image_in_base64(tmp_path: Path) -> None:
    long = "A" * (28 * 2**20)
    documents = read_whole(write(tmp_path / "x.csv", f'id,text\na,"{long}"\nb,short\n'), "csv")
    assert [len(fields["text"]) for fields in fields_of(documents)] == [len(long), 5]


def test_a_row_over_the_bound_harms_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(csv_rows, "_READ_BYTES", 64)
    lines = [
        "id,text",
        "a,x",
        f"b,{'y' * 2000}",
        "c,x",
        'd,"' + "\n".join(["z" * 90] * 20) + '"',
        f'e,"q\n{"w" * 1500}"',
        "f,x",
    ]
    documents = read_both(write(tmp_path / "x.csv", "\n".join(lines)), "csv")
    assert ids(documents) == ["a", "c", "f"]
    assert "x.csv line 3 is over 1000 bytes" in faults_of(documents)
    assert any(fault.startswith("x.csv line 5 is in a row of over 1000 bytes") for fault in faults_of(documents))


def test_a_row_of_commas_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "_MAX_CELLS", 100)
    documents = read_both(write(tmp_path / "x.csv", f"id,text\na,x\n{',' * 200}\nb,x\n"), "csv")
    assert ids(documents) == ["a", "b"]
    assert faults_of(documents) == ["x.csv line 3 is in a row of over 100 cells"]


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("id,text\na,ä cat\n", "utf-8"),
        ("id,text\na,ä cat\n", "utf-8-sig"),
        ("id;text\na;ä cat\n", "utf-8"),
        ("id\ttext\r\na\tä cat\r\n", "utf-8"),
        ("id|text\na|ä cat\n", "utf-8"),
        ("sep=;\nid;text\na;ä cat\n", "utf-8"),
        ("id,text\ra,ä cat\r", "utf-8"),
        ("id, text\na, ä cat\n", "utf-8"),
        ("id,text\na,ä cat\n", "utf-16"),
        ("id\ttext\na\tä cat\n", "utf-16-le"),
        ("id,text\na,ä cat\n", "utf-16-be"),
        ('"id";"text"\n"a";"ä cat"\n', "utf-8"),
        ("id;text\na;ä cat\nb;one, two\n", "utf-8"),
    ],
)
def test_delimiter_encoding_and_line_ends_are_found(tmp_path: Path, content: str, encoding: str) -> None:
    documents = read_both(write(tmp_path / "x.csv", content, encoding), "csv")
    assert fields_of(documents)[0] == {"id": "a", "text": "ä cat"}
    assert not faults_of(documents)


def test_what_cannot_be_told_is_asked_for_in_one_sentence(tmp_path: Path) -> None:
    (fault,) = faults_of(read_whole(write(tmp_path / "x.csv", "id;a,text\n1;2,3\n"), "csv"))
    assert fault == (
        "x.csv may be delimited by comma or semicolon: the first row has each of them; name it with mapping.delimiter"
    )
    mapping = {"text": "text", "delimiter": ";"}
    content = "id;text\na;ä\n".encode("latin-1")
    (fault,) = faults_of(read_whole(write(tmp_path / "y.csv", content), "csv"))
    assert fault == "y.csv line 2 is not UTF-8; name the encoding of the file with mapping.encoding"
    documents = read_whole(tmp_path / "y.csv", "csv", {**mapping, "encoding": "windows-1252"})
    assert fields_of(documents) == [{"text": "ä"}]
    assert fields_of(read_whole(tmp_path / "y.csv", "csv", {"encoding": "iso-8859-1"})) == [{"id": "a", "text": "ä"}]


def reference(content: bytes) -> list[tuple[int, list[str] | None]]:
    """Read slowly and plainly: each row from the text that is left, one line more at a time, until it is well formed."""
    lines = content.decode().splitlines(keepends=True)
    rows: list[tuple[int, list[str] | None]] = []
    place = 0
    while place < len(lines):
        cells, used = None, 1
        for end in range(place + 1, len(lines) + 1):
            try:
                (cells,) = csv.reader(io.StringIO("".join(lines[place:end]), newline=""), strict=True)
            except ValueError:
                cells = []
                break
            except csv.Error as error:
                if "unexpected end" not in str(error):
                    break
                continue
            used = end - place
            break
        if cells is None or cells:
            rows.append((place + 1, cells))
        place += used
    return rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    lines=st.lists(st.text(st.sampled_from('ab", '), max_size=8), max_size=12),
    rows=st.integers(1, 4),
)
def test_every_line_is_a_document_or_a_failure_as_a_plain_reader_has_it(
    tmp_path: Path, lines: list[str], rows: int
) -> None:
    content = "id,text\n" + "".join(f"{line}\n" for line in lines)
    # The fields alone: blanks after a delimiter are a question of the header.
    documents = read_both(write(tmp_path / "x.csv", content), "csv", {"text": "text", "id": "id"}, rows)
    expected = reference(content.encode())[1:]
    assert [document.where for document in documents] == [f"x.csv line {number}" for number, _ in expected]
    for document, (_, cells) in zip(documents, expected, strict=True):
        is_good = cells is not None and len(cells) == 2
        assert isinstance(document.fields, dict) == is_good
        if is_good and cells is not None:
            assert [document.fields.get("id", ""), document.fields.get("text", "")] == cells  # type: ignore[union-attr]
