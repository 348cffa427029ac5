"""What happens to one batch of a reindex: the other generation is made equal to the serving one for its document ids.

ids ─► serving points ─► gone: deleted ─► unchanged: skipped ─► embedded by the other model ─► other points ─► serving points again
              ▲                                                                                                       │
              └───────────────────────────── what has changed meanwhile, once more ◄──────────────────────────────────┘
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from indexer.domain.collections import Collection
from indexer.domain.documents import Document, ImageRef, unstamped
from indexer.domain.jobs import Batch, Outcome, Status
from indexer.domain.points import Point
from indexer.errors import CollectionUnavailable
from indexer.store.base import Points
from indexer.worker.pipeline import Hold, Pipeline, Result, Work, changed, in_store
from model.errors import RetrievalError

log = structlog.get_logger(__name__)

_ROUNDS = (
    20  # of documents that are written as fast as they are copied: the rest waits, and nobody else waits with them
)


@dataclass(frozen=True, slots=True)
class Fill:
    """Repeating a batch, or running two with the same ids at once, is harmless: each ends with the other generation as it found
    the serving one after its own write. `pipeline` has the encoder of the other generation, whose settings `other` are.

    `lenient`: what cannot be embedded is left out and logged, for the job that would list it is over.
    """

    pipeline: Pipeline
    serving: Points
    others: Points
    other: Collection
    lenient: bool = False

    async def run(self, batch: Batch, *, hold: Hold) -> Result:
        """Raises as `Pipeline.run` does."""
        ids = list(dict.fromkeys(document.id for _, document in batch.items))
        done: dict[str, Outcome] = {}
        waiting: RetrievalError | None = None
        for _ in range(_ROUNDS):
            result, stood = await self._copy(ids, hold)
            done |= {outcome.document_id: outcome for outcome in result.outcomes}
            waiting = waiting or result.waiting
            # Without this second look a write that came between our reading and our writing would be undone by us.
            ids = await self._changed_since(stood)
            if not ids:
                break
        else:
            raise CollectionUnavailable(f"{len(ids)} documents of {self.other.name!r} are written all the while")
        outcomes = [self._outcome(done[one.id], position) for position, one in batch.items if one.id in done]
        return Result(outcomes, waiting)

    async def _copy(self, ids: Sequence[str], hold: Hold) -> tuple[Result, dict[str, str | None]]:
        """And what stood in the serving generation before, by id: a hash, or None for nothing."""
        with in_store():
            stood = dict(zip(ids, await self.serving.fetch(ids), strict=True))
        result = Result()
        works = {key: _work(place, point) for place, (key, point) in enumerate(stood.items()) if point is not None}
        different = await changed(list(works.values()), self.others, self.other.fingerprint, result)
        await self.pipeline.write(different, self.other, self.others, result, hold=hold)
        # What is gone, and what could not be brought over: an older version of it must not stay.
        failed = [one.document_id for one in result.outcomes if one.status is Status.FAILED]
        if stale := [*(stood.keys() - works.keys()), *failed]:
            await hold()
            with in_store():
                await self.others.delete(stale)
        result.outcomes += [Outcome(0, key, Status.SKIPPED) for key in stood.keys() - works.keys()]
        return result, {key: None if point is None else point.content_hash for key, point in stood.items()}

    async def _changed_since(self, stood: dict[str, str | None]) -> list[str]:
        with in_store():
            points = await self.serving.fetch(list(stood))
        now = [None if point is None else point.content_hash for point in points]
        return [key for key, hashed in zip(stood, now, strict=True) if stood[key] != hashed]

    def _outcome(self, outcome: Outcome, position: int) -> Outcome:
        if outcome.status is Status.FAILED and self.lenient:
            log.warning(
                "not in the previous generation",
                collection=self.other.name,
                document=outcome.document_id,
                code=outcome.code,
                detail=outcome.detail,
            )
            return Outcome(position, outcome.document_id, Status.SKIPPED)
        return replace(outcome, position=position)


def _work(place: int, point: Point) -> Work:
    """With the hash of its original image, of which there may be a thumbnail alone. Where nothing was kept of it the hash is of the
    text alone, as the embedding will be: posted again with its image it has changed."""
    image = ImageRef(point.image_digest) if point.image_digest else None
    document = Document(point.document_id, point.text, image, point.metadata)
    content = unstamped(point.content_hash) if point.image_digest else None
    return Work(place, document, digest=point.image_digest, content=content)
