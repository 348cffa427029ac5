"""The common base of request bodies: strict types, unknown fields refused, null like an absent field."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator


def examples(*values: dict[str, Any]) -> dict[str, Any]:
    """Return what shows whole examples of a body in the OpenAPI document."""
    return {"examples": list(values)}


class Wire(BaseModel):
    """A body, or a part of one: strict types, no unknown fields. A field that is null counts as a field that was not
    sent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    # Fields whose null has a meaning of its own.
    nullable: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {name: part for name, part in value.items() if part is not None or name in cls.nullable}
