"""The requests that the OpenAPI file shows are sent to a whole service, and every one is answered with success."""

from typing import Any
from urllib.parse import quote

import pytest

from service.http.openapi.examples import DOCUMENTS, PARAMETERS, SCHEMAS

# The others come between, where each finds what it needs.
FIRST = ["PUT /collections/{name}", "POST /collections/{name}/documents"]
LAST = [
    "DELETE /aliases/{name}",
    "DELETE /collections/{name}/documents/{id}",
    "POST /collections/{name}/documents/delete",
    "DELETE /collections/{name}",
]
# What this one service cannot do by itself: the tests of reindexing do it, of imports, and of jobs that failed.
ELSEWHERE = [
    "POST /collections/{name}/imports",
    "POST /jobs/{id}/retry",
    "GET /collections/{name}/reindex",
    "POST /collections/{name}/reindex",
    "POST /collections/{name}/reindex/cancel",
    "POST /collections/{name}/reindex/finish",
    "POST /collections/{name}/reindex/rollback",
]


@pytest.fixture
async def openapi(served: Any) -> dict[str, Any]:
    document: dict[str, Any] = (await served.client.get("/openapi.json")).json()
    return document


async def test_every_example_of_a_request_succeeds(served: Any, openapi: dict[str, Any], make_image: Any) -> None:
    calls = {f"{method.upper()} {path}" for path, methods in openapi["paths"].items() for method in methods}
    assert {*FIRST, *LAST, *ELSEWHERE} <= calls
    ordered = FIRST + sorted(calls - {*FIRST, *LAST, *ELSEWHERE}) + LAST
    real = {"/jobs/{id}": "", "/v1/models/{model}": "fake"}  # a job's id and a model's name are what they happen to be
    for call in ordered:
        method, _, path = call.partition(" ")
        operation = openapi["paths"][path][method.lower()]
        for body in bodies(operation):
            parameters = {one["name"]: one for one in operation.get("parameters", ())}
            values = {name: one["example"] for name, one in parameters.items()}
            values |= {"id": real["/jobs/{id}"]} if path.startswith("/jobs/") else {}
            values |= {"model": real["/v1/models/{model}"]} if path.startswith("/v1/models/") else {}
            response = await served.client.request(
                method,
                path.format(**{name: quoted(value) for name, value in values.items()}),
                params={name: value for name, value in values.items() if parameters[name]["in"] == "query"},
                headers={name: value for name, value in values.items() if parameters[name]["in"] == "header"},
                json=body,
            )
            assert response.is_success, f"{call} {body}: {response.text}"
            if call == "POST /collections/{name}/documents":
                assert [one["status"] for one in response.json()["results"]] == ["indexed"] * len(DOCUMENTS)
                real["/jobs/{id}"] = response.json()["job"]["id"]
            if path in ("/search/batch", "/encode"):
                assert not [one for one in response.json()["results"] if "error" in one], (call, body)


def bodies(operation: dict[str, Any]) -> list[Any]:
    """None where nothing is sent."""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return [None]
    if "example" in content:
        return [content["example"]]
    schema = content["schema"]
    reference = schema.get("$ref") or next(one["$ref"] for one in schema["anyOf"] if "$ref" in one)
    return SCHEMAS[reference.rpartition("/")[2]]


async def test_every_example_of_a_filter_is_understood(served: Any) -> None:
    await served.client.put("/collections/flags")
    for one in SCHEMAS["Filter"]:
        response = await served.client.post(
            "/search", json={"collection": "flags", "query": {"text": "shilling"}, "filter": one}
        )
        assert response.is_success, f"{one}: {response.text}"


def quoted(value: Any) -> str:
    return quote(str(value), safe="")


def test_the_example_job_is_shown_wherever_a_job_is_named() -> None:
    assert {value for name, value in PARAMETERS.items() if name.startswith("/jobs/")} == {SCHEMAS["JobOut"][0]["id"]}
