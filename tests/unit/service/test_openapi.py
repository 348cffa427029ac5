"""docs/openapi.json is what the application says of itself. `UPDATE_DOCS=1 pytest tests/unit/service/test_openapi.py` writes it."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from service.api.app import create_app
from service.settings import Settings
from service.telemetry import Metrics

FILE = Path(__file__).parents[3] / "docs" / "openapi.json"


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
    assert FILE.read_text() == written, "run UPDATE_DOCS=1 pytest tests/unit/service/test_openapi.py and read the diff"


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
        "DELETE /collections/{name}",
        "POST /collections/{name}/documents",
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
