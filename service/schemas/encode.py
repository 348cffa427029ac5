"""Bodies and answers of /encode."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from service.schemas.base import ErrorOut, InputIn, Lenient, Wire


class EncodeIn(Wire):
    role: Literal["query", "document"]
    lane: Literal["search", "bulk"] | None = Field(
        None, description="which queue: searches go before bulk work. Unset: search for queries, bulk for documents"
    )
    inputs: list[Annotated[InputIn, Lenient]] = Field(min_length=1)


class EmbeddingOut(BaseModel):
    embedding: list[float]
    dropped_tokens: int | None = None


class EncodeErrorOut(BaseModel):
    error: ErrorOut


class EncodeOut(BaseModel):
    model: str
    dimensions: int
    results: list[EmbeddingOut | EncodeErrorOut]
