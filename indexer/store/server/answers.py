"""Answers of newer Qdrant servers are read over REST, whatever fields they have beside those that the client knows.

The models of qdrant-client for what a collection is made with serve for requests too, and refuse unknown fields. So one
new setting in the answer of a newer server would make every collection unreadable. gRPC leaves out what it does not
know.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel
from qdrant_client import models as q
from qdrant_client.http.models import models as client_models


@cache
def read_unknown_fields() -> None:
    """Let the models of a collection's description leave out unknown fields, once for the process."""
    models = list(_models(_description_answer(), set()))
    for model in models:
        model.model_config["extra"] = "ignore"
    # Each has the rules of those it consists of.
    for model in models:
        model.model_rebuild(force=True)


def _description_answer() -> type[BaseModel]:
    """Return the model of the whole answer, whose name changes from version to version of the client."""
    answers: list[type[BaseModel]] = [
        model for name, model in vars(client_models).items() if name.startswith("InlineResponse")
    ]
    return next(model for model in answers if q.CollectionInfo in get_args(model.model_fields["result"].annotation))


def _models(annotation: Any, seen: set[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """Yield the models that an annotation consists of, the innermost first."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
        seen.add(annotation)
        for field in annotation.model_fields.values():
            yield from _models(field.annotation, seen)
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument, seen)
