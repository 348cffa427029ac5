"""Rendering of hits, jobs, collections, failures and progress on the command line. Text of others is never read as
markup."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from indexer.domain.jobs import JobKind
from service.client.types import Collection, Document, Hit, Job, SearchResult
from service.schemas.facets import FacetOut
from service.schemas.hits import ExplanationOut, PassageOut

Failed = tuple[str, str, str]  # which document, code, why

_SHOWN_FAILURES = 50
_SHOWN_CHARS = 100  # of a text in a cell
_SHOWN_PLACES = 5
_METADATA_WIDTH = 24  # one line: it is there to recognise a document by, not to be read out


def hits_table(hits: Sequence[Hit]) -> Table:
    table = Table("", "score")
    table.add_column("id", no_wrap=True)
    table.add_column("text")
    table.add_column("metadata", no_wrap=True, overflow="ellipsis", max_width=_METADATA_WIDTH)
    explained = any(hit.explanation for hit in hits)
    if explained:
        table.add_column("why", no_wrap=True)
    for rank, hit in enumerate(hits, 1):
        metadata = ", ".join(f"{name}={value}" for name, value in hit.metadata.items())
        cells = (str(rank), f"{hit.score:.3f}", hit.id, _shown_text(hit), metadata)
        _row(table, *cells, *([why(hit.explanation)] if explained and hit.explanation else []))
    return table


def _shown_text(hit: Hit) -> str:
    """Return the passages of a hit, a line each, with the words of the query in brackets; without any, the part that it
    was found by, or its text."""
    if not hit.highlights:
        return short((hit.part and hit.part.text) or hit.text or "(a picture alone)")
    return "\n".join(_bracketed(passage) for passage in hit.highlights)


def _bracketed(passage: PassageOut) -> str:
    text = passage.text
    for word in reversed(passage.words):
        start, end = word.start - passage.start, word.end - passage.start
        text = f"{text[:start]}[{text[start:end]}]{text[end:]}"
    return " ".join(text.split())


def documents_table(documents: Iterable[Document]) -> Table:
    table = Table()
    table.add_column("id", no_wrap=True)
    table.add_column("text")
    table.add_column("metadata", overflow="fold")
    for document in documents:
        metadata = ", ".join(f"{name}={value}" for name, value in document.metadata.items())
        _row(table, document.id, short(document.text or "(a picture alone)"), short(metadata))
    return table


def facet_table(facet: FacetOut) -> Table:
    """Return a row for each value of a field, then for each bucket of its numbers or times."""
    counts = "documents" if facet.exact else "documents, about"
    table = Table(facet.field, counts, title_justify="left")
    for value in facet.values:
        _row(table, str(value.value), f"{value.count:,}")
    if facet.has_more:
        _row(table, "…", "")
    for bucket in facet.histogram:
        _row(table, f"{bucket.low} to {bucket.high}", f"{bucket.count:,}")
    return table


def why(explanation: ExplanationOut) -> str:
    """Return a line for each side and part of an explanation. Of the shares it shows those of the image, from the
    earliest layer to the last."""
    lines = []
    for side, shares in (("query", explanation.query), ("document", explanation.document)):
        if shares is not None:
            lines.append(f"{side} image " + " ".join(f"{layer.image:.0%}" for layer in shares.layers))
    for part, score in (("text", explanation.without_text), ("image", explanation.without_image)):
        if score is not None:
            lines.append(f"without {part} {score:.3f}")
    if (lexical := explanation.lexical) is not None:
        lines.append(f"words {lexical.score:.2f}, {lexical.share:.0%} of the score")
    if explanation.boosts:
        lines.append("boosts " + " ".join(f"{added:+.3f}" for added in explanation.boosts))
    if explanation.closest is not None:
        lines.append(f"closest before {explanation.closest:.3f}")
    return "\n".join(lines)


def timings_line(result: SearchResult) -> str:
    t = result.timings
    parts = f"decode {t.decode_ms:.1f}, queue {t.queue_ms:.1f}, encode {t.encode_ms:.1f}, store {t.store_ms:.1f}"
    count = len(result.hits) + sum(len(group.hits) for group in result.groups or ())
    return f"{count} hits in {t.total_ms:.1f} ms ({parts})"


def collections_table(collections: Iterable[Collection]) -> Table:
    table = Table("collection", "documents", "model", "dimensions", "usable")
    for collection in collections:
        usable = "yes" if collection.compatible else "no: its model is not served"
        if collection.error is not None:
            usable = f"no: {collection.error.detail}"
        _row(table, collection.name, f"{collection.documents:,}", collection.model, str(collection.dimensions), usable)
    return table


def jobs_table(jobs: Iterable[Job]) -> Table:
    table = Table(box=SIMPLE, pad_edge=False)
    table.add_column("job", no_wrap=True)  # whole: it is what `ret2 jobs JOB` takes
    for heading in ("collection", "state", "done", "failed"):
        table.add_column(heading, overflow="fold")
    for job in jobs:
        state = f"{job.state} on {job.waiting_on}" if job.waiting_on else str(job.state)
        state = state if job.kind is JobKind.DOCUMENTS else f"{job.kind}: {state}"
        done = f"{job.indexed + job.skipped}/{job.accepted}"
        _row(table, job.id, job.collection, state, done, str(job.failed))
    return table


def failures_table(failures: Sequence[Failed]) -> Table:
    table = Table("document", "code", "why", title=f"{len(failures)} failed", title_justify="left")
    for failed in failures[:_SHOWN_FAILURES]:
        _row(table, *failed)
    if len(failures) > _SHOWN_FAILURES:
        _row(table, f"… and {len(failures) - _SHOWN_FAILURES} more", "", "")
    return table


def progress_bar(**options: Any) -> Progress:
    """Return a bar for what is counted; `options` are those of rich."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(TextColumn("{task.description}", markup=False), *columns, **options)


def short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARS else line[: _SHOWN_CHARS - 1] + "…"


def _row(table: Table, *cells: str) -> None:
    table.add_row(*map(Text, cells))


def print_answer(console: Console, heading: str, result: SearchResult, *, right: bool) -> None:
    """Print a search of the demo, its hits, and whether the first is the expected one."""
    console.print(f"\n{heading}")
    console.print(hits_table(result.hits))
    verdict = "[green]the expected hit is first[/green]" if right else "[red]the expected hit is NOT first[/red]"
    console.print(f"{verdict}; {timings_line(result)}")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Things that were left out, counted by reason, with the first few places of each."""

    counts: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, place: str) -> None:
        self.counts[reason] += 1
        places = self.places.setdefault(reason, [])
        if len(places) < _SHOWN_PLACES:
            places.append(place)


def print_left_out(
    console: Console, left_out: Mapping[str, int], places: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Say what records have and their documents have not, and where."""
    for reason, count in left_out.items():
        first = list((places or {}).get(reason, ()))
        listed = ", ".join(first + ["…"] * (count > len(first)))
        where = f" ({listed})" if first else ""
        times = "once" if count == 1 else f"{count} times"
        console.print(f"left out {times}: {reason}{where}", markup=False, soft_wrap=True)
