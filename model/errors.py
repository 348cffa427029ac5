"""Every error that this project raises on purpose, in one tree. The HTTP layer renders each as problem+json by its
class.

RetrievalError                 status, code, retryable; the docstring's first line is the default message
├─ InvalidInput          400   the caller must change it (422 stays FastAPI's for schema errors)
│  ├─ InvalidJson        400
│  ├─ UnsupportedMediaType 415
│  ├─ BodyTooSlow        408
│  └─ TooLarge           413
├─ Unauthorized          401
├─ Forbidden             403
├─ NotFound              404
│  └─ ModelNotFound      404
├─ Conflict              409
│  └─ InProgress         409   until the other request is over; carries retry_after_s
├─ Overloaded            429   try again; carries retry_after_s
│  └─ RateLimited        429   this caller's own limit
├─ EncodeFailed          500   the forward raised; this input only
└─ DependencyUnavailable 503   Qdrant, encoder, database or object store unreachable
   └─ TimedOut           504   the dependency is working on this call, but was not done in time
"""

from __future__ import annotations

from typing import Any, ClassVar


class RetrievalError(Exception):
    """Something went wrong."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, detail: str = "", *, field: str | None = None, value: Any = None, limit: Any = None) -> None:
        self.detail = detail or (type(self).__doc__ or "").partition("\n")[0]
        self.field = field
        self.value = value
        self.limit = limit
        super().__init__(self.detail)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions with keyword arguments lose them in pickling; these cross process borders (Edge's child process).
        return (_rebuild, (type(self), self.__dict__.copy()))


def _rebuild(cls: type[RetrievalError], state: dict[str, Any]) -> RetrievalError:
    error = cls.__new__(cls)
    error.__dict__.update(state)
    error.args = (state["detail"],)
    return error


class InvalidInput(RetrievalError):
    """The input cannot be used as it is."""

    status = 400
    code = "invalid_input"


class InvalidJson(InvalidInput):
    """The input is not JSON."""

    code = "invalid_json"


class UnsupportedMediaType(InvalidInput):
    """The body has a content type that is not supported here."""

    status = 415
    code = "unsupported_media_type"


class BodyTooSlow(InvalidInput):
    """The request body made no progress for too long."""

    status = 408
    code = "body_too_slow"
    retryable = True


class TooLarge(InvalidInput):
    """The input is over a size limit."""

    status = 413
    code = "too_large"


class Unauthorized(RetrievalError):
    """The request carries no valid API key."""

    status = 401
    code = "unauthorized"


class Forbidden(RetrievalError):
    """The request is not allowed."""

    status = 403
    code = "forbidden"


class NotFound(RetrievalError):
    """Nothing has this name."""

    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    """No model of that name is served."""

    code = "model_not_found"


class Conflict(RetrievalError):
    """The request conflicts with the present state."""

    status = 409
    code = "conflict"


class InProgress(Conflict):
    """Another request with this key is still being received; try again later."""

    code = "in_progress"
    retryable = True
    retry_after_s = 10.0


class Overloaded(RetrievalError):
    """The service is at its limit; try again later."""

    status = 429
    code = "overloaded"
    retryable = True

    def __init__(self, detail: str = "", *, retry_after_s: float = 1.0, **kwargs: Any) -> None:
        super().__init__(detail, **kwargs)
        self.retry_after_s = retry_after_s


class RateLimited(Overloaded):
    """This API key is at its limit; try again later."""

    code = "rate_limited"


class EncodeFailed(RetrievalError):
    """The model could not encode this input."""

    status = 500
    code = "encode_failed"


class DependencyUnavailable(RetrievalError):
    """A service that this one needs does not answer."""

    status = 503
    code = "dependency_unavailable"
    retryable = True


class TimedOut(DependencyUnavailable):
    """The answer took too long. Do not retry at once: the dependency may still be busy with this call."""

    status = 504
    code = "timed_out"


_KINDS: tuple[type[RetrievalError], ...] = (
    TooLarge,
    BodyTooSlow,
    InvalidInput,
    InvalidJson,
    UnsupportedMediaType,
    Unauthorized,
    Forbidden,
    NotFound,
    ModelNotFound,
    InProgress,
    Conflict,
    RateLimited,
    Overloaded,
    EncodeFailed,
    DependencyUnavailable,
    TimedOut,
)


def error_class(code: str, status: int) -> type[RetrievalError]:
    """Return the class of an error that another process reported: by its code, or, where the code is not one of ours
    (a proxy's page), by its HTTP status. A status stands for the most general class that has it."""
    by_code = {kind.code: kind for kind in _KINDS}
    if code in by_code:
        return by_code[code]
    # A proxy that answers 502 or 504 means an unavailable service, not our own `TimedOut`.
    by_status = {kind.status: kind for kind in _KINDS if getattr(kind.__base__, "status", None) != kind.status}
    by_status |= {502: DependencyUnavailable, 504: DependencyUnavailable}
    return by_status.get(status, InvalidInput if 400 <= status < 500 else RetrievalError)
