"""The limits on one search."""

from __future__ import annotations

from dataclasses import dataclass

from indexer.domain.collections import Collection
from model.errors import InvalidInput
from model.settings import setting
from service.schemas.search import MAX_GROUPS, SearchIn
from service.search.highlights import MAX_HIGHLIGHTED

# Hits of a search where neither the request nor the collection names a limit.
DEFAULT_LIMIT = 10


@dataclass(frozen=True, slots=True)
class SearchBounds:
    """The bounds of one search; `depth` is the number of hits of a ranking that can be reached."""

    timeout_s: float
    hits: int = setting(1_000, "max_search_hits", "hits of one search", gt=0)
    depth: int = setting(
        10_000,
        "max_search_depth",
        "how far a ranking can be walked, by offset or cursor, and how much of it groups are sought in",
        gt=0,
    )
    held_hits: int = setting(
        4_000,
        "max_held_hits",
        "hits of all searches held at once; a search that would go over it waits for others",
        gt=0,
    )

    def default_limit(self, search: SearchIn, collection: Collection) -> int:
        """Return the collection's own limit, cut to bounds that may have been set after it."""
        most = min(self.hits, self.depth) if search.group_by is None else min(self.hits, MAX_GROUPS)
        return min(collection.limit or DEFAULT_LIMIT, most)

    def check(self, search: SearchIn, limit: int) -> None:
        """Raise `InvalidInput` naming the field, its value and the limit."""
        if limit > self.hits:
            raise _over("limit", f"limit is {limit}, at most {self.hits}", limit, self.hits)
        self.check_depth("offset", search.offset, limit)
        if search.group_by is not None and limit > MAX_GROUPS:
            raise _over("limit", f"limit is {limit} groups, at most {MAX_GROUPS}", limit, MAX_GROUPS)
        size = search.group_size or 1
        if search.group_by is not None and limit * size > self.hits:
            raise _over(
                "group_size",
                f"limit x group_size is {limit} x {search.group_size}, at most {self.hits} hits",
                search.group_size,
                self.hits,
            )
        if search.highlight and limit * size > MAX_HIGHLIGHTED:
            detail = f"highlight reads the texts of {limit * size} hits again, at most {MAX_HIGHLIGHTED}"
            raise _over("limit", detail, limit * size, MAX_HIGHLIGHTED)
        timeout_s = search.timeout_s
        if timeout_s is not None and timeout_s > self.timeout_s:
            raise _over(
                "timeout_s", f"timeout_s is {timeout_s:g}, at most {self.timeout_s:g}", timeout_s, self.timeout_s
            )

    def check_depth(self, field: str, begin: int, limit: int) -> None:
        """Raise `InvalidInput` where a page ends behind the last hit that can be reached."""
        if begin + limit > self.depth:
            detail = (
                f"{field} + limit is {begin + limit}, but only the first {self.depth} hits can be read: add a filter"
                if field == "offset"
                else f"the page would end at hit {begin + limit}, but only the first {self.depth} hits can be read: "
                f"add a filter"
            )
            raise _over(field, detail, begin, self.depth)


def _over(field: str, detail: str, value: float | None, limit: float) -> InvalidInput:
    return InvalidInput(detail, field=field, value=value, limit=limit)
