"""The error tree, and which class stands for an answer of another process."""

import pytest

from model import errors


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("", 400, errors.InvalidInput),
        ("", 401, errors.Unauthorized),
        ("", 409, errors.Conflict),
        ("", 413, errors.TooLarge),
        ("", 415, errors.UnsupportedMediaType),
        ("", 418, errors.InvalidInput),
        ("", 429, errors.Overloaded),
        ("", 500, errors.RetrievalError),
        ("", 502, errors.DependencyUnavailable),
        ("", 503, errors.DependencyUnavailable),
        ("", 504, errors.DependencyUnavailable),
        ("invalid_json", 400, errors.InvalidJson),
        ("in_progress", 409, errors.InProgress),
        ("rate_limited", 429, errors.RateLimited),
        ("encode_failed", 500, errors.EncodeFailed),
        ("timed_out", 504, errors.TimedOut),
    ],
)
def test_a_code_names_its_class_and_a_status_the_most_general_class(
    code: str, status: int, kind: type[errors.RetrievalError]
) -> None:
    assert errors.error_class(code, status) is kind
