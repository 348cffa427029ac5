"""The parts that bodies and answers share. Types are strict, unknown fields are refused; bounds that are settings are
checked elsewhere."""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeVar, cast

from pydantic import (
    BaseModel,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from indexer import filters
from indexer.domain.validation import invalid
from indexer.filters import FilterModel
from model.errors import InvalidInput

T = TypeVar("T")

# Of a served model, or anything else that clients of other services send: unknown names are errors of their own.
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=512)]
# A path to a metadata field: keys joined by dots.
FieldName = Annotated[str, StringConstraints(min_length=1, max_length=128)]

# A `filters.Filter`. `filters.parse` reads it, with errors that name the place; `FilterModel` describes it.
FilterTree = Annotated[Any, PlainValidator(filters.parse, json_schema_input_type=FilterModel)]


def finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


# --- one bad item among good ones


def _keep_error(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    try:
        return validate(value)
    except ValidationError as error:
        return invalid(error)
    except InvalidInput as error:
        return error


# An item that is wrong becomes its own `InvalidInput` and leaves the others of its request alone. Read it with
# `checked`.
Lenient = WrapValidator(_keep_error)


def checked(item: T) -> T | InvalidInput:
    """Return the item as what it may be, where its annotation tells OpenAPI what it should be."""
    return cast("T | InvalidInput", item)


class ErrorOut(BaseModel):
    """The error of one item among others."""

    code: str = Field(description="the error for programs", examples=["invalid_input"])
    detail: str = Field(
        description="the error for people: what is wrong, the value, and what is allowed",
        examples=["neither text nor image: at least one is needed"],
    )


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the schema of a body that FastAPI does not read; its parts are references to models that other routes
    declare."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return schema
