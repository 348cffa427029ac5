"""The client's classes have the fields of the answers they are built from, no more and no fewer."""

from dataclasses import fields
from typing import Any

import pytest
from pydantic import BaseModel

from indexer.domain.bodies import Wire
from service.client import types
from service.schemas.collections import CollectionOut, GenerationOut, ReindexOut
from service.schemas.documents import RejectedOut
from service.schemas.operations import ModelOut
from service.schemas.search import GroupOut, HitOut, QueryIn, SearchIn, SearchOut, TimingsOut


@pytest.mark.parametrize(
    ("ours", "answer"),
    [
        (types.Hit, HitOut),
        (types.Group, GroupOut),
        (types.SearchResult, SearchOut),
        (types.Timings, TimingsOut),
        (types.Collection, CollectionOut),
        (types.Generation, GenerationOut),
        (types.Reindex, ReindexOut),
        (types.Rejected, RejectedOut),
        (types.Model, ModelOut),
    ],
)
def test_a_class_has_the_fields_of_its_answer(ours: Any, answer: type[BaseModel]) -> None:
    assert {field.name for field in fields(ours)} == set(answer.model_fields)


def test_a_search_has_the_options_of_a_request() -> None:
    options: set[str] = set()
    for body in (SearchIn, QueryIn):
        assert issubclass(body, Wire)
        options |= set(body.model_fields)
    assert {field.name for field in fields(types.Search)} == options - {"query"}
