"""The parts of the OpenAPI document beyond routes and models: tags, and how to send an API key."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from fastapi.routing import APIRoute

CONTACT = {"name": "whoever runs this service"}
LICENSE = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
SERVERS = [{"url": "/", "description": "this service"}]
TAGS = [
    {"name": "search", "description": "Find documents."},
    {"name": "encode", "description": "Embed texts and images, also as the APIs of OpenAI, Voyage and Cohere do."},
    {"name": "collections", "description": "Create, change and delete collections and their aliases."},
    {"name": "documents", "description": "Index, import, read and delete documents."},
    {"name": "reindex", "description": "Move a collection to another model while it is searched and written."},
    {"name": "jobs", "description": "Follow, cancel and retry work."},
    {"name": "operations", "description": "Probes, metrics and limits."},
]
_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "an API key, as Authorization: Bearer KEY"},
    "header": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "an API key in a header of its own",
    },
}


def operation_id(route: APIRoute) -> str:
    """Return the name of the route's function: `search`, `list_collections`, …"""
    return route.name


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """Complete the document in place: the two ways to send an API key, and that an installation may need none; a
    summary of each operation, which is the first sentence of its description; and only the errors that it can give."""
    document["components"]["securitySchemes"] = _SECURITY_SCHEMES
    document["security"] = [{"bearer": []}, {"header": []}, {}]
    for methods in document["paths"].values():
        for method, operation in methods.items():
            operation["summary"] = re.split(r"(?<=\w)\.(?:\s|$)", operation["description"], maxsplit=1)[0]
            for status in _impossible(method, operation):
                operation["responses"].pop(status, None)
    return document


def _impossible(method: str, operation: dict[str, Any]) -> Iterator[str]:
    """Yield the statuses of errors that an operation cannot answer with."""
    if "requestBody" not in operation:
        yield from ("408", "413", "415")
        if "parameters" not in operation:
            yield "404"
    if method == "get":
        yield "409"
