"""A field of a hit is declared in one place: the answer, its description and the client follow."""

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import orjson
import pytest
from pydantic import Field

from indexer.domain.points import Hit, Part, Point
from service.schemas.hits import ABSENT, ContentOut, ContentView, DocumentOut, From, HitOut, wire
from service.schemas.search import SearchOut

VECTOR = np.array([0.6, 0.8], np.float32)
HIT = Hit("a/b", 0.9, "text", "9f86d081884c7d65ff", {"region": "Europe", "n": 1}, VECTOR)
POINT = Point("a", VECTOR, None, None, {}, "hash")
PARTS = (Part(0, 3, 0), Part(4, 8, 0), Part(0, 3, 1))
ROWS = np.stack([VECTOR, VECTOR[::-1], VECTOR])
MORE = ("60303ae22b998861ff",)
LONG_HIT = replace(HIT, text="one two.", more_images=MORE, parts=PARTS, best_part=2)
LONG_POINT = replace(
    POINT, text="one two.", image_digest=HIT.image_digest, more_images=MORE, parts=PARTS, part_vectors=ROWS
)


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


@pytest.mark.parametrize(("model", "content"), [(HitOut, LONG_HIT), (DocumentOut, LONG_POINT)])
def test_every_field_of_the_model_is_answered_and_no_other(model: type[ContentOut], content: Hit | Point) -> None:
    explanation = {} if model is DocumentOut else None
    answered = sent(ContentView(content, "flags", with_vector=True, explanation=explanation, highlights=[]), model)
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
        "part": None,
    }
    assert wire(HitOut, ContentView(HIT, "flags", explanation=ABSENT)).keys() == answered.keys()
    assert SearchOut.model_fields["hits"].annotation == list[HitOut]


IMAGES = [
    "/collections/flags/documents/a/image?v=9f86d081884c7d65",
    "/collections/flags/documents/a/image?v=60303ae22b998861&n=1",
]


def test_a_hit_names_the_part_that_it_was_found_by() -> None:
    answered = sent(ContentView(replace(LONG_HIT, document_id="a"), "flags"), HitOut)
    assert answered["part"] == {"text": "one", "start": 0, "end": 3, "image_url": IMAGES[1]}
    assert answered["image_urls"] == IMAGES
    of_image = replace(LONG_HIT, parts=(Part(image=0), Part(image=1)), best_part=0)
    assert sent(ContentView(of_image, "flags"), HitOut)["part"] == {
        "text": None,
        "start": None,
        "end": None,
        "image_url": "/collections/flags/documents/a%2Fb/image?v=9f86d081884c7d65",
    }


def test_a_document_shows_all_its_parts() -> None:
    answered = sent(ContentView(LONG_POINT, "flags", with_vector=True), DocumentOut)
    assert [part["text"] for part in answered["parts"]] == ["one", "two.", "one"]
    assert [part["image_url"] for part in answered["parts"]] == [IMAGES[0], IMAGES[0], IMAGES[1]]
    assert [part["vector"] for part in answered["parts"]] == [pytest.approx(row) for row in ROWS.tolist()]
    assert "vector" not in sent(ContentView(LONG_POINT, "flags"), DocumentOut)["parts"][0]
    # No image was kept.
    assert sent(ContentView(replace(LONG_POINT, image_digest=None, more_images=()), "flags"), DocumentOut)["parts"][
        2
    ] == {
        "text": "one",
        "start": 0,
        "end": 3,
        "image_url": None,
    }
