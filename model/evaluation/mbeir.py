"""M-BEIR as published by UniIR (reference/ret.md §4.5): queries, candidate pools, qrels and the table of instructions.

    query/SPLIT/mbeir_DS_taskK_SPLIT.jsonl      qid, query_txt, query_img_path
    cand_pool/…/mbeir_DS_taskK[_test]_cand_pool.jsonl      did, txt, img_path
    …/mbeir_DS_taskK_SPLIT…qrels….txt           qid 0 did relevance task_id
    …instruction….tsv                           prompts by dataset and modalities

The facts name the folders of the queries and of the global pool; the other files are found by name wherever they are.
Of the table of instructions they say only that it has four per task: its columns are told by their headings, see
`instructions`.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model.errors import InvalidInput
from model.evaluation.benchmark_files import Entry, Query, Row, data_files, only, rows

DATASETS = (
    "visualnews",
    "fashion200k",
    "webqa",
    "edis",
    "nights",
    "oven",
    "infoseek",
    "fashioniq",
    "cirr",
    "mscoco",
)  # by id
Modality = frozenset[str]
_T, _I, _IT = frozenset({"text"}), frozenset({"image"}), frozenset({"text", "image"})
MODALITIES: Mapping[int, tuple[Modality, Modality]] = {  # of query and candidate, by task id
    0: (_T, _I),
    1: (_T, _T),
    2: (_T, _IT),
    3: (_I, _T),
    4: (_I, _I),
    6: (_IT, _T),
    7: (_IT, _I),
    8: (_IT, _IT),
}
KS = (1, 5, 10)
CLIP_SF, BLIP_FF = "UniIR CLIP_SF", "UniIR BLIP_FF"
SOURCE = "UniIR's figures as the papers of LamRA and ELVA (local pools) and LamRA (global pool) give them."


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One of the sixteen: its published name, the k of its Recall@k, and UniIR's figures in per cent by pool, §3.3 and
    §3.4."""

    dataset: str
    number: int
    name: str
    k: int
    local: Mapping[str, float]
    globally: Mapping[str, float]

    @property
    def key(self) -> str:
        return f"{self.dataset}_task{self.number}"


def _task(dataset: str, number: int, name: str, local: tuple[float, float], globally: tuple[float, float]) -> Task:
    """Build a task. Published figures are given as (BLIP_FF, CLIP_SF)."""
    models = (BLIP_FF, CLIP_SF)
    k = 10 if dataset in ("fashion200k", "fashioniq") else 5
    return Task(
        dataset, number, name, k, dict(zip(models, local, strict=True)), dict(zip(models, globally, strict=True))
    )


TASKS = (
    _task("visualnews", 0, "VisualNews t→i", (23.4, 42.6), (23.0, 42.6)),
    _task("mscoco", 0, "MSCOCO t→i", (79.7, 81.1), (75.6, 77.9)),
    _task("fashion200k", 0, "Fashion200K t→i", (26.1, 18.0), (25.4, 17.8)),
    _task("webqa", 1, "WebQA t→t", (80.0, 84.7), (79.5, 84.7)),
    _task("edis", 2, "EDIS t→it", (50.9, 59.4), (50.3, 59.4)),
    _task("webqa", 2, "WebQA t→it", (79.8, 78.7), (79.7, 78.8)),
    _task("visualnews", 3, "VisualNews i→t", (22.8, 43.1), (21.1, 42.8)),
    _task("mscoco", 3, "MSCOCO i→t", (89.9, 92.3), (88.8, 92.3)),
    _task("fashion200k", 3, "Fashion200K i→t", (28.9, 18.3), (27.6, 17.9)),
    _task("nights", 4, "NIGHTS i→i", (33.0, 32.0), (33.0, 32.0)),
    _task("oven", 6, "OVEN it→t", (41.0, 45.5), (38.7, 39.2)),
    _task("infoseek", 6, "InfoSeek it→t", (22.4, 27.9), (19.7, 24.0)),
    _task("fashioniq", 7, "FashionIQ it→i", (29.2, 24.4), (28.5, 24.3)),
    _task("cirr", 7, "CIRR it→i", (52.2, 44.6), (51.4, 43.9)),
    _task("oven", 8, "OVEN it→it", (55.8, 67.6), (57.8, 60.2)),
    _task("infoseek", 8, "InfoSeek it→it", (33.0, 48.9), (27.7, 44.6)),
)
PUBLISHED_MEAN = {"local": {BLIP_FF: 46.8, CLIP_SF: 50.6}, "global": {BLIP_FF: 45.5, CLIP_SF: 48.9}}

# Which of a task's prompts a query gets. UniIR draws one at random, in evaluation too; here the draw is the query's
# own, so a run repeats.
Choice = Literal["random", "first", "none"]
Prompts = Mapping[tuple[str, Modality, Modality], tuple[str, ...]]  # by dataset, modalities of query and candidate


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """One task of the test split: where its rows are."""

    task: Task
    query_file: Path
    qrels_file: Path
    pool_file: Path | None  # the local pool

    def queries(self, prompts: Prompts, choice: Choice) -> Iterator[Query]:
        """Yield the queries in the file's order.

        Raises `InvalidInput` for a query without a line of qrels, or a task without a prompt.
        """
        relevant = qrels(self.qrels_file)
        among: tuple[str, ...] = ()
        if choice != "none":
            query, candidate = MODALITIES[self.task.number]
            among = prompts.get((self.task.dataset, query, candidate), ())
            if not among:
                raise InvalidInput(f"the table of instructions has no prompt for {self.task.key}")
        for row in rows(self.query_file):
            identifier = row.id("qid")
            if identifier not in relevant:
                raise row.wrong(f"qid {identifier!r} has no line in {self.qrels_file.name}")
            text = sentence(f"{_prompt(among, choice, identifier)} {row.text('query_txt') or ''}")
            yield Query(identifier, text or None, row.text("query_img_path"), relevant[identifier])


def find(folder: Path) -> list[TaskFiles]:
    """Return the tasks in `folder` that have queries and qrels, in published order."""
    files = data_files(folder)
    tasks = [_files(files, task) for task in TASKS]
    if not any(tasks):
        raise InvalidInput(
            f"{folder} has no task of M-BEIR: query/test/mbeir_DS_taskK_test.jsonl with a file of its qrels; "
            f"DS_taskK is one of {', '.join(task.key for task in TASKS)}"
        )
    return [task for task in tasks if task]


def _files(files: Sequence[Path], task: Task) -> TaskFiles | None:
    stem = f"mbeir_{task.key}_"
    own_files = [file for file in files if file.name.lower().startswith(stem)]
    query = only([file for file in own_files if file.name.lower() == f"{stem}test.jsonl"], f"{stem}test.jsonl")
    judged = [
        file for file in own_files if "qrels" in file.name and "_test" in file.name and file.suffix in (".txt", ".tsv")
    ]
    qrels = only(judged, f"{stem}test qrels")
    return TaskFiles(task, query, qrels, _local_pool(files, task)) if query and qrels else None


def _local_pool(files: Sequence[Path], task: Task) -> Path | None:
    """Return the local pool of a task. MSCOCO has two; the one of the test split counts."""
    names = (f"mbeir_{task.key}_test_cand_pool.jsonl", f"mbeir_{task.key}_cand_pool.jsonl")
    return next((pool for name in names if (pool := _named(files, name))), None)


def _named(files: Sequence[Path], name: str) -> Path | None:
    return only([file for file in files if file.name.lower() == name], name)


def global_pool(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the files whose union is the global pool, and the tasks whose local pool is missing from it, which make it
    easier than the published one.

    The global pool is the union of the sixteen local pools, whose published sizes add up to its 5.6 million, so nothing
    is embedded twice. If pools are missing, a file `mbeir_union_test_cand_pool.jsonl` is used where there is one;
    M-BEIR itself names only the file of the training split.
    """
    files = data_files(folder)
    pools = {task.key: _local_pool(files, task) for task in TASKS}
    missing = [key for key, pool in pools.items() if pool is None]
    union = _named(files, "mbeir_union_test_cand_pool.jsonl")
    return ([union], []) if missing and union else ([pool for pool in pools.values() if pool], missing)


def candidates(path: Path) -> Iterator[Entry]:
    return (candidate(row) for row in rows(path))


def candidate(row: Row) -> Entry:
    """Return a candidate, its text as UniIR writes it."""
    return Entry(row.id("did"), sentence(row.text("txt") or "") or None, row.text("img_path"))


def qrels(path: Path) -> dict[str, frozenset[str]]:
    """Read the relevant ids of each query from lines `qid 0 did relevance task_id` with a relevance above 0."""
    relevant: dict[str, set[str]] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not (parts := line.split()):
                continue
            where = f"{path.name} line {number}"
            if len(parts) != 5:
                raise InvalidInput(f"{where} has {len(parts)} fields, expected 5: qid 0 did relevance task_id")
            query, _, candidate, relevance, _ = parts
            if not relevance.lstrip("-").isdecimal():
                raise InvalidInput(f"{where}: relevance is {relevance!r}, expected a whole number")
            right = relevant.setdefault(query, set())
            if int(relevance) > 0:
                right.add(candidate)
    return {query: frozenset(right) for query, right in relevant.items()}


def instructions_file(folder: Path) -> Path | None:
    instruction_files = [
        file for file in data_files(folder) if "instruction" in file.name.lower() and file.suffix == ".tsv"
    ]
    return only(instruction_files, "a table of instructions (*instruction*.tsv)")


def instructions(path: Path) -> Prompts:
    """Read the prompts by dataset and modalities from a tab-separated table, whose columns are identified by their
    headings.

    One heading contains `dataset` and `id` (0 to 9), one `query` and `modality`, one `cand` and `modality` (text,
    image, or both with a comma). Prompts stand in every column whose heading contains `prompt` or `instruction`. Empty
    prompts are ignored.
    """
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        heading = [cell.strip().lower() for cell in next(lines, [])]
        dataset, query, candidate = (
            _column(path, heading, words) for words in (("dataset", "id"), ("query", "modality"), ("cand", "modality"))
        )
        wording = [place for place, cell in enumerate(heading) if "prompt" in cell or "instruction" in cell]
        instructions: dict[tuple[str, Modality, Modality], tuple[str, ...]] = {}
        for number, cells in enumerate(lines, 2):
            if not any(cells):
                continue
            row = Row(f"{path.name} line {number}", {})
            if len(cells) <= max(dataset, query, candidate):
                raise row.wrong(f"has {len(cells)} columns, its heading has {len(heading)}")
            key = (_dataset(row, cells[dataset]), _modality(row, cells[query]), _modality(row, cells[candidate]))
            instructions[key] = tuple(
                text for place in wording if place < len(cells) and (text := cells[place].strip())
            )
    return instructions


def _column(path: Path, heading: Sequence[str], words: tuple[str, str]) -> int:
    places = [place for place, cell in enumerate(heading) if all(word in cell for word in words)]
    if len(places) != 1:
        raise InvalidInput(
            f"{path.name} line 1: {len(places)} columns have {' and '.join(words)} in their heading, expected one; "
            f"the columns are {', '.join(heading) or 'none'}"
        )
    return places[0]


def _dataset(row: Row, cell: str) -> str:
    number = cell.strip()
    if not number.isdecimal() or int(number) >= len(DATASETS):
        raise row.wrong(f"dataset id is {cell!r}, expected 0 to {len(DATASETS) - 1}")
    return DATASETS[int(number)]


def _modality(row: Row, cell: str) -> Modality:
    modality = frozenset(part.strip().lower() for part in cell.split(","))
    if not modality or not modality <= _IT:
        raise row.wrong(f"modality is {cell!r}, expected text, image or image,text")
    return modality


def _prompt(among: Sequence[str], choice: Choice, query: str) -> str:
    if choice == "none":
        return ""
    return among[0] if choice == "first" else random.Random(query).choice(among)


def sentence(text: str) -> str:
    """Normalise a text as UniIR's `format_string` does: no carriage returns, outer space or quotes; a capital at the
    start and a full stop at the end."""
    text = text.replace("\r", "").strip().strip('"').strip()
    if not text:
        return ""
    text = text[0].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."
