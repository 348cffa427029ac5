"""Changes of documents that are there: JSON merge patches (RFC 7396) of their metadata, and parts that are taken
away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from indexer.domain.documents import content_hash, unstamped
from indexer.domain.points import Point
from model.errors import InvalidInput


def merged(target: Any, patch: Any) -> Any:
    """Return what a merge patch makes of a value: objects are merged, null removes, anything else replaces."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


@dataclass(frozen=True, slots=True)
class Patched:
    """A document as it stands, with the changes of some patches. The ledger holds a patch as the metadata of its item,
    `{"metadata"?: merge patch, "text"?: null, "image"?: null}`."""

    point: Point
    text: str | None
    image_digest: str | None
    metadata: Mapping[str, Any]
    # Whether the images were taken away, so that nothing of them counts any more.
    without_image: bool = False
    more_images: tuple[str, ...] = ()

    @classmethod
    def unchanged(cls, point: Point) -> Patched:
        return cls(point, point.text, point.image_digest, point.metadata, more_images=point.more_images)

    def apply(self, patch: Mapping[str, Any]) -> Patched:
        """Return the document after one more patch. Raises `InvalidInput` if neither text nor image would be left."""
        after = replace(self, metadata=merged(self.metadata, patch.get("metadata", {})))
        if "text" in patch:
            after = replace(after, text=None)
        if "image" in patch:
            after = replace(after, image_digest=None, more_images=(), without_image=True)
        if after.is_reduced and not after.text and after.image_digest is None:
            raise InvalidInput("neither text nor image would be left: delete the document instead", field="text")
        return after

    @property
    def is_reduced(self) -> bool:
        """Whether a part that was there is gone, so that its embedding is another one."""
        return self.text != self.point.text or self.image_digest != self.point.image_digest

    @property
    def content(self) -> str:
        """The content hash of a document that has changed.

        It is that of the whole document where the kept image is the original, so that posting the same document again
        changes nothing. Of a thumbnail the original is not known: then it derives from the hash before.
        """
        point, before = self.point, unstamped(self.point.content_hash)
        exact = content_hash(point.text, point.image_digest, point.metadata, point.more_images)
        if self.without_image or before == exact:
            return content_hash(self.text, self.image_digest, self.metadata, self.more_images)
        return content_hash(self.text, before, self.metadata)

    @property
    def is_changed(self) -> bool:
        # As JSON: to Python 1, 1.0 and True are the same.
        return self.is_reduced or _as_json(self.metadata) != _as_json(self.point.metadata)


def _as_json(metadata: Mapping[str, Any]) -> bytes:
    return orjson.dumps(metadata, option=orjson.OPT_SORT_KEYS)
