"""The log line of a request."""

from typing import Any

from structlog.testing import capture_logs


async def test_the_path_is_logged_as_it_was_sent(served: Any) -> None:
    path = "/collections/flags/documents/flag%2Ffr"
    with capture_logs() as logs:
        await served.client.get(path)
    assert [line["path"] for line in logs if line["event"] == "request"] == [path]


async def test_an_id_with_a_plain_slash_is_answered_with_advice(served: Any) -> None:
    response = await served.client.get("/collections/flags/documents/flag/fr")
    assert response.status_code == 404
    assert response.json()["detail"].endswith("write a slash in an id as %2F")
