"""The parts that bodies and answers share. Types are strict, unknown fields are refused; bounds that are settings are
checked elsewhere."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, TypeVar, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    StringConstraints,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from indexer import filters
from indexer.filters import FilterModel
from model.errors import InvalidInput
from service.schemas.names import COLLECTION_NAME, DOCUMENT_ID
from service.schemas.samples import PNG_BASE64, QUESTION
from service.schemas.validation import invalid

T = TypeVar("T")

CollectionName = Annotated[str, StringConstraints(pattern=COLLECTION_NAME)]
DocumentId = Annotated[str, StringConstraints(pattern=DOCUMENT_ID)]
# A path to a metadata field: keys joined by dots.
FieldName = Annotated[str, StringConstraints(min_length=1, max_length=128)]

# A `filters.Filter`. `filters.parse` reads it, with errors that name the place; `FilterModel` describes it.
FilterTree = Annotated[Any, PlainValidator(filters.parse, json_schema_input_type=FilterModel)]


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


# --- images


class ImageUrl(Wire):
    """An image to be fetched. Private addresses are refused."""

    url: str = Field(
        max_length=8192, description="an http or https URL, or a data URI", examples=["https://example.org/flag.png"]
    )


class ImageBase64(Wire):
    """An image file in base64."""

    base64: str = Field(
        description="the bytes of an image file: PNG, JPEG, WebP, GIF, BMP, TIFF or AVIF", examples=[PNG_BASE64]
    )


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
        # Without braces, which pydantic takes for a template.
        custom_error_message="an image is an object with url or with base64, a data URI or an http(s) URL",
    ),
]


# --- inputs


class InputIn(Wire):
    """Text, an image, or both."""

    text: str | None = Field(None, description="the text", examples=[QUESTION])
    image: ImageField | None = Field(None, description="the image", examples=[{"base64": PNG_BASE64}])

    @model_validator(mode="after")
    def _check_content(self) -> InputIn:
        if not self.text and self.image is None:
            raise ValueError("neither text nor image: at least one is needed")
        return self


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
