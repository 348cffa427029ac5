"""A field of a hit is declared in one place: the answer, its description and the client follow."""

from typing import Annotated, Any

import numpy as np
import orjson
import pytest
from pydantic import Field

from indexer.domain.points import Hit, Point
from service.schemas.hits import ABSENT, ContentOut, ContentView, DocumentOut, From, HitOut, wire
from service.schemas.search import SearchOut

VECTOR = np.array([0.6, 0.8], np.float32)
HIT = Hit("a/b", 0.9, "text", "9f86d081884c7d65ff", {"region": "Europe", "n": 1}, VECTOR)
POINT = Point("a", VECTOR, None, None, {}, "hash")


class LongerHitOut(HitOut):
    """A hit with a field more, written here alone."""

    length: Annotated[int, From(lambda shown: len(shown.content.text))] = Field(description="characters of the text")


def sent(shown: ContentView, model: type[ContentOut]) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(orjson.dumps(wire(model, shown), option=orjson.OPT_SERIALIZE_NUMPY))
    return body


def test_a_new_field_is_answered_described_and_read_by_the_client() -> None:
    answered = sent(ContentView(HIT, "flags"), LongerHitOut)
    assert answered["length"] == 4
    assert LongerHitOut.model_validate(answered).length == 4
    assert LongerHitOut.model_json_schema()["properties"]["length"]["description"] == "characters of the text"


@pytest.mark.parametrize(("model", "content"), [(HitOut, HIT), (DocumentOut, POINT)])
def test_every_field_of_the_model_is_answered_and_no_other(model: type[ContentOut], content: Hit | Point) -> None:
    explanation = {} if model is DocumentOut else None
    answered = sent(ContentView(content, "flags", with_vector=True, explanation=explanation), model)
    assert set(answered) == set(model.model_fields)
    model.model_validate(answered)


def test_what_was_not_asked_for_is_left_out() -> None:
    answered = sent(ContentView(HIT, "flags", metadata_fields=["region"]), HitOut)
    assert answered == {
        "id": "a/b",
        "score": 0.9,
        "text": "text",
        "image_url": "/collections/flags/documents/a%2Fb/image?v=9f86d081884c7d65",
        "thumbnail_url": "/collections/flags/documents/a%2Fb/image?v=9f86d081884c7d65&width=256",
        "metadata": {"region": "Europe"},
    }
    assert wire(HitOut, ContentView(HIT, "flags", explanation=ABSENT)).keys() == answered.keys()
    assert SearchOut.model_fields["hits"].annotation == list[HitOut]
