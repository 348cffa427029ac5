"""Answers of probes, /info, and problems."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class LiveOut(BaseModel):
    """Whether this process is alive."""

    alive: bool = Field(description="whether every part is alive", examples=[True])
    parts: dict[str, bool] = Field(
        description="the parts of this process, and whether each is alive",
        examples=[{"encoder": True, "fetcher": True, "store": True, "worker": True}],
    )


class ReadyOut(BaseModel):
    """Whether this process can serve."""

    ready: bool = Field(description="whether every check is `ok`", examples=[True])
    checks: dict[str, str] = Field(
        description="`ok`, or what is wrong", examples=[{"encoder": "ok", "store": "ok", "ledger": "ok"}]
    )
    models: dict[str, str] = Field(
        description="`ok`, or what is wrong, of each model; one that does not work makes its own collections "
        "unavailable, and not this process unready",
        examples=[{"everyday": "ok", "atlas": "ok"}],
    )


class ModelOut(BaseModel):
    """A served model. While it is loading, or when it could not be loaded, all but name and state is absent."""

    name: str = Field(description="the name it is served by, which requests and collections name", examples=["atlas"])
    state: Literal["loading", "ready", "failed"] = Field(description="whether it can be used", examples=["ready"])
    detail: str | None = Field(description="why it does not work; null for a model that does", examples=[None])
    fingerprint: str | None = Field(
        None, description="changes with anything that changes embeddings", examples=["3f2c9a"]
    )
    dimensions: int | None = Field(None, description="the length of an embedding", examples=[256])
    modalities: list[Literal["text", "image"]] | None = Field(
        None, description="what it embeds, alone or together", examples=[["text", "image"]]
    )
    shorter: list[int] | None = Field(
        None, description="lengths that `dimensions` of /v1/embeddings may ask for too", examples=[[64, 128]]
    )
    weighable: bool | None = Field(
        None, description="whether queries of text and image may have `weights`", examples=[True]
    )
    max_text_tokens: int | None = Field(None, description="the tokens of a text that it reads", examples=[128])
    image_size_px: int | None = Field(
        None, description="the side of the square that images are scaled to", examples=[224]
    )
    latents: int | None = Field(
        None, description="the vectors of one input; with several, late interaction can rerank", examples=[1]
    )
    precision: str | None = Field(
        None,
        description="of the products it is computed by, and of their inputs; on a CPU a `bfloat16` model has its "
        "convolutions in float32",
        examples=["bfloat16"],
    )
    commit: str | None = Field(
        None,
        description="the commit of a model from the hub, for `hub:ORG/NAME@COMMIT`; null for any other model",
        examples=["3f2c9a51"],
    )


class InfoOut(BaseModel):
    """The service, its models and its limits."""

    version: str = Field(description="the version of ret2", examples=["0.1.0"])
    models: list[ModelOut] = Field(
        description="the models behind this service; the first is that of requests and new collections that name none"
    )
    qdrant_versions: list[str] = Field(
        description="the versions of the Qdrant servers in use; empty with the embedded index, and before "
        "the first call",
        examples=[["1.20.0"]],
    )
    limits: dict[str, float] = Field(
        description="the limits on requests, by the name of the setting", examples=[{"max_image_bytes": 20971520}]
    )

    @property
    def default(self) -> ModelOut:
        """The model of requests and new collections that name none."""
        return self.models[0]


class OpenAiError(BaseModel):
    """The error as OpenAI's clients read it."""

    message: str = Field(description="the same as `detail`", examples=["no valid API key"])
    type: str = Field(description="OpenAI's name for this kind of error", examples=["authentication_error"])
    param: str | None = Field(description="the first wrong field", examples=["input[0]"])
    code: str = Field(description="the error for programs", examples=["unauthorized"])


class Problem(BaseModel):
    """An error, as in RFC 9457."""

    type: str = Field(description="always `about:blank`: `code` says more", examples=["about:blank"])
    title: str = Field(description="the status in words", examples=["Bad Request"])
    status: int = Field(description="the HTTP status", examples=[400])
    detail: str = Field(
        description="the error for people: what is wrong, the value, and what is allowed",
        examples=["image has 120000000 px, limit is 50000000"],
    )
    code: str = Field(description="the error for programs", examples=["too_large"])
    request_id: str = Field(
        description="the id of this request, which is also in the log and in X-Request-Id", examples=["5f0c"]
    )
    errors: list[dict[str, Any]] | None = Field(
        None,
        description="the wrong fields, each with its name, the value, and what is allowed",
        examples=[[{"field": "image", "value": 120000000, "limit": 50000000}]],
    )
    error: OpenAiError | None = Field(None, description="under /v1/ only: the same error as OpenAI's clients read it")
