"""Embeddings as the APIs of OpenAI, Voyage and Cohere have them, and the list of models as OpenAI's."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from model.types import Embedding, Role
from service.encoder import cohere, voyage
from service.encoder.cohere import EmbedIn, EmbedOut
from service.encoder.openai import EmbeddingsIn, EmbeddingsOut, OpenAiModelOut, OpenAiModelsOut, items_of, model_wire
from service.encoder.routes import EncodingOf, Whole
from service.encoder.voyage import MultimodalIn, MultimodalOut
from service.http.responses import Json, StrictRoute

router = APIRouter(route_class=StrictRoute, tags=["encode"])
# How many inputs were longer than the model reads, and how many of their tokens are in no embedding.
TRUNCATED = "x-ret2-truncated"

ModelPath = Annotated[
    str,
    Path(
        alias="model",
        min_length=1,
        max_length=512,
        description="the name of the model, as /v1/models lists it",
        examples=["atlas"],
    ),
]


@router.post("/v1/embeddings", response_model=EmbeddingsOut)
async def create_embeddings(body: EmbeddingsIn, request: Request, encoding: EncodingOf) -> Response:
    """Embed inputs as OpenAI's API does, and images too: an input is a string or a list of content parts. One bad input
    fails the call."""
    call = Whole(
        "input", items_of(body), Role(body.input_type), body.dimensions or body.output_dimension, body.truncation
    )
    info, embeddings = await encoding.answer_whole(request, body.model, call)
    data = _data(embeddings, body.encoding_format)
    tokens = _cost(embeddings)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return _answer({"object": "list", "model": info.name, "data": data, "usage": usage}, embeddings)


@router.post("/v1/multimodalembeddings", response_model=MultimodalOut)
async def create_multimodal_embeddings(body: MultimodalIn, request: Request, encoding: EncodingOf) -> Response:
    """Embed texts, images or both as Voyage's API does. One bad input fails the call."""
    call = Whole("inputs", voyage.inputs_of(body), Role(body.input_type), body.output_dimension, body.truncation)
    info, embeddings = await encoding.answer_whole(request, body.model, call)
    data = _data(embeddings, body.output_encoding or body.encoding_format)
    tokens = _cost(embeddings)
    usage = {"text_tokens": tokens, "image_pixels": 0, "video_pixels": 0, "total_tokens": tokens}
    return _answer({"object": "list", "model": info.name, "data": data, "usage": usage}, embeddings)


@router.post("/v2/embed", response_model=EmbedOut, response_model_exclude_none=True)
async def embed(body: EmbedIn, request: Request, encoding: EncodingOf) -> Response:
    """Embed texts, images or both as version 2 of Cohere's API does. One bad input fails the call."""
    field, items = cohere.inputs_of(body)
    call = Whole(field, items, body.role, body.output_dimension, body.truncate == "END")
    _, embeddings = await encoding.answer_whole(request, body.model, call)
    types = body.embedding_types or ["float"]
    by_type = {kind: [_vector(embedding, kind) for embedding in embeddings] for kind in types}
    meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": _cost(embeddings)}}
    answer = {"id": uuid4().hex, "response_type": "embeddings_by_type", "embeddings": by_type, "meta": meta}
    return _answer(answer if body.texts is None else {**answer, "texts": body.texts}, embeddings)


def _answer(content: dict[str, Any], embeddings: Sequence[Embedding]) -> Response:
    """Return an answer, with a header where the model has not read all of an input."""
    answer = Json(content)
    dropped = [embedding.dropped_tokens for embedding in embeddings]
    if any(dropped):
        answer.headers[TRUNCATED] = f"inputs={sum(map(bool, dropped))}; tokens={sum(dropped)}"
    return answer


def _data(embeddings: Sequence[Embedding], encoding_format: str) -> list[dict[str, Any]]:
    return [
        {"object": "embedding", "index": place, "embedding": _vector(embedding, encoding_format)}
        for place, embedding in enumerate(embeddings)
    ]


def _vector(embedding: Embedding, encoding_format: str) -> Any:
    if encoding_format == "base64":
        return base64.b64encode(embedding.vector.astype("<f4", copy=False).tobytes()).decode()
    return embedding.vector


def _cost(embeddings: Sequence[Embedding]) -> int:
    return sum(embedding.cost for embedding in embeddings)


@router.get("/v1/models", response_model=OpenAiModelsOut)
async def list_models(encoding: EncodingOf) -> Response:
    """List the models that are loaded, for clients that list models before they use one."""
    models = await encoding.encoders.served()
    return Json({"object": "list", "data": [model_wire(model.info) for model in models if model.info is not None]})


@router.get("/v1/models/{model}", response_model=OpenAiModelOut)
async def get_model(name: ModelPath, encoding: EncodingOf) -> Response:
    """Return a model by its name, for clients that look it up before they use it."""
    _, info = await encoding.encoders.find(name)
    return Json(model_wire(info))
