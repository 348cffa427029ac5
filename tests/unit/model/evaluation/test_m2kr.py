from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.errors import InvalidInput
from model.evaluation import m2kr
from model.evaluation.benchmark_files import Entry, Query, first

QUERY = {
    "data_id": "q1",
    "instruction": "Using the image, answer.",
    "question": "What is this?",
    "image_path": "oven/1.jpg",
    "passage_id": "p1",
}
PASSAGE = {"passage_id": "p1", "passage_text": "A tower.", "passage_image_path": None}


def write(path: Path, *records: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def ret(folder: Path, name: str = "oven", *, query: Any = QUERY, passage: Any = PASSAGE) -> Path:
    write(folder / f"jsonl/m2kr/{'evqa_test_m2kr' if name == 'evqa' else f'{name}_test'}.jsonl", query)
    write(folder / f"jsonl/m2kr/{name}_passages_test.jsonl", passage)
    return folder


def one_query(folder: Path, **changes: Any) -> Query:
    return next(m2kr.find(ret(folder, query={**QUERY, **changes}))[0].queries())


def test_ret_m2kr_rows(tmp_path: Path) -> None:
    [found] = m2kr.find(ret(tmp_path))
    assert (found.name, found.layout) == ("oven", m2kr.Layout.RET)
    text = "Using the image, answer. What is this?"
    assert list(found.queries()) == [Query("q1", text, "oven/1.jpg", frozenset({"p1"}))]
    assert list(found.passages()) == [Entry("p1", "A tower.", None)]


def test_a_question_that_is_nan_leaves_the_instruction(tmp_path: Path) -> None:
    query = one_query(tmp_path, question=float("nan"), image_path=None)
    assert "NaN" in (tmp_path / "jsonl/m2kr/oven_test.jsonl").read_text()
    assert (query.text, query.image) == ("Using the image, answer.", None)


def test_ids_are_strings_whether_one_or_several(tmp_path: Path) -> None:
    query = one_query(tmp_path, data_id=7, passage_id=[3, "p1"])
    assert query.id == "7"
    assert query.positives == {"3", "p1"}


def test_answers_may_be_objects_with_the_key_wikidata(tmp_path: Path) -> None:
    answers = ["Paris", {"wikidata": 12.5, "range": [12, 13]}, {"wikidata": ["a", "b"]}]
    assert one_query(tmp_path, answer=answers).answers == ("Paris", "12.5", "a", "b")


def test_evqa_has_a_file_name_of_its_own_and_sets_come_in_published_order(tmp_path: Path) -> None:
    for name in ("okvqa", "evqa", "wit"):
        ret(tmp_path, name)
    assert [one.name for one in m2kr.find(tmp_path)] == ["wit", "evqa", "okvqa"]


def test_an_empty_passage_text_is_no_text(tmp_path: Path) -> None:
    ret(tmp_path, passage={"passage_id": "p1", "passage_text": "", "passage_image_path": "a.jpg"})
    assert list(m2kr.find(tmp_path)[0].passages()) == [Entry("p1", None, "a.jpg")]


def test_the_original_layout_out_of_parquet_shards(tmp_path: Path) -> None:
    query = {
        "question_id": "q1",
        "question": "What?",
        "instruction": "Answer.",
        "img_path": "x.jpg",
        "pos_item_ids": ["p1", "p2"],
        "answers": ["one"],
    }
    for folder, name, records in (
        ("EVQA_data", "test-00000-of-00001", [query]),
        ("EVQA_data", "train-00000-of-00001", [{**query, "question_id": "not this"}]),
        ("EVQA_passages", "test_passages-00000-of-00002", [{"passage_id": "p1", "passage_content": "one"}]),
        ("EVQA_passages", "test_passages-00001-of-00002", [{"passage_id": "p2", "passage_content": "two"}]),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(records), tmp_path / folder / f"{name}.parquet")
    [found] = m2kr.find(tmp_path)
    assert (found.name, found.layout) == ("evqa", m2kr.Layout.ORIGINAL)
    assert list(found.queries()) == [Query("q1", "Answer. What?", "x.jpg", frozenset({"p1", "p2"}), ("one",))]
    assert list(found.passages()) == [Entry("p1", "one", None), Entry("p2", "two", None)]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"passage_id": None}, "passage_id is missing, expected an id or a list of ids"),
        ({"passage_id": [1.0]}, "passage_id is list"),
        ({"question": 3}, "question is int '3', expected text"),
        ({"data_id": ["a", "b"]}, "data_id is list .* expected one id"),
        ({"answer": [{"other": 1}]}, r"answer has an object without the key 'wikidata', its keys are \['other'\]"),
        ({"answer": [None]}, "answer has a NoneType"),
    ],
)
def test_a_wrong_row_says_file_line_and_what(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    ret(tmp_path)
    write(tmp_path / "jsonl/m2kr/oven_test.jsonl", QUERY, {**QUERY, **changes})
    with pytest.raises(InvalidInput, match=f"oven_test.jsonl line 2: {what}"):
        list(m2kr.find(tmp_path)[0].queries())


@pytest.mark.parametrize(("line", "what"), [("{", "is not JSON"), ("[1]", "is a JSON list")])
def test_a_line_that_is_no_record_says_where(tmp_path: Path, line: str, what: str) -> None:
    ret(tmp_path)
    (tmp_path / "jsonl/m2kr/oven_passages_test.jsonl").write_text(f"{json.dumps(PASSAGE)}\n\n{line}\n")
    with pytest.raises(InvalidInput, match=f"oven_passages_test.jsonl line 3 {what}"):
        list(m2kr.find(tmp_path)[0].passages())


def test_what_is_not_there_or_there_twice_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has no set of M2KR"):
        m2kr.find(tmp_path)
    with pytest.raises(InvalidInput, match="no folder"):
        m2kr.find(tmp_path / "nowhere")
    write(ret(tmp_path) / "copy/oven_test.jsonl", QUERY)
    with pytest.raises(InvalidInput, match=r"oven_test\.jsonl is there more than once"):
        m2kr.find(tmp_path)


def test_folders_of_images_are_not_searched_for_rows(tmp_path: Path) -> None:
    write(ret(tmp_path) / "images/oven_test.jsonl", QUERY)
    assert len(m2kr.find(tmp_path)) == 1


def test_a_quick_look_keeps_the_right_candidates() -> None:
    entries = [Entry(str(n), "x", None) for n in range(5)]
    assert [entry.id for entry in first(2, lambda: iter(entries), frozenset({"3"}))()] == ["0", "1", "3"]


def test_published_columns_are_those_of_the_facts() -> None:
    columns = {name: [str(metric) for metric in metrics] for name, metrics in m2kr.SETS.items()}
    assert columns["wit"] == ["R@10"]
    assert columns["iglue"] == columns["llava"] == ["R@1"]
    assert all(columns[name] == ["R@5"] for name in ("kvqa", "oven", "msmarco"))
    assert all(columns[name] == ["R@5", "PR@5"] for name in ("okvqa", "infoseek", "evqa"))
