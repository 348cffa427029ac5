"""The payload indexes of a store, as a list of collections shows them."""

from collections.abc import Mapping

from indexer.filters import FieldType
from indexer.store.base import Store, Summary
from indexer.store.indexes import unfinished


async def unfinished_indexes(store: Store, name: str, fields: Mapping[str, FieldType]) -> list[str]:
    """The declared fields whose index is not built yet."""
    summary = (await store.summaries([name]))[name]
    assert isinstance(summary, Summary), summary
    return unfinished(fields, summary.indexed)
