"""What goes over the wire, as pydantic models: strict types, no unknown fields. Bounds that are settings are checked elsewhere."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)

from model.errors import InvalidInput
from service.schemas import filter_schema
from service.schemas.names import COLLECTION_NAME, DOCUMENT_ID
from service.schemas.validation import invalid

T = TypeVar("T")


CollectionName = Annotated[str, StringConstraints(pattern=COLLECTION_NAME)]
DocumentId = Annotated[str, StringConstraints(pattern=DOCUMENT_ID)]
FieldName = Annotated[str, StringConstraints(min_length=1, max_length=128)]  # of metadata: keys joined by dots

# Read by `indexer.filters.parse`; here it only has its name in the OpenAPI document.
FilterIn = Annotated[dict[str, Any], WithJsonSchema(filter_schema.REFERENCE)]


class Wire(BaseModel):
    """A body, or a part of one: strict types, no unknown fields. A field that is null counts as a field that was not sent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    # Fields whose null has a meaning of its own.
    nullable: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {name: part for name, part in value.items() if part is not None or name in cls.nullable}


# --- images


class ImageUrl(Wire):
    """An image to be fetched. Private addresses are refused."""

    url: str = Field(max_length=8192)


class ImageBase64(Wire):
    """An image file in base64."""

    base64: str


def _image_form(value: object) -> str | None:
    if isinstance(value, str):
        return "<string>"
    fields = value if isinstance(value, dict) else vars(value) if isinstance(value, BaseModel) else {}
    return next((f"<{form}>" for form in ("url", "base64") if fields.get(form) is not None), None)


# Tags in angle brackets: `service.http.problems` leaves them out of the field's path.
ImageField = Annotated[
    Annotated[ImageUrl, Tag("<url>")] | Annotated[ImageBase64, Tag("<base64>")] | Annotated[str, Tag("<string>")],
    Discriminator(
        _image_form,
        custom_error_type="image_form",
        # Without braces, which pydantic takes for a template and doubles.
        custom_error_message="an image is an object with url or with base64, a data URI or an http(s) URL",
    ),
]


# --- inputs


class InputIn(Wire):
    """Text, an image, or both."""

    text: str | None = None
    image: ImageField | None = None

    @model_validator(mode="after")
    def _something(self) -> InputIn:
        if not self.text and self.image is None:
            raise ValueError("neither text nor image: at least one is needed")
        return self


# --- one bad item among good ones


def _keep_error(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    try:
        return validate(value)
    except ValidationError as error:
        return invalid(error)


# An item that is wrong becomes its own `InvalidInput` and leaves the request standing (promise 2). Read it with `checked`.
Lenient = WrapValidator(_keep_error)


def checked(item: T) -> T | InvalidInput:
    """What a `Lenient` item really is; its annotation tells OpenAPI what it should be."""
    return cast("T | InvalidInput", item)


# --- search


class ErrorOut(BaseModel):
    code: str
    detail: str


# --- encode


# --- collections, documents, jobs


# --- operations


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """For bodies that FastAPI does not read: the schema, its parts by reference to models that other routes declare."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return schema
