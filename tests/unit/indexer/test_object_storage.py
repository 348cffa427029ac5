"""What a store raises becomes ours, whatever library raised it, and no secret is in what we say."""

import asyncio
import errno
from typing import Any

import pytest
from needs import needed

from indexer.object_storage import StoreErrors, connect, named, translated
from model.errors import DependencyUnavailable, Forbidden, InvalidInput, NotFound, RetrievalError

botocore = needed("botocore.exceptions")
aiohttp = needed("aiohttp")
fsspec_errors = needed("fsspec.exceptions")


def client_error(code: str) -> Exception:
    error: Exception = botocore.ClientError({"Error": {"Code": code, "Message": "SECRET"}}, "GetObject")
    return error


def as_s3fs_raises(kind: type[Exception], code: str) -> Exception:
    error = kind("SECRET")
    error.__cause__ = client_error(code)
    return error


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (FileNotFoundError("SECRET"), NotFound),
        (as_s3fs_raises(FileNotFoundError, "NoSuchKey"), NotFound),
        (as_s3fs_raises(FileNotFoundError, "NoSuchBucket"), DependencyUnavailable),
        (NotADirectoryError("SECRET"), NotFound),
        (PermissionError("SECRET"), Forbidden),
        (as_s3fs_raises(PermissionError, "SignatureDoesNotMatch"), Forbidden),
        (OSError(errno.ENOSPC, "No space left on device", "/SECRET"), DependencyUnavailable),
        (OSError(errno.EBUSY, "SECRET"), DependencyUnavailable),
        (as_s3fs_raises(OSError, "SlowDown"), DependencyUnavailable),
        (TimeoutError("SECRET"), DependencyUnavailable),
        (ConnectionResetError("SECRET"), DependencyUnavailable),
        (client_error("InternalError"), DependencyUnavailable),
        (botocore.NoCredentialsError(), DependencyUnavailable),
        (botocore.EndpointConnectionError(endpoint_url="http://SECRET"), DependencyUnavailable),
        (botocore.ReadTimeoutError(endpoint_url="http://SECRET"), DependencyUnavailable),
        (aiohttp.ClientPayloadError("SECRET"), DependencyUnavailable),
        (aiohttp.ServerDisconnectedError("SECRET"), DependencyUnavailable),
        (fsspec_errors.FSTimeoutError("SECRET"), DependencyUnavailable),
        (fsspec_errors.BlocksizeMismatchError("SECRET"), DependencyUnavailable),
    ],
    ids=lambda value: repr(value)[:60] if isinstance(value, Exception) else value.__name__,
)
def test_every_error_has_its_class(error: Exception, ours: type[RetrievalError]) -> None:
    with pytest.raises(ours) as raised, StoreErrors("the store"):
        raise error
    assert type(raised.value) is ours
    assert raised.value.__cause__ is error
    assert raised.value.detail.startswith("the store: ")
    assert "SECRET" not in raised.value.detail


def test_every_botocore_error_is_mapped() -> None:
    kinds = [kind for kind in vars(botocore).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    theirs = [kind for kind in kinds if kind.__module__.startswith("botocore")]
    assert len(theirs) > 50
    for kind in theirs:
        assert isinstance(translated(kind.__new__(kind), "it"), RetrievalError), kind


@pytest.mark.parametrize("error", [ZeroDivisionError(), KeyError("x"), NotFound("ours"), InvalidInput("ours")])
def test_a_bug_of_ours_and_our_own_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, StoreErrors("the store"):
        raise error
    assert raised.value is error


def test_cancelling_passes() -> None:
    with pytest.raises(asyncio.CancelledError), StoreErrors("the store"):
        raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("s3://KEY:SECRET@bucket/images", "s3://bucket carries credentials"),
        ("simplecache::s3://bucket", "chains several stores"),
        ("nosuch://bucket", "cannot be opened"),
    ],
)
def test_a_url_that_will_not_do(url: str, what: str) -> None:
    with pytest.raises(InvalidInput, match=what) as raised:
        connect(url, timeout_s=1)
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://k:s@bucket/secret/path", "s3://bucket"),
        ("/data/blobs", "/data/blobs"),
        ("file:///data/blobs", "/data/blobs"),
        ("https://host/path?signature=x", "https://host"),
    ],
)
def test_a_store_is_named_without_its_secrets(url: str, shown: str) -> None:
    assert named(url) == shown


def test_options_of_s3_are_bounded_in_time() -> None:
    needed("s3fs")
    options: dict[str, Any] = {"key": "k", "secret": "s", "endpoint_url": "http://127.0.0.1:1"}
    files, path = connect("s3://bucket/prefix/", timeout_s=7, options=options)
    assert path == "bucket/prefix"
    assert files.config_kwargs["read_timeout"] * files.config_kwargs["retries"]["total_max_attempts"] < 7
    assert files.config_kwargs["connect_timeout"] <= 5
    assert files.retries == 1  # s3fs would try five times around botocore's own attempts
    assert not files.dircache.use_listings_cache
