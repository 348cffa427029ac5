"""`ret2 eval m2kr` and `mbeir`, as a shell sees them, on small folders in the published formats and a tiny model of random weights.

A query that says what a passage says has its vector, so what is found first is known.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_model import write_tiny_checkpoint
from typer.testing import CliRunner, Result

from model.evaluation import mbeir as mbeir_format
from model.evaluation.benchmark_files import Entries
from model.evaluation.corpus_vectors import Embedded, Embedder
from model.evaluation.metrics import Measured
from model.types import Role
from service.cli import benchmarks
from service.cli.benchmark_tables import PUBLISHED, PoolKind, mbeir_table
from service.cli.main import app

TEXTS = ["a red square", "a green square", "the blue flag of this country", "what is the capital of this country"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_checkpoint(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")  # of a table: nothing is folded


def write(path: Path, *records: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records))
    return path


def ret(folder: Path, name: str = "okvqa", *, image: str | None = None, **changes: Any) -> Path:
    """Four queries that find their passage first; the last says that another one is right, and has no answer in any."""
    queries = [
        {
            "data_id": f"q{n}",
            "instruction": text,
            "question": None,
            "image_path": None,
            "passage_id": f"p{n}",
            "answer": [text.upper().split()[1]],
            **changes,
        }
        for n, text in enumerate(TEXTS)
    ]
    queries[3] |= {"passage_id": "nowhere", "answer": ["Atlantis"]}
    passages = [
        {"passage_id": f"p{n}", "passage_text": text, "passage_image_path": image if n == 3 else None}
        for n, text in enumerate(TEXTS)
    ]
    write(folder / f"{name}_test.jsonl", *queries)
    write(folder / f"{name}_passages_test.jsonl", *passages)
    return folder


def task(folder: Path, key: str, *, first: int = 0, prompt: bool = True) -> Path:
    """Queries that find their candidate first in the local pool; `first` is the number of the first text, so that pools differ."""
    dataset = mbeir_format.DATASETS.index(key.split("_")[0])
    number = key[-1]
    texts = TEXTS[first : first + 2]
    qids = [f"{dataset}:{n}" for n in range(len(texts))]
    write(
        folder / f"query/test/mbeir_{key}_test.jsonl",
        *({"qid": qid, "query_txt": text, "query_img_path": None} for qid, text in zip(qids, texts, strict=True)),
    )
    write(
        folder / f"cand_pool/local/mbeir_{key}_cand_pool.jsonl",
        *({"did": f"{dataset}:1{n}", "txt": text, "img_path": None} for n, text in enumerate(texts)),
    )
    write(
        folder / f"qrels/test/mbeir_{key}_test_qrels.txt",
        *(f"{qid} 0 {dataset}:1{n} 1 {number}" for n, qid in enumerate(qids)),
    )
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def row(result: Result, *starts: str) -> list[str]:
    """The cells of the first line of a table that begins so."""
    lines = [[cell.strip() for cell in line.strip("│┃ ").split("│")] for line in result.stdout.splitlines()]
    return next(cells for cells in lines if cells[: len(starts)] == list(starts))


def test_m2kr_prints_the_published_columns_and_every_k(tmp_path: Path, checkpoint: str) -> None:
    result = run("m2kr", ret(tmp_path), "--model", checkpoint, "--k", 1, "--k", 3)
    assert result.exit_code == 0, result.output
    assert "ReT-M2KR, test splits" in result.stdout
    assert result.stdout.count(PUBLISHED) == 1
    assert "ReT v1 from the README of aimagelab/ReT" in result.stdout
    assert row(result, "okvqa", "4", "4", "R@5") == ["okvqa", "4", "4", "R@5", "0.750", "0.202"]
    assert row(result, "okvqa", "4", "4", "PR@5") == ["okvqa", "4", "4", "PR@5", "0.750", "0.662"]
    assert row(result, "okvqa R") == ["okvqa R", "0.750", "0.750", "0.750"]  # 1, 3 and the published 5
    assert row(result, "okvqa PR")[1] == "0.750"
    assert "1 queries have no right candidate in the pool" in result.stdout
    assert "PARTIAL" not in result.stdout


def test_pseudo_recall_needs_the_answer_in_a_passage_that_was_found(tmp_path: Path, checkpoint: str) -> None:
    ret(
        tmp_path, answer=["flag"]
    )  # in one passage alone: found first by one query, and among the four by all but the last
    result = run("m2kr", tmp_path, "--model", checkpoint, "--k", 1)
    assert row(result, "okvqa PR") == ["okvqa PR", "0.250", "0.750"]
    write(tmp_path / "okvqa_passages_test.jsonl", {"passage_id": "p9", "passage_text": "the BLUE flag"})
    result = run("m2kr", tmp_path, "--model", checkpoint)  # an answer without the right passage
    assert row(result, "okvqa", "4", "1", "R@5")[4] == "0.000"
    assert row(result, "okvqa", "4", "1", "PR@5")[4] == "0.750"


def test_a_quick_look_is_marked_and_has_nothing_to_compare_with(tmp_path: Path, checkpoint: str) -> None:
    result = run("m2kr", ret(tmp_path), "--model", checkpoint, "--limit", 2)
    assert result.exit_code == 0, result.output
    assert "PARTIAL, not comparable: ReT-M2KR" in result.stdout
    assert PUBLISHED not in result.stdout.lower()
    assert row(result, "okvqa", "2", "2", "R@5")[-1] == "1.000"


def test_missing_images_are_reported_and_fatal_where_strict(tmp_path: Path, checkpoint: str) -> None:
    folder = ret(tmp_path, image="gone.jpg")
    result = run("m2kr", folder, "--model", checkpoint)
    assert result.exit_code == 0, result.output
    assert "okvqa passages: 1 images missing or broken" in result.stdout
    assert "p3: gone.jpg: no such file" in result.stdout
    strict = run("m2kr", folder, "--model", checkpoint, "--strict")
    assert strict.exit_code == 1
    assert "p3: gone.jpg: no such file" in strict.stderr


def test_a_wrong_row_of_any_set_ends_it_before_the_model_runs(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        pytest.fail("the model was used")

    monkeypatch.setattr(benchmarks, "_measure_set", never)
    ret(tmp_path, "wit")
    passages = tmp_path / "wit_passages_test.jsonl"
    passages.write_text(passages.read_text() + '{"passage_text": "no id"}\n')
    result = run("m2kr", ret(tmp_path), "--model", checkpoint)
    assert result.exit_code == 1
    assert "wit_passages_test.jsonl line 5: passage_id is missing" in result.stderr


@pytest.mark.parametrize(
    ("option", "what"), [("nonsense", "'nonsense', known are wit"), ("wit", "'wit', which is not in the folder")]
)
def test_only_what_is_known_and_there_can_be_chosen(tmp_path: Path, option: str, what: str) -> None:
    result = run("m2kr", ret(tmp_path), "--datasets", option)
    assert result.exit_code == 1
    assert what in result.stderr


def test_mbeir_local_and_global_pools(tmp_path: Path, checkpoint: str) -> None:
    task(tmp_path, "webqa_task1")
    task(tmp_path, "edis_task2")  # says the same as WebQA's: in the union there are two of each
    result = run("mbeir", tmp_path, "--model", checkpoint, "--pool", "both", "--prompt", "none", "--k", 1)
    assert result.exit_code == 0, result.output
    assert row(result, "WebQA t→t", "2", "2") == ["WebQA t→t", "2", "2", "R@5", "100.0", "84.7", "80.0"]
    assert row(result, "WebQA t→t", "2", "4")[3:] == ["R@5", "100.0"]
    assert row(result, "mean of 2 of 16 tasks")[4:] == ["100.0", "–", "–"]
    assert "PARTIAL, not comparable: M-BEIR, global pool" in result.stdout
    assert "the global pool lacks the local pools of visualnews_task0, mscoco_task0" in result.stdout
    # Of two equal candidates one is first, so at 1 either WebQA or EDIS misses, which they do not in their own pools.
    at_one = {name: float(row(result, f"{name} R")[1]) for name in ("WebQA t→t, local", "EDIS t→it, local")}
    assert set(at_one.values()) == {1.0}
    both = [float(row(result, f"{name} R")[1]) for name in ("WebQA t→t, global", "EDIS t→it, global")]
    assert sum(both) == pytest.approx(1.0)


def test_every_candidate_and_query_is_embedded_once_for_both_pools(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[str] = []
    embed = Embedder.embed

    def counting(self: Embedder, entries: Entries, role: Role, label: str) -> Embedded:
        embedded.append(label)
        return embed(self, entries, role, label)

    monkeypatch.setattr(Embedder, "embed", counting)
    for key in ("webqa_task1", "edis_task2"):
        task(tmp_path, key)
    assert run("mbeir", tmp_path, "--model", checkpoint, "--pool", "both", "--prompt", "none").exit_code == 0
    assert len(embedded) == len(set(embedded)) == 4


def test_mbeir_needs_its_instructions_unless_told_otherwise(tmp_path: Path, checkpoint: str) -> None:
    result = run("mbeir", task(tmp_path, "webqa_task1"), "--model", checkpoint)
    assert result.exit_code == 1
    assert "no table of instructions" in result.stderr
    write(
        tmp_path / "instructions/query_instructions.tsv",
        "query_modality\tcand_modality\tdataset_name\tdataset_id\tprompt_1",
        "text\ttext\tWebQA\t2\tfind the text",
    )
    assert run("mbeir", tmp_path, "--model", checkpoint).exit_code == 0


def test_mbeir_tasks_are_chosen_by_number_and_data_set(tmp_path: Path, checkpoint: str) -> None:
    for key in ("webqa_task1", "webqa_task2", "edis_task2"):
        task(tmp_path, key)
    chosen = run(
        "mbeir", tmp_path, "--model", checkpoint, "--prompt", "none", "--tasks", 2, "--datasets", "webqa", "--cache", tmp_path / "kept"
    )  # fmt: skip
    assert chosen.exit_code == 0, chosen.output
    assert "WebQA t→it" in chosen.stdout
    assert "WebQA t→t" not in chosen.stdout
    assert "EDIS" not in chosen.stdout
    assert len(list((tmp_path / "kept").glob("*.npy"))) == 2  # the task's queries and pool
    nothing = run("mbeir", tmp_path, "--prompt", "none", "--tasks", 1, "--datasets", "edis")
    assert nothing.exit_code == 1
    assert "no task of edis is one of 1" in nothing.stderr


def test_a_task_without_a_local_pool_is_refused_by_name(tmp_path: Path) -> None:
    (task(tmp_path, "webqa_task1") / "cand_pool/local/mbeir_webqa_task1_cand_pool.jsonl").unlink()
    result = run("mbeir", tmp_path, "--prompt", "none")
    assert result.exit_code == 1
    assert "no local pool mbeir_webqa_task1_cand_pool.jsonl" in result.stderr


@pytest.mark.parametrize(("kind", "means"), [(PoolKind.LOCAL, ["50.6", "46.8"]), (PoolKind.GLOBAL, ["48.9", "45.5"])])
def test_the_mean_of_all_sixteen_stands_beside_the_published_one(kind: PoolKind, means: list[str]) -> None:
    results = {
        one: Measured(10 * n + 1, 9, {5: n / 100, 10: n / 50}, {}, 0) for n, one in enumerate(mbeir_format.TASKS)
    }
    table = mbeir_table(kind, results, partial=False)
    cells = [list(column.cells)[-1] for column in table.columns]
    tens = (2, 8, 12)  # Fashion200K twice and FashionIQ: R@10
    expected = (sum(range(16)) + sum(tens)) / 16
    assert cells == ["mean of 16", "", "", "", f"{expected:.1f}", *means]


def test_the_commands_start_without_torch() -> None:
    code = "import sys, service.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
