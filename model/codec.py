"""Inputs and embeddings as msgpack bytes, what the encoder's client and the encoder service say to each other.

call    {"role": "query"|"document", "lane"?: str, "model"?: str, "inputs": [{"text"?: str, "image"?: bytes}]}
answer  {"model", "fingerprint", "dimensions", "results": [result]}
result  {"embedding": D little-endian float32 in bytes, "dropped_tokens", "cost", "decode_s", "queue_s", "encode_s",
         "shares"?: L x 2 float32 in bytes, "latents"?: K x D}
     or {"error": {"code", "detail", "field"?, "limit"?}}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from model.errors import EncodeFailed, InvalidInput, RetrievalError, TooLarge, error_class
from model.types import Embedding, Float32, Input, ModelInfo, Role, Timing

MEDIA_TYPE = "application/msgpack"
_CALL_FIELDS, _INPUT_FIELDS = {"role", "lane", "model", "inputs"}, {"text", "image"}
_MAX_FIELDS = 16
_OVER_THE_LIMIT = re.compile(r"(\d+) exceeds max_array_len\(\d+\)")
_TIMES = ("decode_s", "queue_s", "encode_s")
# Half a surrogate pair is no UTF-8, but text that a model takes.
_HALVES = "surrogatepass"


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the encoder. A wrong input stands in its place as the error that it is (docs/promises.md#promise-2)."""

    role: Role
    lane: str | None
    model: str | None
    inputs: list[Input | InvalidInput]


def pack_call(inputs: Sequence[Input], role: Role, lane: str, model: str | None = None) -> bytes:
    items = [{"text": item.text, "image": item.image} for item in inputs]
    named = {} if model is None else {"model": model}
    return _pack({"role": role.value, "lane": lane, **named, "inputs": items})


def unpack_call(data: bytes, max_inputs: int = 256) -> Call:
    """Unpack a call. Raises `InvalidInput` for bytes that are no call, and `TooLarge` for too many inputs, before they
    are built."""
    body = _object(data, max_inputs)
    if unknown := body.keys() - _CALL_FIELDS:
        raise InvalidInput(f"unknown fields: {_names(unknown)}", field="body")
    role, lane, inputs = body.get("role"), body.get("lane"), body.get("inputs")
    if role not in tuple(Role):
        raise InvalidInput(f"role is {role!r:.100}, expected query or document", field="role")
    model = body.get("model")
    for name, value in (("lane", lane), ("model", model)):
        if not (value is None or isinstance(value, str)):
            raise InvalidInput(f"{name} is {value!r:.100}, expected a string", field=name)
    if not isinstance(inputs, list) or not inputs:
        raise InvalidInput("inputs is not a list of one or more inputs", field="inputs")
    return Call(Role(role), lane, model, [_input(item) for item in inputs])


def pack_answer(info: ModelInfo, results: Sequence[Embedding | RetrievalError]) -> bytes:
    head = {"model": info.name, "fingerprint": info.fingerprint, "dimensions": info.dimensions}
    return _pack({**head, "results": [_result(result) for result in results]})


def unpack_answer(data: bytes) -> list[Embedding | RetrievalError]:
    """Unpack an answer: one result or error for each input, in order. Raises `InvalidInput` for bytes that are no
    answer."""
    try:
        body = _object(data)
        fingerprint = str(body["fingerprint"])
        return [_embedding(result, fingerprint) for result in body["results"]]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise InvalidInput(f"this is no encoder's answer: {error!r}") from error


def _input(item: Any) -> Input | InvalidInput:
    if not isinstance(item, Mapping):
        return InvalidInput(f"an input is {type(item).__name__}, expected a map of text and image")
    if unknown := item.keys() - _INPUT_FIELDS:
        return InvalidInput(f"unknown fields of an input: {_names(unknown)}")
    text, image = item.get("text"), item.get("image")
    if not (text is None or isinstance(text, str)):
        return InvalidInput(f"text is {type(text).__name__}, expected a string", field="text")
    if not (image is None or isinstance(image, bytes)):
        return InvalidInput(f"image is {type(image).__name__}, expected the bytes of its file", field="image")
    return Input(text, image)


def _result(result: Embedding | RetrievalError) -> dict[str, Any]:
    if isinstance(result, RetrievalError):
        error = {"code": result.code, "detail": result.detail, "field": result.field, "limit": result.limit}
        return {"error": {name: value for name, value in error.items() if value is not None}}
    extras = {"shares": result.shares, "latents": result.latents}
    return {
        "embedding": _bytes(result.vector),
        "dropped_tokens": result.dropped_tokens,
        "cost": result.cost,
        **{name: getattr(result.timing, name) for name in _TIMES},
        **{name: _bytes(np.asarray(value)) for name, value in extras.items() if value is not None},
    }


def _embedding(result: Mapping[str, Any], fingerprint: str) -> Embedding | RetrievalError:
    if error := result.get("error"):
        kind = error_class(str(error["code"]), EncodeFailed.status)
        return kind(str(error["detail"]), field=error.get("field"), limit=error.get("limit"))
    vector = _floats(result["embedding"])  # (D,)
    timing = Timing(*(float(result[name]) for name in _TIMES))
    shares = (
        tuple((text, image) for text, image in _floats(result["shares"]).reshape(-1, 2).tolist())
        if "shares" in result
        else None
    )
    latents = _floats(result["latents"]).reshape(-1, len(vector)) if "latents" in result else None
    dropped, cost = int(result["dropped_tokens"]), int(result["cost"])
    return Embedding(vector, fingerprint, dropped, cost, timing, shares, latents)


def _bytes(values: NDArray[Any]) -> bytes:
    return values.astype("<f4", copy=False).tobytes()


def _floats(data: bytes) -> Float32:
    return np.frombuffer(data, "<f4").astype(np.float32)


def _pack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True, unicode_errors=_HALVES)
    return packed


def _names(fields: Iterable[Any]) -> str:
    return ", ".join(sorted(f"{field!s:.60}" for field in fields))


def _object(data: bytes, max_inputs: int | None = None) -> dict[Any, Any]:
    """Unpack a map. With `max_inputs` it may hold one list, and its maps are as small as those of a call."""
    bounds: dict[str, Any] = {}
    if max_inputs is not None:
        bounds = {"max_array_len": max_inputs, "max_map_len": _MAX_FIELDS, "list_hook": _OneList(), "max_ext_len": 0}
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=False, unicode_errors=_HALVES, **bounds)
    except RetrievalError:
        raise
    except (ValueError, msgpack.UnpackException) as error:
        if count := _OVER_THE_LIMIT.fullmatch(str(error)):
            raise TooLarge(
                f"{count[1]} inputs in one call, limit is {max_inputs}", field="inputs", limit=max_inputs
            ) from error
        raise InvalidInput(f"the body is not msgpack: {error or type(error).__name__}", field="body") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"the body is {type(value).__name__}, expected a map", field="body")
    return value


class _OneList:
    """Called with every list that is built. The list of inputs is the only one of a call: a second one stops the
    reading."""

    def __init__(self) -> None:
        self._seen = False

    def __call__(self, values: list[Any]) -> list[Any]:
        if self._seen:
            raise InvalidInput("the body holds several lists; a call has one, its inputs", field="body")
        self._seen = True
        return values
