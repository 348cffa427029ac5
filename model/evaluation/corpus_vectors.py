"""Embeddings of a benchmark, made batch by batch into memory or into a file that outlives a broken-off run, and exact
search over them.

entries ─► scan: ids, digest ─► prepare in threads, one batch ahead ─► encode ─► rows (N, E) ─► best: top k, merged over
chunks

Never more than two batches of images are held. One vector per entry (`Retriever.encode`); MaxSim over latents is not
done here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from model.errors import InvalidInput
from model.evaluation.benchmark_files import Entries, Entry
from model.preprocess import normalise_text
from model.types import Float32, Input, Limits, ModelInfo, Prepared, Role

_SAVE_EVERY_ROWS = 4096  # of a file: what a broken-off run loses at most, some seconds of a GPU
_SHOWN_FAULTS = 5
_CHUNK_ROWS = 16_384  # candidates and queries scored at once: 16,384 × 1,024 float32 scores are 64 MiB
_BLOCK_ROWS = 1_024
_LIMITS = Limits()
EMBEDDING_VERSION = 1  # part of a cached file's name: raise it when a change here changes what is embedded

Report = Callable[[str, int, int], None]  # stage, done, of


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


class Model(Protocol):
    """The part of `Retriever` in use; tests have another."""

    @property
    def info(self) -> ModelInfo: ...

    def prepare(self, item: Input, role: Role, limits: Limits) -> Prepared: ...

    def encode(self, batch: Sequence[Prepared]) -> Float32: ...


@dataclass(slots=True)
class Faults:
    """Images that could not be had, so that their entries went without; entries with nothing left, which are never
    found."""

    images: int = 0
    empty: int = 0
    examples: list[str] = field(default_factory=list)  # the first few images, and why


@dataclass(frozen=True, slots=True)
class Embedded:
    """ids[n] has vectors[n]: (N, E) of unit length, zero where an entry had nothing to embed."""

    ids: list[str]
    vectors: NDArray[Any]  # float32 in memory, float16 in a file
    faults: Faults


class Embedder:
    """Embeds entries in order. With `cache`, a folder, finished batches are kept there and not made again. For one
    thread."""

    def __init__(
        self,
        model: Model,
        image_roots: Sequence[Path],
        *,
        batch: int = 64,
        cache: Path | None = None,
        strict: bool = False,
        report: Report = lambda stage, done, total: None,
        threads: int | None = None,
    ) -> None:
        self._model, self._roots, self._batch, self._cache = model, tuple(image_roots), batch, cache
        self._strict, self._report = strict, report
        self._threads = threads or min(16, os.cpu_count() or 1)

    def embed(self, entries: Entries, role: Role, label: str) -> Embedded:
        """Reads `entries` twice: once to count and check every row before any is encoded. Raises `InvalidInput`.

        With `strict` also for an image that is missing or cannot be decoded.
        """
        ids, digest = _scan(entries)
        if not ids:
            raise InvalidInput(f"{label}: there are no rows")
        store = _Store(self._file(digest, role), len(ids), self._model.info.dimensions)
        self._report(label, store.done, len(ids))
        for batch in self._prepared(islice(entries(), store.done, None), role):
            store.add(self._encode([item for item, _ in batch]), [fault for _, fault in batch if fault])
            self._report(label, store.done, len(ids))
        store.save()
        return Embedded(ids, store.vectors, store.faults)

    def _file(self, digest: str, role: Role) -> Path | None:
        if self._cache is None:
            return None
        parts = [EMBEDDING_VERSION, self._model.info.fingerprint, role, digest, *map(str, self._roots)]
        return self._cache / f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}.npy"

    def _prepared(self, entries: Iterator[Entry], role: Role) -> Iterator[list[tuple[Prepared | None, str | None]]]:
        """Yield batches in order; the next one is prepared while one is encoded."""
        ahead: deque[list[Future[tuple[Prepared | None, str | None]]]] = deque()
        with ThreadPoolExecutor(self._threads, "prepare") as pool:
            while batch := list(islice(entries, self._batch)):
                ahead.append([pool.submit(self._prepare, entry, role) for entry in batch])
                if len(ahead) == 2:
                    yield [future.result() for future in ahead.popleft()]
            for futures in ahead:
                yield [future.result() for future in futures]

    def _prepare(self, entry: Entry, role: Role) -> tuple[Prepared | None, str | None]:
        """Return the prepared entry, or None if nothing is left of it, and why its image is missing."""
        text = normalise_text((entry.text or "")[: _LIMITS.max_text_chars], _LIMITS)
        fault = None
        if entry.image is not None:
            try:
                return self._model.prepare(Input(text, self._image(entry.image)), role, _LIMITS), None
            except InvalidInput as error:
                if self._strict or error.field != "image":
                    raise InvalidInput(f"{entry.id}: {entry.image}: {error.detail}", field=error.field) from error
                fault = f"{entry.id}: {entry.image}: {error.detail}"
        return self._model.prepare(Input(text), role, _LIMITS) if text else None, fault

    def _image(self, name: str) -> bytes:
        for root in self._roots:
            try:
                return (root / name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, ValueError) as error:
                raise InvalidInput(f"cannot be read: {error}", field="image") from error
        raise InvalidInput(f"no such file in {', '.join(map(str, self._roots))}", field="image")

    def _encode(self, batch: Sequence[Prepared | None]) -> Float32:
        vectors = np.zeros((len(batch), self._model.info.dimensions), np.float32)
        if rows := [row for row, item in enumerate(batch) if item is not None]:
            vectors[rows] = self._model.encode([item for item in batch if item is not None])
        return vectors


class _Store:
    """Rows (N, E) filled in order. In a file, rows are on the disk before the note beside it says that they are."""

    def __init__(self, path: Path | None, n: int, dimensions: int) -> None:
        self._path, self._saved = path, 0
        self.done, self.faults = 0, Faults()
        if path is None:
            self.vectors: NDArray[Any] = np.zeros((n, dimensions), np.float32)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if self._note.exists() and path.exists():
            note = json.loads(self._note.read_text())
            self.done = self._saved = note["done"]
            self.faults = Faults(**note["faults"])
            self.vectors = np.lib.format.open_memmap(path, mode="r+")
        else:
            self._note.unlink(missing_ok=True)
            self.vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(n, dimensions))

    @property
    def _note(self) -> Path:
        assert self._path is not None
        return self._path.with_suffix(".json")

    def add(self, vectors: Float32, faults: Sequence[str]) -> None:
        self.vectors[self.done : self.done + len(vectors)] = vectors
        self.done += len(vectors)
        self.faults.images += len(faults)
        self.faults.empty += int((~vectors.any(axis=1)).sum())
        self.faults.examples += faults[: _SHOWN_FAULTS - len(self.faults.examples)]
        if self.done - self._saved >= _SAVE_EVERY_ROWS:
            self.save()

    def save(self) -> None:
        if self._path is None or not isinstance(self.vectors, np.memmap):
            return
        self.vectors.flush()
        faults = {"images": self.faults.images, "empty": self.faults.empty, "examples": self.faults.examples}
        part = self._note.with_suffix(".part")
        part.write_text(json.dumps({"done": self.done, "faults": faults}))
        part.replace(self._note)
        self._saved = self.done


def _scan(entries: Entries) -> tuple[list[str], str]:
    """Return every id in order, and a digest of the rows. Image files count by name alone."""
    ids, digest = [], hashlib.sha256()
    for entry in entries():
        ids.append(entry.id)
        digest.update(json.dumps([entry.id, entry.text, entry.image]).encode())
    return ids, digest.hexdigest()


class Corpus:
    """Candidates of one or more files as one pool; an id that an earlier file has is not there a second time."""

    def __init__(self, parts: Sequence[Embedded]) -> None:
        self.parts = tuple(parts)
        self.ids = [identifier for part in parts for identifier in part.ids]
        seen: set[str] = set()
        self._kept: list[NDArray[np.bool_]] = []  # (N,) of each part
        for part in parts:
            self._kept.append(np.fromiter((document_id not in seen for document_id in part.ids), bool, len(part.ids)))
            seen.update(part.ids)

    def __len__(self) -> int:
        return int(sum(mask.sum() for mask in self._kept))

    def best(
        self,
        queries: Float32,
        k: int,
        *,
        device: torch.device | str = "cpu",
        report: Report = lambda stage, done, total: None,
    ) -> list[list[int]]:
        """Places in `ids` of the k highest dot products for each of queries (Q, E), best first; fewer where there are
        fewer.

        Exact: every candidate is scored in float32. Which of several equal scores come in at place k is not defined.
        """
        queries_on_device = torch.from_numpy(queries).to(device)
        scores = torch.full((len(queries), k), -torch.inf, device=device)
        places = torch.full((len(queries), k), -1, device=device)
        for start, block, usable in self._chunks():
            candidates, unusable = torch.from_numpy(block).to(device), torch.from_numpy(~usable).to(device)
            for row in range(0, len(queries), _BLOCK_ROWS):
                some = slice(row, row + _BLOCK_ROWS)
                products = (queries_on_device[some] @ candidates.T).masked_fill(unusable, -torch.inf)  # (q, n)
                top = products.topk(min(k, len(block)), dim=1)
                merged = torch.cat([scores[some], top.values], dim=1).topk(k, dim=1)
                best_places = torch.cat([places[some], top.indices + start], dim=1)
                scores[some], places[some] = merged.values, best_places.gather(1, merged.indices)
            report("search", start + len(block), len(self.ids))
        places[scores.isneginf() | ~queries_on_device.any(dim=1, keepdim=True)] = -1
        return [[place for place in row if place >= 0] for row in places.cpu().tolist()]

    def _chunks(self) -> Iterator[tuple[int, Float32, NDArray[np.bool_]]]:
        """Yield (place of the first, vectors (n, E) float32, which of them may be found)."""
        start = 0
        for part, mask in zip(self.parts, self._kept, strict=True):
            for row in range(0, len(part.ids), _CHUNK_ROWS):
                block = np.asarray(part.vectors[row : row + _CHUNK_ROWS], np.float32)
                yield start + row, block, mask[row : row + _CHUNK_ROWS] & block.any(axis=1)
            start += len(part.ids)
