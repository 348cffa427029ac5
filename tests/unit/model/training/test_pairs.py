"""A user's pairs out of JSONL and Parquet: every form of an image, what is told of a bad row, and which documents are the same."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import InvalidInput
from model.training.pairs import Example, read_pairs, split


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def pair(query: str = "q", document: str = "d", **more: Any) -> dict[str, Any]:
    return {"query": {"text": query}, "document": {"text": document}} | more


def test_every_form_of_an_image_is_the_same_image(tmp_path: Path, png: Callable[..., bytes]) -> None:
    data = png("red", size=(30, 20))
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "red.png").write_bytes(data)
    encoded = base64.b64encode(data).decode()
    forms = ["pictures/red.png", encoded, f"data:image/png;base64,{encoded}", {"base64": encoded}]
    pairs = read_pairs(jsonl(tmp_path / "p.jsonl", *(pair() | {"query": {"image": form}} for form in forms)))
    keys = [example.query[1] for example in pairs.examples]
    assert keys[0] == "file:pictures/red.png"
    assert len(set(keys[1:])) == 1
    assert {pairs.images[key or ""] for key in keys} == {data}


def test_parquet_has_the_same_rows_and_bytes(tmp_path: Path, png: Callable[..., bytes]) -> None:
    rows = [
        {
            "query": {"text": "what is this", "image": png("blue")},
            "document": {"id": "7", "text": "blue"},
            "negatives": [{"text": "red"}],
            "label": "b",
        },
        {
            "query": {"text": "red?", "image": None},
            "document": {"id": None, "text": "red"},
            "negatives": None,
            "label": None,
        },
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    pairs = read_pairs(tmp_path / "p.parquet")
    first, second = pairs.examples
    assert (first.key, first.label, first.document) == ("id:7", "label:b", ("blue", None))
    assert first.query[0] == "what is this"
    assert pairs.images[first.query[1] or ""] == png("blue")
    assert first.negatives[0][0] == second.key  # the other pair's document, known by its content
    assert second.label == second.key


BAD = [
    ("nonsense", "not JSON"),
    ([1], "is a JSON list, it must be an object"),
    ({"document": {"text": "d"}}, "query is missing, expected an object"),
    ({"query": {"text": "  "}, "document": {"text": "d"}}, "query has neither text nor image"),
    ({"query": {"text": 3}, "document": {"text": "d"}}, "query.text is int '3', expected text"),
    ({"query": {"text": "q"}, "document": {"image": "gone.png"}}, "document.image 'gone.png' is no file in"),
    ({"query": {"text": "q"}, "document": {"image": "broken.png"}}, "'broken.png': image cannot be read"),
    ({"query": {"text": "q"}, "document": {"image": "../outside.png"}}, "is outside"),
    ({"query": {"text": "q"}, "document": {"image": "https://x/y.png"}}, "is an address"),
    ({"query": {"text": "q"}, "document": {"image": {"base64": "%%%"}}}, "document.image is not base64"),
    (pair(negatives="x"), "negatives is str 'x', expected a list"),
    (pair(negatives=[{}]), "negatives[0] has neither text nor image"),
    (pair(label=[1]), "label is list"),
]


@pytest.mark.parametrize(("row", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_a_bad_row_is_left_out_with_its_line_and_reason(
    row: Any, reason: str, tmp_path: Path, png: Callable[..., bytes]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "broken.png").write_bytes(b"no image at all")
    (tmp_path / "outside.png").write_bytes(png())
    file = jsonl(folder / "p.jsonl", pair(), "", row, pair("other"))
    pairs = read_pairs(file)
    assert [example.query[0] for example in pairs.examples] == ["q", "other"]
    (fault,) = pairs.faults
    assert fault.where == "p.jsonl line 3"
    assert reason in fault.reason
    with pytest.raises(InvalidInput, match="line 3"):
        read_pairs(file, strict=True)


def test_a_truncated_picture_is_found_before_training(tmp_path: Path, png: Callable[..., bytes]) -> None:
    (tmp_path / "half.jpg").write_bytes(png(size=(300, 300), kind="JPEG")[:700])
    with pytest.raises(
        InvalidInput, match=r"p\.jsonl has no usable pair; the first of 1 bad ones is p\.jsonl line 1: 'half"
    ):
        read_pairs(jsonl(tmp_path / "p.jsonl", {"query": {"image": "half.jpg"}, "document": {"text": "d"}}))


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"\.csv'"):
        read_pairs(tmp_path / "p.csv")
    with pytest.raises(InvalidInput, match="is not a file"):
        read_pairs(tmp_path / "p.jsonl")
    (tmp_path / "p.parquet").write_bytes(b"PAR0")
    with pytest.raises(InvalidInput, match="not a readable Parquet file"):
        read_pairs(tmp_path / "p.parquet")


def test_one_document_with_and_without_its_id_is_one(tmp_path: Path) -> None:
    rows = [pair("a", "same"), pair("b", "same"), pair("c", "other", negatives=[{"text": "same"}])]
    rows[1]["document"]["id"] = "7"
    pairs = read_pairs(jsonl(tmp_path / "p.jsonl", *rows))
    assert [example.key for example in pairs.examples][:2] == ["id:7", "id:7"]
    assert pairs.examples[0].label == pairs.examples[1].label
    assert pairs.examples[2].negatives[0][0] == "id:7"


def test_a_document_answers_every_label_it_stands_with(tmp_path: Path) -> None:
    rows = [pair("a", "one", label="x"), pair("b", "one", label="y"), pair("c", "two", label="x")]
    pairs = read_pairs(jsonl(tmp_path / "p.jsonl", *rows))
    one, _, two = pairs.examples
    assert pairs.labels() == {one.key: {"label:x", "label:y"}, two.key: {"label:x"}}


def test_the_split_is_by_the_query_and_stays() -> None:
    examples = [Example((f"q{number % 500}", None), (f"d{number}", None), f"k{number}", "l") for number in range(1000)]
    train, held = split(examples, 0.1)
    assert len(train) + len(held) == 1000
    assert 60 <= len(held) <= 140
    assert not {one.query for one in train} & {one.query for one in held}
    assert split(examples, 0.1) == (train, held)
    assert split([*examples[500:], *examples[:500]], 0.1)[1] == [*held[len(held) // 2 :], *held[: len(held) // 2]]
