"""The client's requests have the options of the service's, and its answers are the service's own models."""

from dataclasses import fields

from indexer.domain.bodies import Wire
from service.client import types
from service.schemas.search import QueryIn, SearchIn


def test_a_search_has_the_options_of_a_request() -> None:
    options: set[str] = set()
    for body in (SearchIn, QueryIn):
        assert issubclass(body, Wire)
        options |= set(body.model_fields)
    assert {field.name for field in fields(types.Search)} == options - {"query"}
