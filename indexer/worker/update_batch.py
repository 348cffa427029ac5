"""What happens to one batch of updates: patches of documents that are there. Vectors are kept; a document is embedded
again only where a part of it was taken away.

patches ─► points ─► gone: failed ─► patched, in order ─► as before: skipped ─► other metadata alone ─► store
                                         wrong: failed                          a part less ─► encoder ─► store
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from indexer.domain.collections import Collection
from indexer.domain.documents import Document, ImageRef, stamped
from indexer.domain.incoming import DocumentBounds, check_metadata
from indexer.domain.jobs import Batch, Outcome, Status
from indexer.domain.patches import Patched
from indexer.domain.points import MetadataChange
from indexer.store.base import Points
from indexer.worker.pipeline import HoldLease, IndexedDocument, Pipeline, Result, store_errors
from model.errors import InvalidInput, NotFound, RetrievalError


@dataclass(frozen=True, slots=True)
class UpdateBatch:
    """Patches documents of the `points`. Repeating a batch is harmless: a merge patch that was applied changes nothing
    when it is applied again."""

    pipeline: Pipeline
    points: Points
    collection: Collection
    bounds: DocumentBounds

    async def run(self, batch: Batch, *, hold: HoldLease) -> Result:
        """Raise as `Pipeline.run` does. A patch that cannot be applied is a failure of its own."""
        ids = list(dict.fromkeys(document.id for _, document in batch.items))
        with store_errors():
            stored = await self.points.fetch(ids, with_vectors=False)
        patched = {key: Patched.unchanged(point) for key, point in zip(ids, stored, strict=True) if point is not None}
        outcomes: list[Outcome] = []
        applied: list[tuple[int, str]] = []
        for position, document in batch.items:
            try:
                patched[document.id] = self._after(patched.get(document.id), document)
                applied.append((position, document.id))
            except RetrievalError as error:
                outcomes.append(Outcome(position, document.id, Status.FAILED, error.code, error.detail))
        written = await self._write([state for state in patched.values() if state.is_changed], hold)
        last = {outcome.document_id: outcome for outcome in written.outcomes}
        for position, key in applied:
            if patched[key].is_changed and key not in last:
                continue  # it waits for another attempt
            outcome = last.get(key, Outcome(position, key, Status.SKIPPED))
            outcomes.append(replace(outcome, position=position))
        return Result(outcomes, written.waiting)

    def _after(self, state: Patched | None, document: Document) -> Patched:
        if state is None:
            raise NotFound(f"there is no document {document.id!r:.100} to update: post it", field="id")
        after = state.apply(document.metadata)
        check_metadata(after.metadata, self.bounds)
        return after

    async def _write(self, changed: Sequence[Patched], hold: HoldLease) -> Result:
        """Write what has changed. Return an outcome for each document that is settled."""
        unreduced = [state for state in changed if not state.is_reduced]
        result = Result()
        if unreduced:
            await hold()
            result.outcomes += await self._set_metadata(unreduced)
        reduced = [self._document(place, state) for place, state in enumerate(changed) if state.is_reduced]
        if reduced:
            await self.pipeline.write(reduced, self.collection, self.points, hold=hold)
            result.merge(Result.of(reduced))
        return result

    async def _set_metadata(self, states: Sequence[Patched]) -> list[Outcome]:
        """Write all at once; when the store refuses a value, one by one."""
        changes = [MetadataChange(state.point.document_id, state.metadata, self._stamp(state)) for state in states]
        try:
            with store_errors():
                await self.points.set_metadata(changes)
        except InvalidInput as error:
            if len(states) == 1:
                return [Outcome(0, states[0].point.document_id, Status.FAILED, error.code, error.detail)]
            return [outcome for state in states for outcome in await self._set_metadata([state])]
        return [Outcome(0, state.point.document_id, Status.INDEXED) for state in states]

    def _document(self, place: int, state: Patched) -> IndexedDocument:
        digests = () if state.image_digest is None else (state.image_digest, *state.more_images)
        images = tuple(map(ImageRef, digests))
        image = next(iter(images), None)
        document = Document(state.point.document_id, state.text, image, state.metadata, more_images=images[1:])
        return IndexedDocument(place, document, digests=digests, stamp=self._stamp(state))

    def _stamp(self, state: Patched) -> str:
        return stamped(state.content, self.collection.fingerprint, self.collection.passages.stamp)
