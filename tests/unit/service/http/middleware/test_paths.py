"""Paths as they were sent, and the values that stand in them."""

import pytest

from service.http.middleware.paths import decoded, sent_path


@pytest.mark.parametrize(
    ("scope", "path"),
    [
        ({"path": "/a/b c", "raw_path": b"/a/b%20c"}, "/a/b%20c"),
        ({"path": "/a/b/c", "raw_path": b"/a/b%2Fc"}, "/a/b%2Fc"),
        ({"path": "/a/ü", "raw_path": None}, "/a/%C3%BC"),
        ({"path": "/a/ü"}, "/a/%C3%BC"),
    ],
)
def test_the_path_as_it_was_sent(scope: dict[str, object], path: str) -> None:
    assert sent_path(scope) == path


def test_values_are_decoded_once() -> None:
    assert decoded({"id": "a%2Fb", "name": "%252F", "number": 3}) == {"id": "a/b", "name": "%2F", "number": 3}
