"""The Python client: `from service.client import Client`."""

from service.client.client import Client
from service.client.types import (
    Collection,
    Group,
    Hit,
    Info,
    Loaded,
    Model,
    Posted,
    Reindex,
    Rejected,
    Search,
    SearchResult,
)

__all__ = [
    "Client",
    "Collection",
    "Group",
    "Hit",
    "Info",
    "Loaded",
    "Model",
    "Posted",
    "Reindex",
    "Rejected",
    "Search",
    "SearchResult",
]
