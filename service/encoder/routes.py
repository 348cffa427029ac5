"""POST /encode and the OpenAI-compatible POST /v1/embeddings."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from indexer.encoder import Encoder, Lane
from model.errors import InvalidInput, RetrievalError, TooLarge
from model.inputs import Embedding, Input, Limits, Role
from service import inputs
from service.encoder.lanes import TimedEmbedding
from service.encoder.openai import EmbeddingsIn, EmbeddingsOut, items_of
from service.errors import error_wire
from service.inputs import ImageFetcher
from service.schemas import EncodeIn, EncodeOut, InputIn, checked
from service.wire import Json, StrictRoute, answer_within

router = APIRouter(route_class=StrictRoute, tags=["encode"])


@dataclass(frozen=True, slots=True)
class Encoding:
    """What these routes need, whatever process they run in."""

    encoder: Encoder
    fetcher: ImageFetcher | None
    limits: Limits
    max_inputs: int
    timeout_s: float

    async def encode(self, items: Sequence[InputIn | InvalidInput], role: Role) -> list[Embedding | RetrievalError]:
        """One result or error per input, in order. Documents wait in the bulk lane."""
        if len(items) > self.max_inputs:
            raise TooLarge(
                f"{len(items)} inputs in one call, limit is {self.max_inputs}",
                field="inputs",
                value=len(items),
                limit=self.max_inputs,
            )
        read = await asyncio.gather(*(self._read(item) for item in items))
        good = [item for item in read if isinstance(item, Input)]
        encoded = iter(
            await self.encoder.encode(good, role=role, lane=Lane.SEARCH if role is Role.QUERY else Lane.BULK)
        )
        return [next(encoded) if isinstance(item, Input) else item for item in read]

    async def _read(self, item: InputIn | InvalidInput) -> Input | RetrievalError:
        if isinstance(item, InvalidInput):
            return item
        try:
            return await inputs.read(item.text, item.image, self.limits, self.fetcher)
        except RetrievalError as error:
            return error


def encoding_of(request: Request) -> Encoding:
    encoding: Encoding = request.app.state.encoding
    return encoding


EncodingOf = Annotated[Encoding, Depends(encoding_of)]


@router.post("/encode", response_model=EncodeOut)
async def encode(body: EncodeIn, request: Request, encoding: EncodingOf) -> Response:
    """Embeddings of texts, images or both: one result or error per input, in order."""
    work = encoding.encode([checked(item) for item in body.inputs], Role(body.role))
    results = await answer_within(request, work, encoding.timeout_s)
    info = await encoding.encoder.info()
    return Json({"model": info.name, "dimensions": info.dimensions, "results": [_result(one) for one in results]})


@router.post("/v1/embeddings", response_model=EmbeddingsOut)
async def embeddings(body: EmbeddingsIn, request: Request, encoding: EncodingOf) -> Response:
    """As OpenAI's, with images: an input is a string or a list of content parts. One bad input fails the call."""
    info = await encoding.encoder.info()
    if body.dimensions not in (None, info.dimensions):
        raise InvalidInput(
            f"dimensions is {body.dimensions}, but this model has {info.dimensions} and no others",
            field="dimensions",
            value=body.dimensions,
            limit=info.dimensions,
        )
    results = await answer_within(request, encoding.encode(items_of(body), Role(body.input_type)), encoding.timeout_s)
    data = []
    tokens = 0
    for index, result in enumerate(results):
        if isinstance(result, RetrievalError):
            raise _at(result, index)
        tokens += result.cost if isinstance(result, TimedEmbedding) else 0
        vector: Any = result.vector
        if body.encoding_format == "base64":
            vector = base64.b64encode(result.vector.astype("<f4", copy=False).tobytes()).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return Json({"object": "list", "model": info.name, "data": data, "usage": usage})


def _result(result: Embedding | RetrievalError) -> dict[str, Any]:
    if isinstance(result, RetrievalError):
        return error_wire(result)
    wire: dict[str, Any] = {"embedding": np.ascontiguousarray(result.vector)}
    return {**wire, "dropped_tokens": result.dropped_tokens} if result.dropped_tokens else wire


def _at(error: RetrievalError, index: int) -> RetrievalError:
    """The same error, naming which input it was."""
    error.detail = f"input[{index}]: {error.detail}"
    error.field = f"input[{index}]" + (f".{error.field}" if error.field else "")
    return error
