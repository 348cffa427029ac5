"""The Python client: `from service.client import Client`."""

from service.client.client import Client
from service.client.types import (
    Collection,
    Document,
    Failure,
    Group,
    Hit,
    Info,
    Job,
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
    "Document",
    "Failure",
    "Group",
    "Hit",
    "Info",
    "Job",
    "Loaded",
    "Model",
    "Posted",
    "Reindex",
    "Rejected",
    "Search",
    "SearchResult",
]
