from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from model.errors import InvalidInput
from model.evaluation import mbeir
from model.evaluation.benchmark_files import Entry, Query

QUERY = {
    "qid": "5:1",
    "query_txt": "what is this",
    "query_img_path": "mbeir_images/q.jpg",
    "query_modality": "image,text",
}
CANDIDATE = {"did": "5:10", "txt": "a tower", "img_path": None, "modality": "text"}
PROMPTS = "query_modality\tcand_modality\tdataset_name\tdataset_id\tprompt_1\tprompt_2\tprompt_3\tprompt_4\n"
OVEN = "image,text\ttext\tOVEN\t5\tfirst one\tsecond\tthird\tfourth\n"
IT, T = frozenset({"image", "text"}), frozenset({"text"})


def write(path: Path, *records: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records))
    return path


def task(folder: Path, key: str = "oven_task6") -> Path:
    write(folder / f"query/test/mbeir_{key}_test.jsonl", QUERY)
    write(folder / f"qrels/test/mbeir_{key}_test_qrels.txt", "5:1 0 5:10 1 6", "5:1 0 5:11 0 6", "5:1 0 5:12 1 6")
    write(folder / f"cand_pool/local/mbeir_{key}_cand_pool.jsonl", CANDIDATE)
    return folder


def test_queries_candidates_and_qrels(tmp_path: Path) -> None:
    [found] = mbeir.find(task(tmp_path))
    assert found.task.name == "OVEN it→t"
    prompts = {("oven", IT, T): ("find the page",)}
    [query] = found.queries(prompts, "random")
    assert query == Query("5:1", "Find the page what is this.", "mbeir_images/q.jpg", frozenset({"5:10", "5:12"}))
    assert found.pool_file is not None
    assert list(mbeir.candidates(found.pool_file)) == [Entry("5:10", "A tower.", None)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b", "A b."),
        ("the NASA logo", "The NASA logo."),
        (' "quoted" \r', "Quoted."),
        ("why?", "Why?"),
        ("Stop!", "Stop!"),
        (" ", ""),
        ("élan", "Élan."),
    ],
)
def test_sentences_are_those_of_uniir(text: str, expected: str) -> None:
    assert mbeir.sentence(text) == expected


def test_prompts_are_drawn_by_the_query_and_repeat(tmp_path: Path) -> None:
    [found] = mbeir.find(task(tmp_path))
    many = [{**QUERY, "qid": f"5:{n}"} for n in range(40)]
    write(found.query_file, *many)
    write(found.qrels_file, *(f"5:{n} 0 5:10 1 6" for n in range(40)))
    prompts = {("oven", IT, T): ("one", "two", "three", "four")}
    texts = [query.text for query in found.queries(prompts, "random")]
    assert {text.split()[0] for text in texts if text} == {"One", "Two", "Three", "Four"}
    assert texts == [query.text for query in found.queries(prompts, "random")]
    assert {query.text for query in found.queries(prompts, "first")} == {"One what is this."}
    assert {query.text for query in found.queries({}, "none")} == {"What is this."}


def test_the_table_of_instructions_by_its_headings(tmp_path: Path) -> None:
    path = tmp_path / "instructions/query_instructions.tsv"
    write(path, PROMPTS + OVEN + 'text,image\timage, text\tOVEN\t5\tsay "this"\t\t\t')
    found = mbeir.instructions(path)
    assert found["oven", IT, T] == ("first one", "second", "third", "fourth")
    assert found["oven", IT, IT] == ('say "this"',)
    assert mbeir.instructions_file(tmp_path) == path


@pytest.mark.parametrize(
    ("table", "what"),
    [
        ("a\tb\n", "line 1: 0 columns have dataset and id in their heading"),
        (PROMPTS + OVEN.replace("\t5\t", "\t12\t"), "line 2: dataset id is '12', expected 0 to 9"),
        (PROMPTS + OVEN.replace("image,text", "sound"), "line 2: modality is 'sound'"),
        (PROMPTS + OVEN + "text\ttext\n", "line 3: has 2 columns"),
    ],
)
def test_a_wrong_table_of_instructions_says_where(tmp_path: Path, table: str, what: str) -> None:
    path = write(tmp_path / "instructions.tsv", table)
    with pytest.raises(InvalidInput, match=f"instructions.tsv {what}"):
        mbeir.instructions(path)


def test_a_task_without_a_prompt_is_refused(tmp_path: Path) -> None:
    [found] = mbeir.find(task(tmp_path))
    with pytest.raises(InvalidInput, match="no prompt for oven_task6"):
        list(found.queries({}, "random"))


@pytest.mark.parametrize(
    ("line", "what"),
    [("5:1 0 5:10 1", "has 4 fields, expected 5"), ("5:1 0 5:10 yes 6", ": relevance is 'yes'")],
)
def test_wrong_qrels_say_file_line_and_what(tmp_path: Path, line: str, what: str) -> None:
    path = write(tmp_path / "some_qrels.txt", "5:1 0 5:10 1 6", line)
    with pytest.raises(InvalidInput, match=f"some_qrels.txt line 2{what if what[0] == ':' else f' {what}'}"):
        mbeir.qrels(path)


def test_a_query_without_qrels_says_file_line_and_which(tmp_path: Path) -> None:
    [found] = mbeir.find(task(tmp_path))
    write(found.query_file, QUERY, {**QUERY, "qid": "5:2"})
    with pytest.raises(InvalidInput, match=r"mbeir_oven_task6_test\.jsonl line 2: qid '5:2' has no line in"):
        list(found.queries({}, "none"))


def test_mscoco_has_a_pool_of_its_test_split(tmp_path: Path) -> None:
    pool = write(task(tmp_path, "mscoco_task0") / "cand_pool/local/mbeir_mscoco_task0_test_cand_pool.jsonl", CANDIDATE)
    assert [one.pool_file for one in mbeir.find(tmp_path)] == [pool]


def test_the_global_pool_is_the_union_of_the_local_ones(tmp_path: Path) -> None:
    for one in mbeir.TASKS[1:]:
        task(tmp_path, one.key)
    pools, lacking = mbeir.global_pool(tmp_path)
    assert len(pools) == 15
    assert lacking == ["visualnews_task0"]
    union = write(tmp_path / "cand_pool/global/mbeir_union_test_cand_pool.jsonl", CANDIDATE)
    assert mbeir.global_pool(tmp_path) == ([union], [])
    task(tmp_path, "visualnews_task0")
    pools, lacking = mbeir.global_pool(tmp_path)
    assert (len(pools), lacking) == (16, [])


def test_a_folder_without_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has no task of M-BEIR"):
        mbeir.find(tmp_path)


def test_published_figures_average_to_the_published_means() -> None:
    for model in (mbeir.CLIP_SF, mbeir.BLIP_FF):
        for kind, figures in (
            ("local", [one.local for one in mbeir.TASKS]),
            ("global", [one.globally for one in mbeir.TASKS]),
        ):
            mean = sum(figure[model] for figure in figures) / 16
            assert mean == pytest.approx(mbeir.PUBLISHED_MEAN[kind][model], abs=0.06)
    assert {one.dataset for one in mbeir.TASKS if one.k == 10} == {"fashion200k", "fashioniq"}
