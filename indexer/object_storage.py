"""fsspec: opening a store by its URL, and the one place where what a store raises becomes an error of ours.

A store's own words stay in the chained cause: messages name the store by scheme and bucket, never by a URL, which may
hold a secret.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem

from model.errors import DependencyUnavailable, Forbidden, InvalidInput, NotFound, RetrievalError

# What the libraries behind fsspec raise of their own; none of them need be installed, so they are known by name.
_STORE_LIBRARIES = ("botocore", "aiobotocore", "aiohttp", "s3fs", "gcsfs", "google", "adlfs", "azure", "fsspec")
_NO_STORE = frozenset({"NoSuchBucket", "InvalidBucketName"})
_S3 = ("s3", "s3a")
_S3_CONNECT_TIMEOUT_S = 5.0
_S3_ATTEMPTS = 2  # botocore's; s3fs's own around them is left out. A job's patience is the worker's business


def connect(url: str, *, timeout_s: float, options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """Return the file system of a URL and the path inside it. Listings are not cached, so files of other processes are
    visible as soon as they are written.

    Raises `InvalidInput` for a URL that contains credentials, or of a kind that no installed package can open.
    """
    display_name = named(url)
    if "::" in url:
        raise InvalidInput(f"{display_name} chains several stores, which is not supported", field="url")
    protocol = url.partition("://")[0] if "://" in url else "file"
    if protocol != "file" and (urlsplit(url).username or urlsplit(url).password):
        raise InvalidInput(
            f"{display_name} carries credentials; give them by the environment (AWS_ACCESS_KEY_ID, …)", field="url"
        )
    settings = {**_defaults(protocol, timeout_s), **(options or {})}
    try:
        files, path = fsspec.core.url_to_fs(url, **settings)
    except (ImportError, ValueError) as error:
        raise InvalidInput(f"{display_name} cannot be opened: {_reason(error)}", field="url") from error
    if protocol in _S3:
        files.retries = 1
    return files, path.rstrip("/") or "/"


def is_local(files: Any) -> bool:
    return isinstance(files, LocalFileSystem)


def named(url: str) -> str:
    """Return the name of a storage for messages and logs: scheme and bucket or host, without credentials, path and
    query."""
    parts = urlsplit(url)
    if not parts.scheme or parts.scheme == "file":
        return parts.path or url
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


class StoreErrors:
    """A context in which whatever a store raises is `NotFound`, `DependencyUnavailable`, or `denied` where access is.

    `what` begins the message. Errors that no store raises, a bug of ours, pass.
    """

    def __init__(self, resource: str, *, denied: type[RetrievalError] = Forbidden) -> None:
        self._what, self._denied = resource, denied

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and (retrieval_error := translated(error, self._what, self._denied)):
            raise retrieval_error from error


def translated(error: Exception, resource: str, denied: type[RetrievalError] = Forbidden) -> RetrievalError | None:
    """Return our error for a storage's one; None if the error is already ours or comes from elsewhere."""
    if isinstance(error, RetrievalError):
        return None
    if isinstance(error, FileNotFoundError | NotADirectoryError) and _code(error) not in _NO_STORE:
        return NotFound(f"{resource}: not there")
    if isinstance(error, PermissionError):
        return denied(f"{resource}: access denied{_in_brackets(_code(error))}")
    if isinstance(error, OSError) or type(error).__module__.partition(".")[0] in _STORE_LIBRARIES:
        return DependencyUnavailable(f"{resource}: {_reason(error)}")
    return None


def _reason(error: Exception) -> str:
    """Describe an error without the storage's own text, which may quote the request. The system's words for its error
    numbers are safe."""
    if isinstance(error, ImportError):
        return f"the package {error.name or 'for it'} is not installed (for s3:// the extra ret2[s3])"
    code = _code(error)
    if not code and isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return type(error).__name__ + _in_brackets(code)


def _code(error: BaseException) -> str:
    """Return the S3 error code behind an error, if there is one."""
    response = getattr(error if hasattr(error, "response") else error.__cause__, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return code if isinstance(code, str) and code.isalnum() else ""


def _in_brackets(code: str) -> str:
    return f" ({code})" if code else ""


def _defaults(protocol: str, timeout_s: float) -> dict[str, Any]:
    """Return options for S3 with which all attempts together, each of which may be silent for `read_timeout`, end
    within the caller's time."""
    if protocol not in _S3:
        return {}
    each_s = timeout_s / (_S3_ATTEMPTS + 1)
    config = {"connect_timeout": min(_S3_CONNECT_TIMEOUT_S, each_s), "read_timeout": each_s}
    return {
        "use_listings_cache": False,
        "skip_instance_cache": True,
        "config_kwargs": {**config, "retries": {"total_max_attempts": _S3_ATTEMPTS, "mode": "standard"}},
    }
