"""docs/openapi.json is what the application says of itself.

`UPDATE_DOCS=1 pytest tests/unit/service/http/openapi/test_document.py` writes it.
"""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from prometheus_client import CollectorRegistry

from service.api.app import create_app
from service.http.openapi import document as served
from service.observability.metrics import Metrics
from service.settings import Settings

FILE = Path(__file__).parents[5] / "docs" / "openapi.json"


@pytest.fixture
def openapi() -> dict[str, Any]:
    """Declaring routes needs no running parts."""
    parts: Any = SimpleNamespace(
        settings=Settings(), metrics=Metrics(CollectorRegistry()), encoder=None, fetcher=None, api_keys=()
    )
    return create_app(parts).openapi()


def test_the_file_is_the_application(openapi: dict[str, Any]) -> None:
    written = json.dumps(openapi, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_DOCS"):
        FILE.write_text(written)
    assert FILE.read_text() == written, (
        "run UPDATE_DOCS=1 pytest tests/unit/service/http/openapi/test_document.py and read the diff"
    )


NO_EXAMPLE = {("SearchIn", "cursor")}  # it would have to be of a search that was made


def test_everything_has_a_description(openapi: dict[str, Any]) -> None:
    """Words that lack go to `service/http/openapi/glossary.py`."""
    lacking = [name for name, schema in served.schemas(openapi) if not schema.get("description")]
    lacking += [
        f"{name}.{field}"
        for name, schema in served.schemas(openapi)
        for field, value in schema.get("properties", {}).items()
        if not value.get("description")
    ]
    lacking += [f"{path}.{one['name']}" for path, one in served.parameters(openapi) if not one.get("description")]
    lacking += [
        f"{method.upper()} {path}"
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
        if not operation.get("description")
    ]
    assert not lacking


def test_everything_has_an_example_that_fits(openapi: dict[str, Any]) -> None:
    """Examples are in `service/http/openapi/examples.py`; together those of a schema show each of its fields."""
    lacking: list[str] = [path for path, one in served.parameters(openapi) if "example" not in one]
    for name, schema in served.schemas(openapi):
        examples = schema.get("examples", [])
        whole = {**schema, "components": openapi["components"]}
        for example in examples:
            Draft202012Validator(whole).validate(example)
        shown = {key for example in examples if isinstance(example, dict) for key in example}
        lacking += [] if examples else [name]
        lacking += [f"{name}.{field}" for field in schema.get("properties", {}) if field not in shown]
    assert {tuple(one.split(".")) for one in lacking} == NO_EXAMPLE


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
        "POST /v1/embeddings",
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
