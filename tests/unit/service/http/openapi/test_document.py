"""docs/openapi.json is what the application says of itself.

`UPDATE_DOCS=1 pytest tests/unit/service/http/openapi/test_document.py` writes it.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from prometheus_client import CollectorRegistry

from service.api.app import create_app
from service.observability.metrics import Metrics
from service.settings import Settings

FILE = Path(__file__).parents[5] / "docs" / "openapi.json"


@pytest.fixture
def openapi() -> dict[str, Any]:
    """Declaring routes needs no running parts."""
    parts: Any = SimpleNamespace(
        settings=Settings(), metrics=Metrics(CollectorRegistry()), encoders=None, fetcher=None, api_keys=()
    )
    return create_app(parts).openapi()


def test_the_file_is_the_application(openapi: dict[str, Any]) -> None:
    written = json.dumps(openapi, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_DOCS"):
        FILE.write_text(written)
    assert FILE.read_text() == written, (
        "run UPDATE_DOCS=1 pytest tests/unit/service/http/openapi/test_document.py and read the diff"
    )


def schemas(openapi: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema with a name: components, and objects that stand in the routes themselves."""
    yield from openapi["components"]["schemas"].items()
    yield from inline(openapi["paths"])


def inline(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        if "title" in value and "properties" in value:
            yield value["title"], value
        for part in value.values():
            yield from inline(part)
    elif isinstance(value, list):
        for part in value:
            yield from inline(part)


def operations(openapi: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in openapi["paths"].items():
        yield from ((f"{method.upper()} {path}", operation) for method, operation in methods.items())


def test_everything_has_a_description(openapi: dict[str, Any]) -> None:
    """Descriptions stand on the models (`Field(description=)`) and in the docstrings of models and routes."""
    lacking = [name for name, schema in schemas(openapi) if not schema.get("description")]
    lacking += [
        f"{name}.{field}"
        for name, schema in schemas(openapi)
        for field, value in schema.get("properties", {}).items()
        if not value.get("description")
    ]
    for call, operation in operations(openapi):
        lacking += [] if operation.get("description") else [call]
        lacking += [f"{call} {part['name']}" for part in operation.get("parameters", ()) if not part.get("description")]
    assert not lacking


# A cursor would have to be that of a search that was made.
NO_EXAMPLE = {"SearchIn.cursor", "ScrollIn.cursor"}


def test_everything_has_an_example_that_fits(openapi: dict[str, Any]) -> None:
    """Examples stand on the models: of whole bodies, or of fields. A field that holds other models needs none."""
    lacking: list[str] = []
    for name, schema in schemas(openapi):
        whole = schema.get("examples", [])
        for example in whole:
            Draft202012Validator({**schema, "components": openapi["components"]}).validate(example)
        shown = {key for example in whole if isinstance(example, dict) for key in example}
        for field, value in schema.get("properties", {}).items():
            for example in value.get("examples", []):
                Draft202012Validator({**value, "components": openapi["components"]}).validate(example)
            is_shown = field in shown or value.get("examples") or "#/components/schemas" in json.dumps(value)
            lacking += [] if is_shown or name.startswith(("Filter", "Geo")) else [f"{name}.{field}"]
    for call, operation in operations(openapi):
        parameters = operation.get("parameters", ())
        lacking += [f"{call} {part['name']}" for part in parameters if not part["schema"].get("examples")]
    assert set(lacking) == NO_EXAMPLE


def test_operation_ids_are_the_names_of_what_is_done(openapi: dict[str, Any]) -> None:
    ids = {call: operation["operationId"] for call, operation in operations(openapi)}
    assert ids["POST /search"] == "search"
    assert ids["GET /collections"] == "list_collections"
    assert ids["PUT /collections/{name}"] == "create_collection"
    assert len(set(ids.values())) == len(ids)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in ids.values())


def test_every_variant_of_a_filter_is_a_component(openapi: dict[str, Any]) -> None:
    """Generators of clients refuse a schema that refers to itself unless its variants have names."""
    filters = openapi["components"]["schemas"]["Filter"]
    assert {variant["$ref"].rpartition("/")[2] for variant in filters["oneOf"]} == {
        name for name in openapi["components"]["schemas"] if re.fullmatch("Filter.+", name)
    }
    body = openapi["components"]["schemas"]["SearchIn"]["properties"]["filter"]
    assert {"$ref": "#/components/schemas/Filter"} in body["anyOf"]


def test_a_key_can_be_sent_in_two_ways_or_not_at_all(openapi: dict[str, Any]) -> None:
    assert openapi["components"]["securitySchemes"].keys() == {"bearer", "header"}
    assert openapi["security"] == [{"bearer": []}, {"header": []}, {}]
    assert openapi["servers"]
    assert openapi["info"]["license"]["identifier"] == "Apache-2.0"


def test_every_reference_leads_somewhere(openapi: dict[str, Any]) -> None:
    known = {f"#/components/schemas/{name}" for name in openapi["components"]["schemas"]}

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    assert references(openapi) <= known


def test_the_design_s_calls_are_there(openapi: dict[str, Any]) -> None:
    calls = {f"{method.upper()} {path}" for path, methods in openapi["paths"].items() for method in methods}
    assert calls == {
        "POST /search",
        "POST /search/batch",
        "POST /encode",
        "POST /passages",
        "POST /v1/embeddings",
        "POST /v1/multimodalembeddings",
        "POST /v2/embed",
        "GET /v1/models",
        "GET /v1/models/{model}",
        "GET /collections",
        "PUT /collections/{name}",
        "GET /collections/{name}",
        "PATCH /collections/{name}",
        "DELETE /collections/{name}",
        "POST /collections/{name}/reindex",
        "GET /collections/{name}/reindex",
        "POST /collections/{name}/reindex/cancel",
        "POST /collections/{name}/reindex/rollback",
        "POST /collections/{name}/reindex/finish",
        "GET /aliases",
        "PUT /aliases/{name}",
        "DELETE /aliases/{name}",
        "POST /collections/{name}/documents",
        "POST /collections/{name}/imports",
        "POST /jobs/{id}/cancel",
        "POST /jobs/{id}/retry",
        "GET /jobs/{id}/events",
        "GET /collections/{name}/documents",
        "POST /collections/{name}/facets",
        "POST /collections/{name}/documents/scroll",
        "POST /collections/{name}/documents/get",
        "POST /collections/{name}/count",
        "POST /collections/{name}/copy",
        "POST /collections/{name}/documents/update",
        "PATCH /collections/{name}/documents/{id}",
        "POST /collections/{name}/documents/delete",
        "GET /collections/{name}/documents/{id}",
        "DELETE /collections/{name}/documents/{id}",
        "GET /collections/{name}/documents/{id}/image",
        "GET /jobs",
        "GET /jobs/{id}",
        "GET /jobs/{id}/failures",
        "GET /livez",
        "GET /readyz",
        "GET /metrics",
        "GET /info",
    }
