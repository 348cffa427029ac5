"""Answers of probes, /info, and problems."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class LiveOut(BaseModel):
    alive: bool
    parts: dict[str, bool]


class ReadyOut(BaseModel):
    ready: bool
    checks: dict[str, str] = Field(description="`ok`, or what is wrong")


class ModelOut(BaseModel):
    name: str
    fingerprint: str
    dimensions: int
    max_text_tokens: int
    image_size_px: int
    latents: int = Field(description="vectors of one input; with several, late interaction can rerank")
    commit: str | None = Field(description="of a model from the hub, for `hub:ORG/NAME@COMMIT`; null for any other")


class InfoOut(BaseModel):
    version: str
    model: ModelOut
    limits: dict[str, int]


class OpenAiError(BaseModel):
    """The same error in the words of OpenAI's clients."""

    message: str
    type: str
    param: str | None
    code: str


class Problem(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[dict[str, Any]] | None = None
    error: OpenAiError | None = Field(None, description="under /v1/ alone")
