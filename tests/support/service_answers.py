"""Answers of the service, made from its models: what a test does not name has the model's own example."""

from typing import Any, get_origin

from pydantic import BaseModel
from pydantic_core import to_jsonable_python


def answer(model: type[BaseModel], **fields: Any) -> dict[str, Any]:
    """Return a complete answer as plain JSON. Fields that the model does not know are kept."""
    complete = dict(fields)
    for name, field in model.model_fields.items():
        if name not in complete and field.is_required():
            complete[name] = field.examples[0] if field.examples else _empty(field.annotation)
    plain: dict[str, Any] = to_jsonable_python(complete)
    return plain


def _empty(kind: Any) -> Any:
    if get_origin(kind) is list:
        return []
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return answer(kind)
    return None
