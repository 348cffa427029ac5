"""Long texts and several pictures over HTTP: one hit a document, the part it was found by, and what was cut off."""

import base64
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Make = Callable[..., bytes]
COLLECTION, DOCUMENTS = "/collections/flags", "/collections/flags/documents"
FILLER = "Nothing of note stands in this sentence of some length. " * 30
SECRET = "The secret answer is quokka."


def image(data: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(data).decode()}


async def search(served: Any, query: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    response = await served.client.post("/search", json={"collection": "flags", "query": query, **options})
    assert response.status_code == 200, response.text
    hits: list[dict[str, Any]] = response.json()["hits"]
    return hits


async def test_what_stands_at_the_end_of_a_long_text_is_found_and_named(served: Any) -> None:
    text = FILLER + SECRET
    await served.client.put(COLLECTION, json={"passages": {"tokens": 64}})
    loaded = await served.load({"id": "long", "text": text}, {"id": "short", "text": "a short text about nothing"})
    assert [result.get("truncated") for result in loaded["results"]] == [None, None]
    assert loaded["job"]["truncated"] == 0
    first, second = await search(served, {"text": SECRET}, with_vector=True, explain=True)
    assert first["id"] == "long"
    assert first["part"] == {"text": SECRET, "start": len(FILLER), "end": len(text), "image_url": None}
    assert (second["id"], second["part"]) == ("short", None)
    document = (await served.client.get(f"{DOCUMENTS}/long?with_vector=true")).json()
    assert document["text"] == text
    best = [part for part in document["parts"] if part["start"] == first["part"]["start"]]
    assert best[0]["vector"] == pytest.approx(first["vector"], abs=1e-5)
    assert first["explanation"]["similarity"] == pytest.approx(first["score"], abs=1e-5)
    mean = np.mean([part["vector"] for part in document["parts"]], axis=0)
    assert document["vector"] == pytest.approx((mean / np.linalg.norm(mean)).tolist(), abs=1e-5)
    (lexical, *_) = await search(served, {"text": "quokka"}, mode="lexical")
    assert (lexical["id"], lexical["part"]) == ("long", None)
    (hybrid, *_) = await search(served, {"text": "quokka"}, mode="hybrid")
    assert hybrid["part"] is not None
    assert {hit["id"] for hit in await search(served, {"document_id": "long"})} == {"short"}


async def test_each_image_of_a_document_is_found_and_can_be_read(served: Any, make_image: Make) -> None:
    colours = [make_image(colour) for colour in ("red", "green", "blue")]
    await served.load(
        {"id": "three", "image": image(colours[0]), "images": [image(data) for data in colours[1:]]},
        {"id": "one", "images": [image(make_image("white"))]},
    )
    document = (await served.client.get(f"{DOCUMENTS}/three")).json()
    assert len(document["image_urls"]) == len(document["parts"]) == 3
    for place, data in enumerate(colours):
        first, *others = await search(served, {"image": image(data)})
        assert [first["id"], *[hit["id"] for hit in others]] == ["three", "one"]
        assert first["part"]["image_url"] == document["image_urls"][place]
        shown = await served.client.get(first["part"]["image_url"])
        assert (shown.status_code, shown.content) == (200, data)
        assert "immutable" in shown.headers["cache-control"]
        assert (await served.client.get(first["part"]["image_url"] + "&width=256")).status_code == 200
    alone = (await served.client.get(f"{DOCUMENTS}/one")).json()
    assert "image_urls" not in alone
    assert alone["image_url"] is not None
    missing = await served.client.get(f"{DOCUMENTS}/three/image?n=3")
    assert (missing.status_code, missing.json()["detail"]) == (
        404,
        "document 'three' has no image 3; counted from 0 it has 3",
    )


async def test_a_collection_that_cuts_no_texts_says_what_it_cut_off(served: Any) -> None:
    made = await served.client.put(COLLECTION, json={"passages": {"enabled": False}})
    assert made.json()["passages"] == {"enabled": False, "tokens": None, "overlap": 0}
    loaded = await served.load({"id": "long", "text": FILLER + SECRET}, {"id": "short", "text": "short"})
    dropped = len(FILLER + SECRET) - 1_000
    assert [result.get("truncated") for result in loaded["results"]] == [dropped, None]
    assert loaded["job"]["truncated"] == 1
    metrics = (await served.client.get("/metrics")).text
    assert "ret2_truncated_documents_total 1.0" in metrics
    changed = await served.client.patch(COLLECTION, json={"passages": {"tokens": 500}})
    assert changed.json()["passages"] == {"enabled": True, "tokens": 500, "overlap": 0}
    again = await served.load({"id": "long", "text": FILLER + SECRET})
    assert again["results"] == [{"id": "long", "status": "indexed"}]
    (hit, *_) = await search(served, {"text": SECRET})
    assert hit["part"]["text"].endswith(SECRET)


@pytest.mark.parametrize(
    ("passages", "field"),
    [({"tokens": 1001}, "passages.tokens"), ({"tokens": 100, "overlap": 51}, "passages.overlap")],
)
async def test_passages_the_model_cannot_read_are_refused(served: Any, passages: Any, field: str) -> None:
    refused = await served.client.put(COLLECTION, json={"passages": passages})
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, field)


async def test_documents_with_too_many_or_bad_images_fail_alone(served: Any, make_image: Make) -> None:
    red = image(make_image("red"))
    await served.client.put(COLLECTION, json={})
    body = [
        {"id": "many", "image": red, "images": [red] * 16},
        {"id": "bad", "images": [red, {"base64": "AAAA"}]},
        {"id": "good", "images": [red]},
    ]
    answer = (await served.client.post(DOCUMENTS, params={"wait": True}, json=body)).json()
    reasons = {rejected["id"]: rejected["detail"] for rejected in answer["rejected"]}
    assert reasons["many"] == "the document has 17 images, limit is 16"
    assert reasons["bad"].startswith("images[1]: ")
    assert [result["id"] for result in answer["results"]] == ["good"]


async def test_embeddings_say_that_an_input_was_longer_than_the_model_reads(served: Any) -> None:
    short = await served.client.post("/v1/embeddings", json={"input": ["short"]})
    assert "x-ret2-truncated" not in short.headers
    long = await served.client.post("/v1/embeddings", json={"input": ["short", "x" * 1_010, "y" * 1_005]})
    assert long.headers["x-ret2-truncated"] == "inputs=2; tokens=15"


async def test_texts_are_cut_on_their_own_too(served: Any) -> None:
    body = {"texts": ["One two. Three four. Five.", ""], "tokens": 20}
    answer = (await served.client.post("/passages", json=body)).json()
    assert answer["results"] == [
        {"passages": [[0, 20], [21, 26]], "dropped_tokens": 0},
        {"passages": [], "dropped_tokens": 0},
    ]
    assert (await served.client.post("/passages", json={**body, "tokens": 7})).status_code == 422
    assert (await served.client.post("/passages", json={"texts": ["x"] * 257})).status_code == 413
