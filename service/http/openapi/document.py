"""The OpenAPI document: what FastAPI makes of the routes, with the words of the glossary and the examples put in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from service.http.openapi import examples as wire_examples
from service.http.openapi import glossary
from service.http.problems import JSON
from service.schemas import filter_schema

_DOCUMENTS = "/collections/{name}/documents"


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """The same document, changed in place."""
    if "SearchIn" in document["components"]["schemas"]:
        document["components"]["schemas"]["Filter"] = dict(filter_schema.SCHEMA)
    for name, schema in schemas(document):
        schema.setdefault("description", glossary.SCHEMAS.get(name, ""))
        if examples := wire_examples.SCHEMAS.get(name):
            schema.setdefault("examples", examples)
        for field, value in schema.get("properties", {}).items():
            _describe(value, f"{name}.{field}", field)
    for call, text in glossary.OPERATIONS.items():
        method, _, path = call.partition(" ")
        if operation := document["paths"].get(path, {}).get(method.lower()):
            operation.setdefault("description", text)
    for path, parameter in parameters(document):
        name = parameter["name"]
        _describe(parameter, f"{path}.{name}", name)
        for key in (f"{path}.{name}", name):
            if key in wire_examples.PARAMETERS:
                parameter.setdefault("example", wire_examples.PARAMETERS[key])
    content = document["paths"].get(_DOCUMENTS, {}).get("post", {}).get("requestBody", {}).get("content", {})
    if JSON in content:
        content[JSON]["example"] = wire_examples.DOCUMENTS
    return document


def schemas(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema with a name: those of the components, and objects that stand in the routes themselves."""
    components: dict[str, dict[str, Any]] = document["components"]["schemas"]
    yield from components.items()
    yield from _inline(document["paths"])


def parameters(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """With the path that each belongs to."""
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield from ((path, parameter) for parameter in operation.get("parameters", ()))


def _inline(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        if "title" in value and "properties" in value:
            yield value["title"], value
        for part in value.values():
            yield from _inline(part)
    elif isinstance(value, list):
        for part in value:
            yield from _inline(part)


def _describe(value: dict[str, Any], *keys: str) -> None:
    """By the first of the keys that the glossary has; what is described already stays as it is."""
    for key in keys:
        if key in glossary.WORDS:
            value.setdefault("description", glossary.WORDS[key])
