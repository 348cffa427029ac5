"""The documents whose copies differ: what the nodes of a cluster say of each point is compared.

A node answers a read from its own copies first, so the addresses of all nodes show every copy.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from indexer.store.server.addresses import Addresses
from indexer.store.server.errors import translating_errors

_PAGE = 1_000
# For writes that are under way between the copies.
_SETTLE_S = 2.0
_FIELDS = ["document_id", "content_hash"]

# Of a point, by address, its document and the hash of its content; None where a node has no such point.
_Copies = dict[str, tuple[str, str] | None]


@dataclass(frozen=True, slots=True)
class Difference:
    """A document and the hash of its content by address, None where it is missing."""

    document_id: str
    hashes: Mapping[str, str | None]


async def differences(addresses: Addresses, engine_name: str) -> AsyncIterator[Difference]:
    """Yield the documents that the addresses answer differently, twice in a row. Raises what any of them raises."""
    after: Any = None
    while True:
        with translating_errors("scroll"):
            pages = await addresses.ask_each("scroll", engine_name, offset=after, limit=_PAGE, with_payload=_FIELDS)
        ends = [following for _, following in pages.values() if following is not None]
        # Behind the least of them some page does not reach.
        after = min(ends, default=None, key=str)
        records = {address: page for address, (page, _) in pages.items()}
        unlike = [point for point, copies in _by_point(records, after).items() if _differ(copies)]
        if unlike:
            await asyncio.sleep(_SETTLE_S)
            with translating_errors("retrieve"):
                again = await addresses.ask_each("retrieve", engine_name, unlike, with_payload=_FIELDS)
            for copies in _by_point(again, None).values():
                if _differ(copies):
                    yield _difference(copies)
        if after is None:
            return


def _by_point(records: Mapping[str, Any], end: Any) -> dict[str, _Copies]:
    """Return the copies of each point before `end`."""
    points: dict[str, _Copies] = {}
    for address, of_address in records.items():
        for record in of_address:
            if end is None or str(record.id) < str(end):
                copies = points.setdefault(str(record.id), dict.fromkeys(records))
                copies[address] = (record.payload["document_id"], record.payload["content_hash"])
    return points


def _differ(copies: _Copies) -> bool:
    return len(set(copies.values())) > 1


def _difference(copies: _Copies) -> Difference:
    document_id = next(copy[0] for copy in copies.values() if copy is not None)
    return Difference(document_id, {address: copy and copy[1] for address, copy in copies.items()})
