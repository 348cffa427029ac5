"""Turn the errors of qdrant-client, and of gRPC and httpx under it, into a `RetrievalError`; no other place does.

httpx's own errors come wrapped in `ResponseHandlingException`, save those raised while a request is still being built.
A credential that Qdrant refuses is this service's fault, not its caller's: 401 and 403 are `DependencyUnavailable`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import grpc  # type: ignore[import-untyped]
import httpx
import orjson
from pydantic import ValidationError
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ApiException, UnexpectedResponse

from indexer.errors import PointsMissing
from model.errors import Conflict, DependencyUnavailable, InvalidInput, Overloaded, RetrievalError, TooLarge

RETRY_AFTER_S = 1.0  # where Qdrant names no time
MAX_DETAIL_CHARS = 500

# What the client itself says of a value that it cannot write.
_UNWRITABLE = (ValueError, TypeError, OverflowError)
_FAILED = (
    ApiException,
    QdrantException,
    grpc.RpcError,
    grpc.FutureTimeoutError,
    grpc.FutureCancelledError,
    grpc.aio.BaseError,
    httpx.HTTPError,
    httpx.InvalidURL,
    httpx.CookieConflict,
    OSError,  # TimeoutError too
    RuntimeError,  # "Client was closed", "Error initializing the grpc connection(s)"; httpx.StreamError is one
)
TRANSLATED: tuple[type[Exception], ...] = (*_UNWRITABLE, *_FAILED)

_BY_STATUS: dict[int, type[RetrievalError]] = {
    400: InvalidInput,
    404: PointsMissing,
    409: Conflict,
    413: TooLarge,
    422: InvalidInput,
    429: Overloaded,
}
_BY_CODE: dict[grpc.StatusCode, type[RetrievalError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInput,
    grpc.StatusCode.NOT_FOUND: PointsMissing,
    grpc.StatusCode.ALREADY_EXISTS: Conflict,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
}


_KEY: set[object] = {401, 403, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
# "Limit exceeded 10 > 5 for "upsert limit". Help: Reduce the "upsert limit" parameter to or below 5."
_STRICT_MODE = re.compile(r"Bad request: .*Help: ", re.DOTALL)


class StrictMode(InvalidInput):
    """A call goes over a limit that the Qdrant collection has set."""


@contextmanager
def translating_errors(doing: str) -> Iterator[None]:
    """Translate the errors of a call of the client. A cancelled call stays cancelled."""
    try:
        yield
    except RetrievalError:
        raise
    except TRANSLATED as error:
        raise to_retrieval_error(error, doing) from error


def to_retrieval_error(error: Exception, doing: str) -> RetrievalError:
    """Return the error in our terms: `DependencyUnavailable`, which is retried, wherever the caller has no part in the
    failure.
    """
    said = f"Qdrant failed in {doing}: {_answer_of(error)}"[:MAX_DETAIL_CHARS]
    match error:
        case ResourceExhaustedResponse():
            return Overloaded(said, retry_after_s=float(error.retry_after_s))
        case QdrantException():  # a 429 whose Retry-After is no number
            return Overloaded(said, retry_after_s=RETRY_AFTER_S)
        case UnexpectedResponse():
            return _kind(_BY_STATUS.get(error.status_code or 0, DependencyUnavailable), said, error.status_code in _KEY)
        case grpc.RpcError():
            code = error.code() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
            return _kind(_BY_CODE.get(code, DependencyUnavailable), said, code in _KEY)
        case (
            json.JSONDecodeError() | ValidationError()
        ):  # ValueErrors, but of an answer: it came from no Qdrant that we know
            return DependencyUnavailable(said)
        case asyncio.TimeoutError():
            return DependencyUnavailable(f"Qdrant did not answer in time in {doing}")
        case ValueError() | TypeError() | OverflowError():
            return InvalidInput(f"the store cannot hold or compare this value: {error}"[:MAX_DETAIL_CHARS])
        case _:
            return DependencyUnavailable(said)


def _kind(kind: type[RetrievalError], said: str, of_the_key: bool) -> RetrievalError:
    """Return the error with what to do about a key that does not suffice, or a limit of strict mode."""
    if of_the_key:
        return kind(f"{said}. Give RET2_QDRANT_API_KEY or RET2_QDRANT_API_KEY_FILE a key with the rights for this")
    if kind is InvalidInput and _STRICT_MODE.search(said):
        return StrictMode(f"{said} The collection has strict mode on the Qdrant server: change its limits there")
    return kind(said)


def _answer_of(error: Exception) -> str:
    """Return the words of the server, or of the library where there are none."""
    if isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return str(error.details())
    if isinstance(error, UnexpectedResponse):
        try:
            return f"{error.status_code}: {orjson.loads(error.content)['status']['error']}"
        except orjson.JSONDecodeError:
            return f"{error.status_code}: {error.content.decode(errors='replace')[:200]}"
        except (KeyError, TypeError):
            pass
    return str(error) or type(error).__name__
