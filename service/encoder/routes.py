"""POST /encode, in JSON or msgpack, and POST /passages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from indexer.domain.inputs import InputIn, check_text, check_unicode
from indexer.encoding.encoder import Encoder, Lane
from indexer.encoding.registry import Encoders
from model import codec
from model.errors import InvalidInput, RetrievalError, TooLarge
from model.passages import Cut, Passages
from model.types import Embedding, Input, Limits, ModelInfo, Role, Timing
from service.http.middleware.limits import media_type
from service.http.problems import error_wire
from service.http.responses import Json, StrictRoute, answer_within, took
from service.inputs import inputs
from service.inputs.inputs import ImageFetcher
from service.schemas.base import checked
from service.schemas.encode import EncodeIn, EncodeOut, PassagesIn, PassagesOut

_PACKED = {codec.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}


class PackedRoute(StrictRoute):
    """A msgpack body goes around FastAPI's parsing, which knows JSON only, and is answered in msgpack."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def either(request: Request) -> Response:
            packed = media_type(request.headers) == codec.MEDIA_TYPE
            return await (_encode_packed if packed else handle)(request)

        return either


router = APIRouter(route_class=StrictRoute, tags=["encode"])
packed_router = APIRouter(route_class=PackedRoute, tags=["encode"])


@dataclass(frozen=True, slots=True)
class Encodings:
    """The results of a call, in order, and the model that they are of."""

    info: ModelInfo
    results: list[Embedding | RetrievalError]


@dataclass(frozen=True, slots=True)
class Whole:
    """A call in the form of another API, of which one bad input fails the whole. `field` holds its inputs."""

    field: str
    items: list[InputIn | InvalidInput]
    role: Role
    dimensions: int | None
    may_cut: bool

    def checked(self, result: Embedding | RetrievalError, place: int) -> Embedding:
        """Return the embedding of an input, or raise its error with its place."""
        if isinstance(result, RetrievalError):
            raise _at(result, f"{self.field}[{place}]")
        if result.dropped_tokens and not self.may_cut:
            error = InvalidInput(
                f"text has {result.dropped_tokens} tokens more than the model reads, and is not to be cut",
                value=result.dropped_tokens,
            )
            raise _at(error, f"{self.field}[{place}]")
        return result


@dataclass(frozen=True, slots=True)
class Encoding:
    """The parts that these routes need, whatever process they run in."""

    encoders: Encoders
    fetcher: ImageFetcher | None
    limits: Limits
    max_inputs: int
    max_embeddings: int
    timeout_s: float

    async def answer(
        self,
        request: Request,
        model: str | None,
        items: Sequence[Input | InputIn | InvalidInput],
        role: Role,
        lane: Lane | None = None,
    ) -> Encodings:
        """Encode by a model, by default the first, within the time there is, and no longer than the caller waits.
        Raises `ModelNotFound`."""

        async def work() -> Encodings:
            encoder, info = await self.encoders.find(model)
            return Encodings(info, await self.encode(encoder, items, role, lane))

        encodings = await answer_within(request, work(), self.timeout_s)
        took(request, [_stages(result.timing) for result in encodings.results if isinstance(result, Embedding)])
        return encodings

    async def answer_whole(self, request: Request, model: str | None, call: Whole) -> tuple[ModelInfo, list[Embedding]]:
        """Encode a call of which one bad input fails the whole, `max_inputs` at a time: a long call takes no more
        memory than a short one, and others get their turn in between.

        Raises the error of the first bad input, with its place, `InvalidInput` and `ModelNotFound`.
        """
        if len(call.items) > self.max_embeddings:
            raise too_many_inputs(len(call.items), self.max_embeddings, call.field)

        async def work() -> tuple[ModelInfo, list[Embedding]]:
            encoder, info = await self.encoders.find(model)
            _check_dimensions(call.dimensions, info)
            embeddings: list[Embedding] = []
            for start in range(0, len(call.items), self.max_inputs):
                results = await self.encode(encoder, call.items[start : start + self.max_inputs], call.role)
                whole = [call.checked(result, place) for place, result in enumerate(results, start)]
                embeddings += [_cut(embedding, call.dimensions or info.dimensions) for embedding in whole]
            return info, embeddings

        info, embeddings = await answer_within(request, work(), self.timeout_s)
        took(request, [_stages(embedding.timing) for embedding in embeddings])
        return info, embeddings

    async def encode(
        self,
        encoder: Encoder,
        items: Sequence[Input | InputIn | InvalidInput],
        role: Role,
        lane: Lane | None = None,
    ) -> list[Embedding | RetrievalError]:
        """Return one result or error for each input, in order. Unless the call names a lane, documents wait in the bulk
        lane."""
        if len(items) > self.max_inputs:
            raise too_many_inputs(len(items), self.max_inputs, "inputs")
        read = await asyncio.gather(*(self._read(item) for item in items))
        good = [item for item in read if isinstance(item, Input)]
        lane = lane or (Lane.SEARCH if role is Role.QUERY else Lane.BULK)
        encoded = iter(await encoder.encode(good, role=role, lane=lane))
        return [next(encoded) if isinstance(item, Input) else item for item in read]

    async def _read(self, item: Input | InputIn | InvalidInput) -> Input | RetrievalError:
        if isinstance(item, InvalidInput):
            return item
        try:
            if isinstance(item, Input):
                inputs.check(item, self.limits)
                return item
            return await inputs.read(item.text, item.image, self.limits, self.fetcher)
        except RetrievalError as error:
            return error


def too_many_inputs(count: int, limit: int, field: str) -> TooLarge:
    return TooLarge(f"{count} inputs in one call, limit is {limit}", field=field, value=count, limit=limit)


async def encoding_of(request: Request) -> Encoding:  # async: FastAPI would take a plain one to a thread
    encoding: Encoding = request.app.state.encoding
    return encoding


EncodingOf = Annotated[Encoding, Depends(encoding_of)]


@packed_router.post(
    "/encode",
    response_model=EncodeOut,
    openapi_extra={"requestBody": {"content": _PACKED}},
    responses={200: {"content": _PACKED}},
)
async def encode(body: EncodeIn, request: Request, encoding: EncodingOf) -> Response:
    """Embed texts, images or both, and answer with one result or error per input, in order.

    Queries wait in the search lane and documents in the bulk lane, unless `lane` says otherwise. In msgpack an image is
    the bytes of its file and an embedding is its little-endian float32 values.
    """
    lane = Lane(body.lane) if body.lane else None
    items = [checked(item) for item in body.inputs]
    encodings = await encoding.answer(request, body.model, items, Role(body.role), lane)
    results = [_result(result) for result in encodings.results]
    return Json({"model": encodings.info.name, "dimensions": encodings.info.dimensions, "results": results})


@router.post("/passages", response_model=PassagesOut)
async def cut_into_passages(body: PassagesIn, request: Request, encoding: EncodingOf) -> Response:
    """Cut texts into passages that a model reads whole, at the ends of sentences, as collections do with documents."""
    if len(body.texts) > encoding.max_inputs:
        raise too_many_inputs(len(body.texts), encoding.max_inputs, "texts")
    for place, text in enumerate(body.texts):
        check_text(text, encoding.limits)
        check_unicode(text, f"texts[{place}]", f"texts[{place}]")

    async def work() -> tuple[ModelInfo, list[Passages]]:
        encoder, info = await encoding.encoders.find(body.model)
        return info, await encoder.passages(body.texts, Cut(body.tokens, body.overlap, body.max_passages))

    info, results = await answer_within(request, work(), encoding.timeout_s)
    wires = [{"passages": result.spans, "dropped_tokens": result.dropped_tokens} for result in results]
    return Json({"model": info.name, "results": wires})


async def _encode_packed(request: Request) -> Response:
    encoding: Encoding = request.app.state.encoding
    call = codec.unpack_call(await request.body(), encoding.max_inputs)
    if call.lane is not None and call.lane not in tuple(Lane):
        raise InvalidInput(f"lane is {call.lane!r:.100}, known are {', '.join(Lane)}", field="lane", value=call.lane)
    lane = Lane(call.lane) if call.lane else None
    encodings = await encoding.answer(request, call.model, call.inputs, call.role, lane)
    return Response(codec.pack_answer(encodings.info, encodings.results), media_type=codec.MEDIA_TYPE)


def _stages(timing: Timing) -> dict[str, float]:
    return {"decode_ms": timing.decode_s * 1e3, "queue_ms": timing.queue_s * 1e3, "encode_ms": timing.encode_s * 1e3}


def _result(result: Embedding | RetrievalError) -> dict[str, Any]:
    if isinstance(result, RetrievalError):
        return error_wire(result)
    wire: dict[str, Any] = {"embedding": np.ascontiguousarray(result.vector)}
    return {**wire, "dropped_tokens": result.dropped_tokens} if result.dropped_tokens else wire


def _at(error: RetrievalError, place: str) -> RetrievalError:
    """Return a copy of the error that names its input. It is a copy because several inputs of a batch, also of other
    callers, may share one error."""
    named = copy(error)
    named.detail = f"{place}: {error.detail}"
    named.field = place + (f".{error.field}" if error.field else "")
    return named


def _check_dimensions(dimensions: int | None, info: ModelInfo) -> None:
    """Refuse a length that the model's embeddings do not have and that they are not made to be cut to."""
    if dimensions not in (None, info.dimensions, *info.shorter):
        lengths = ", ".join(map(str, (*info.shorter, info.dimensions)))
        raise InvalidInput(
            f"dimensions is {dimensions}, but model {info.name} has {lengths} and no others",
            field="dimensions",
            value=dimensions,
            limit=info.dimensions,
        )


def _cut(embedding: Embedding, dimensions: int) -> Embedding:
    """Return an embedding of so many dimensions, of unit length."""
    if dimensions == len(embedding.vector):
        return embedding
    vector = embedding.vector[:dimensions]
    norm = np.linalg.norm(vector)
    return replace(embedding, vector=vector / norm if norm else vector)
