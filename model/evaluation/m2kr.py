"""M2KR as published: ReT-M2KR's JSONL files (reference/ret.md §4.3) and the original's Hugging Face configurations
(§4.2), test splits.

    ReT-M2KR   SET_test.jsonl, SET_passages_test.jsonl, anywhere in the folder; E-VQA's queries are evqa_test_m2kr.jsonl
    original   SET_data/test*, SET_passages/test_passages*, Parquet or JSONL; how the shards are named is not published,
               so every file of such a folder whose name starts with its split is read, in the order of names

An original passage has no image; a query's text is "{instruction} {question}" in both, each part where it is there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Any

from model.errors import InvalidInput
from model.evaluation.benchmark_files import Entry, Query, Row, data_files, only, rows


class Layout(StrEnum):
    RET = "ReT-M2KR"
    ORIGINAL = "M2KR"


@dataclass(frozen=True, slots=True)
class Metric:
    """One published column: Recall@k, or Pseudo-Recall@k where `pseudo`; and the figures published for it, as
    fractions."""

    k: int
    pseudo: bool
    published: Mapping[str, float]  # by model

    def __str__(self) -> str:
        return f"{'PR' if self.pseudo else 'R'}@{self.k}"


RET_V1 = "ReT v1 CLIP-ViT-L-14"  # reference/ret.md §3.1: passages with images, scored by MaxSim over 32 latents
PREFLMR = "PreFLMR ViT-L"  # §3.2, the Hugging Face re-implementation: passages of text alone, late interaction
SOURCE = (
    "ReT v1 from the README of aimagelab/ReT, PreFLMR from that of LinWeizheDragon/FLMR. Both score by late "
    "interaction, so a "
    "checkpoint of ReT v1, measured by one vector, will not reach its row."
)


def _column(k: int, ret: float | None, preflmr: float | None, *, pseudo: bool = False) -> Metric:
    figures = {RET_V1: ret, PREFLMR: preflmr}
    return Metric(k, pseudo, {model: figure for model, figure in figures.items() if figure is not None})


# The published columns of each set, in published order. MSMARCO is in the original alone.
SETS: Mapping[str, tuple[Metric, ...]] = {
    "wit": (_column(10, 0.734, 0.605),),
    "iglue": (_column(1, 0.818, 0.699),),
    "kvqa": (_column(5, 0.635, 0.440),),
    "msmarco": (_column(5, None, 0.779),),
    "oven": (_column(5, 0.820, 0.608),),
    "llava": (_column(1, 0.799, 0.729),),
    "infoseek": (_column(5, 0.470, 0.374), _column(5, 0.605, 0.578, pseudo=True)),
    "evqa": (_column(5, 0.445, 0.609), _column(5, 0.579, 0.708, pseudo=True)),
    "okvqa": (_column(5, 0.202, 0.314), _column(5, 0.662, 0.690, pseudo=True)),
}
KS = (1, 2, 3, 5, 10, 50, 100)  # §4.3
COMPARABLE = {Layout.RET: RET_V1, Layout.ORIGINAL: PREFLMR}  # with images and without are not like for like (§3.1)


@dataclass(frozen=True, slots=True)
class M2krSet:
    """The test split of one set: where its rows are."""

    name: str
    layout: Layout
    query_files: tuple[Path, ...]
    passage_files: tuple[Path, ...]

    def queries(self) -> Iterator[Query]:
        read = _ret_query if self.layout is Layout.RET else _original_query
        return (read(row) for row in _all(self.query_files))

    def passages(self) -> Iterator[Entry]:
        return (passage(row) for row in _all(self.passage_files))


def find(folder: Path) -> list[M2krSet]:
    """Return the sets in `folder` that have both queries and passages, in the order of `SETS`."""
    files = data_files(folder)
    sets = [_ret(files, name) or _original(files, name) for name in SETS]
    if not any(sets):
        raise InvalidInput(
            f"{folder} has no set of M2KR: neither SET_test.jsonl with SET_passages_test.jsonl (ReT-M2KR) nor "
            f"SET_data/test* with SET_passages/test_passages* (original); SET is one of {', '.join(SETS)}"
        )
    return [name for name in sets if name]


def _ret(files: Sequence[Path], name: str) -> M2krSet | None:
    def named(*names: str) -> Path | None:
        return next((hit for name in names if (hit := only([file for file in files if file.name == name], name))), None)

    special = ("evqa_test_m2kr.jsonl",) if name == "evqa" else ()
    queries, passages = named(*special, f"{name}_test.jsonl"), named(f"{name}_passages_test.jsonl")
    return M2krSet(name, Layout.RET, (queries,), (passages,)) if queries and passages else None


def _original(files: Sequence[Path], name: str) -> M2krSet | None:
    def split(folder: str, prefix: str) -> tuple[Path, ...]:
        return tuple(
            file
            for file in files
            if file.parent.name.lower().replace("-", "") == folder and file.name.startswith(prefix)
        )

    queries, passages = split(f"{name}_data", "test"), split(f"{name}_passages", "test_passages")
    return M2krSet(name, Layout.ORIGINAL, queries, passages) if queries and passages else None


def _all(files: Sequence[Path]) -> Iterator[Row]:
    return chain.from_iterable(rows(file) for file in files)


def _ret_query(row: Row) -> Query:
    return Query(
        row.id("data_id"),
        _asked(row),
        row.text("image_path"),
        positives=frozenset(row.ids("passage_id")),
        answers=_answers(row, "answer"),
    )


def _original_query(row: Row) -> Query:
    return Query(
        row.id("question_id"),
        _asked(row),
        row.text("img_path"),
        positives=frozenset(row.ids("pos_item_ids")),
        answers=_answers(row, "answers"),
    )


def passage(row: Row) -> Entry:
    """Return a passage, of ReT-M2KR or of the original, which has other names and no images."""
    is_original = not row.has("passage_text") and row.has("passage_content")
    text = row.text("passage_content" if is_original else "passage_text")
    return Entry(row.id("passage_id"), text, row.text("passage_image_path"))


def _asked(row: Row) -> str | None:
    return " ".join(part for name in ("instruction", "question") if (part := row.text(name))) or None


def _answers(row: Row, name: str) -> tuple[str, ...]:
    """Return the answers of a row; sets without Pseudo-Recall have none. An answer that is an object counts by its key
    `wikidata`, alone or in a list."""
    value = row.fields.get(name) if row.has(name) else []
    if not isinstance(value, list):
        value = [value]
    return tuple(string for item in value for string in _strings(row, name, item))


def _strings(row: Row, name: str, item: Any) -> Iterator[str]:
    if isinstance(item, dict):
        if "wikidata" not in item:
            raise row.wrong(f"{name} has an object without the key 'wikidata', its keys are {sorted(item)}")
        item = item["wikidata"]
    for value in item if isinstance(item, list) else [item]:
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise row.wrong(f"{name} has a {type(value).__name__} {str(value)[:60]!r}, expected text")
        yield str(value)
