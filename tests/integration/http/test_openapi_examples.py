"""The requests that the OpenAPI document shows are sent to a whole service: each succeeds, and each answer is as its model says."""

from typing import Any
from urllib.parse import quote

import pytest
from checked_answers import check_answer

from indexer.domain.samples import DOCUMENTS

# The others come between, where each finds what it needs.
FIRST = ["PUT /collections/{name}", "POST /collections/{name}/documents"]
LAST = [
    "DELETE /aliases/{name}",
    "DELETE /collections/{name}/documents/{id}",
    "POST /collections/{name}/documents/delete",
    "DELETE /collections/{name}",
]
# What this one service cannot do by itself: the tests of reindexing, of imports and of jobs that failed do it. Their
# client checks every answer, too.
ELSEWHERE = [
    "POST /collections/{name}/imports",
    "POST /jobs/{id}/retry",
    "GET /collections/{name}/reindex",
    "POST /collections/{name}/reindex",
    "POST /collections/{name}/reindex/cancel",
    "POST /collections/{name}/reindex/finish",
    "POST /collections/{name}/reindex/rollback",
]

# Answers without a body, or with one that is not JSON.
UNMODELLED = {
    "DELETE /aliases/{name}",
    "DELETE /collections/{name}",
    "GET /collections/{name}/documents/{id}/image",
    "GET /metrics",
}


@pytest.fixture
async def openapi(served: Any) -> dict[str, Any]:
    document: dict[str, Any] = (await served.client.get("/openapi.json")).json()
    return document


async def test_every_example_of_a_request_succeeds(served: Any, openapi: dict[str, Any], make_image: Any) -> None:
    calls = {f"{method.upper()} {path}" for path, methods in openapi["paths"].items() for method in methods}
    assert {*FIRST, *LAST, *ELSEWHERE} <= calls
    ordered = FIRST + sorted(calls - {*FIRST, *LAST, *ELSEWHERE}) + LAST
    real = {"/jobs/{id}": "", "/v1/models/{model}": "fake"}  # a job's id and a model's name are what they happen to be
    checked: set[str] = set()
    for call in ordered:
        method, _, path = call.partition(" ")
        operation = openapi["paths"][path][method.lower()]
        for body in bodies(operation, openapi):
            parameters = {part["name"]: part for part in operation.get("parameters", ())}
            values = {name: part["schema"]["examples"][0] for name, part in parameters.items()}
            # Examples name the default model of a release, which is not the one that is served here.
            body = body | {"model": real["/v1/models/{model}"]} if isinstance(body, dict) and "model" in body else body
            values |= {"id": real["/jobs/{id}"]} if path.startswith("/jobs/") else {}
            values |= {"model": real["/v1/models/{model}"]} if path.startswith("/v1/models/") else {}
            response = await served.client.request(
                method,
                path.format(**{name: quoted(value) for name, value in values.items()}),
                # A cursor is of a walk that was begun.
                params={
                    name: value
                    for name, value in values.items()
                    if parameters[name]["in"] == "query" and name != "cursor"
                },
                headers={name: value for name, value in values.items() if parameters[name]["in"] == "header"},
                json=body,
            )
            assert response.is_success, f"{call} {body}: {response.text}"
            if (read := check_answer(served.app, response)) is not None:
                assert read == call
                checked.add(read)
            if call == "POST /collections/{name}/documents":
                assert [one["status"] for one in response.json()["results"]] == ["indexed"] * len(DOCUMENTS)
                real["/jobs/{id}"] = response.json()["job"]["id"]
            if path in ("/search/batch", "/encode"):
                assert not [one for one in response.json()["results"] if "error" in one], (call, body)
    assert {call for call in ordered if call not in UNMODELLED} == checked


def bodies(operation: dict[str, Any], openapi: dict[str, Any]) -> list[Any]:
    """None where nothing is sent."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return [None]
    if "example" in content:
        return [content["example"]]
    schema = content["schema"]
    reference = schema.get("$ref") or next(part["$ref"] for part in schema["anyOf"] if "$ref" in part)
    examples: list[Any] = openapi["components"]["schemas"][reference.rpartition("/")[2]]["examples"]
    return examples


async def test_every_example_of_a_filter_is_understood(served: Any, openapi: dict[str, Any]) -> None:
    await served.client.put("/collections/flags")
    for condition in openapi["components"]["schemas"]["Filter"]["examples"]:
        response = await served.client.post(
            "/search", json={"collection": "flags", "query": {"text": "shilling"}, "filter": condition}
        )
        assert response.is_success, f"{condition}: {response.text}"


def quoted(value: Any) -> str:
    return quote(str(value), safe="")
