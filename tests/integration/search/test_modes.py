"""Modes of a search over HTTP: by embedding, by words, by both, reranked by latents; and what is refused, with the way out."""

import base64
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from needs import needed

from model.types import Encoded, Float32, Prepared

Serve = Callable[..., Awaitable[Any]]

# The fake model embeds a bag of words, so that "red" is near every red thing; the words know "x200" from "x300".
SHOES = [
    {"id": "a", "text": "red red red shoe", "metadata": {"n": 1}},
    {"id": "b", "text": "red shoe x200", "metadata": {"n": 2}},
    {"id": "c", "text": "blue boot x300", "metadata": {"n": 3}},
    {"id": "d", "text": "green hat", "metadata": {"n": 4}},
]


def ids(answer: dict[str, Any]) -> list[str]:
    return [hit["id"] for hit in answer["hits"]]


async def refused(served: Any, **body: Any) -> dict[str, Any]:
    body = {"collection": "shop", "query": {"text": "red"}, **body}
    response = await served.client.post("/search", json=body)
    assert response.status_code in (400, 409, 422), response.text
    problem: dict[str, Any] = response.json()
    return problem


@pytest.fixture
async def shop(served: Any) -> Any:
    await served.load(*SHOES, collection="shop")
    return served


async def test_lexical_finds_the_documents_with_the_words_without_the_model(shop: Any, runtime: Any) -> None:
    forwards = len(runtime.batches)
    answer = await shop.search("X200 shoe", collection="shop", mode="lexical")
    assert ids(answer) == ["b", "a"]
    assert answer["hits"][0]["score"] > answer["hits"][1]["score"] > 0
    assert len(runtime.batches) == forwards
    assert answer["timings"]["encode_ms"] == 0
    assert (await shop.search("unheard", collection="shop", mode="lexical"))["hits"] == []


async def test_windows_thresholds_and_filters_keep_their_meaning_in_every_mode(shop: Any) -> None:
    condition = {"field": "n", "lte": 2}
    for options in (
        {"mode": "fused"},
        {"mode": "lexical"},
        {"mode": "hybrid"},
        {"mode": "hybrid", "fusion": {"method": "weighted", "weight": 0.3}},
    ):
        whole = (await shop.search("red x300 shoe", collection="shop", **options))["hits"]
        assert len(whole) >= 3
        assert [hit["score"] for hit in whole] == sorted((hit["score"] for hit in whole), reverse=True)
        pages = [
            (await shop.search("red x300 shoe", collection="shop", limit=1, offset=n, **options))["hits"]
            for n in range(3)
        ]
        assert [hit for page in pages for hit in page] == whole[:3]
        second = whole[1]["score"]
        above = await shop.search("red x300 shoe", collection="shop", score_threshold=second, **options)
        assert above["hits"] == whole[:2]
        kept = await shop.search("red x300 shoe", collection="shop", filter=condition, **options)
        assert set(ids(kept)) == {"a", "b"}
        (hit,) = (await shop.search("red", collection="shop", limit=1, with_vector=True, **options))["hits"]
        assert len(hit["vector"]) == 64


async def test_hybrid_is_both_rankings_fused(shop: Any) -> None:
    near = ids(await shop.search("red red x300", collection="shop"))
    words = (await shop.search("red red x300", collection="shop", mode="lexical"))["hits"]
    answer = await shop.search("red red x300", collection="shop", mode="hybrid", explain=True)
    places = {hit["id"]: rank for rank, hit in enumerate(words, 1)}
    for hit in answer["hits"]:
        embedding, lexical = 1 / (60 + near.index(hit["id"]) + 1), hit["explanation"]["lexical"]
        if hit["id"] not in places:
            assert hit["score"] == pytest.approx(embedding)
            assert lexical is None
            continue
        part = 1 / (60 + places[hit["id"]])
        assert hit["score"] == pytest.approx(embedding + part)
        assert lexical["score"] == pytest.approx(words[places[hit["id"]] - 1]["score"])
        assert lexical["share"] == pytest.approx(part / hit["score"], abs=1e-4)
    assert all(hit["explanation"]["similarity"] <= 1.0001 for hit in answer["hits"])
    only_words = {"method": "weighted", "weight": 1.0}
    answer = await shop.search("red red x300", collection="shop", mode="hybrid", fusion=only_words)
    assert ids(answer)[: len(words)] == [hit["id"] for hit in words]


async def test_hybrid_without_words_is_the_embedding_s_ranking(shop: Any, make_image: Any) -> None:
    query = {"image": {"base64": base64.b64encode(make_image("red")).decode()}}
    bodies = [{"collection": "shop", "query": query, "mode": mode} for mode in ("fused", "hybrid")]
    fused, hybrid = [(await shop.client.post("/search", json=body)).json() for body in bodies]
    assert ids(fused) == ids(hybrid)


async def test_a_document_as_the_query_brings_its_words(shop: Any) -> None:
    for mode, first in (("lexical", ["b"]), ("hybrid", ["b"])):
        body = {"collection": "shop", "query": {"document_id": "a"}, "mode": mode, "explain": True}
        hits = (await shop.client.post("/search", json=body)).json()["hits"]
        assert [hit["id"] for hit in hits][:1] == first
        assert "a" not in [hit["id"] for hit in hits]


async def test_the_instruction_is_for_the_model_and_not_a_word(served: Any) -> None:
    await served.client.put("/collections/shop", json={"instruction": "find the green thing:", "language": "english"})
    await served.load(*SHOES, collection="shop")
    assert ids(await served.search("boots", collection="shop", mode="lexical")) == ["c"]
    assert ids(await served.search("the boots", collection="shop", mode="lexical")) == ["c"]


async def test_explain_in_mode_lexical(shop: Any) -> None:
    (hit,) = (await shop.search("hat", collection="shop", mode="lexical", explain=True))["hits"]
    why = hit["explanation"]
    assert why["lexical"] == {"score": hit["score"], "share": 1.0}
    assert (why["query"], why["similarity"], why["without_image"]) == (None, None, None)
    assert why["document"]["layers"][0]["text"] == 1.0


async def test_a_collection_says_its_language_and_keeps_it(served: Any) -> None:
    made = await served.client.put("/collections/words", json={"language": "german"})
    assert (made.status_code, made.json()["language"], made.json()["latents"]) == (201, "german", False)
    again = await served.client.put("/collections/words")
    assert (again.status_code, again.json()["language"]) == (200, "german")
    assert (await served.client.put("/collections/plain")).json()["language"] == "simple"
    other = await served.client.put("/collections/words", json={"language": "english"})
    assert other.status_code == 409
    assert "as german, not as english" in other.json()["detail"]
    unknown = await served.client.put("/collections/new", json={"language": "klingon"})
    assert unknown.status_code == 400
    assert "known are simple, arabic" in unknown.json()["detail"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"mode": "words"}, "mode"),
        ({"mode": "lexical", "query": {"image": "data:image/png;base64,AA=="}}, "would ignore the image"),
        ({"mode": "lexical", "rerank": True}, "which mode lexical does not read"),
        ({"fusion": {"method": "rrf"}}, "fusion needs mode hybrid, the mode is fused"),
        ({"mode": "hybrid", "fusion": {"method": "rrf", "k": 0}}, "fusion"),
        ({"mode": "hybrid", "fusion": {"method": "weighted", "weight": 1.5}}, "fusion"),
        ({"mode": "hybrid", "fusion": {"method": "median"}}, "fusion"),
        ({"rerank": {"oversampling": 0.5}}, "rerank"),
        ({"rerank": True}, "rerank needs a model with several latents"),
    ],
)
async def test_what_does_not_go_together_is_refused(shop: Any, body: dict[str, Any], says: str) -> None:
    problem = await refused(shop, **body)
    assert says in str(problem["detail"]) + str(problem.get("errors"))


async def test_a_document_without_text_has_no_words_to_search_by(served: Any, make_image: Any) -> None:
    await served.load({"id": "i", "image": {"base64": base64.b64encode(make_image()).decode()}}, collection="shop")
    problem = await refused(served, query={"document_id": "i"}, mode="lexical")
    assert "mode lexical needs a text" in problem["detail"]


# --- late interaction


class Several:
    """The fake model with three latents: the words of a text, one each, and the embedding their mean."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self.info = replace(runtime.info, latents=3)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def launch(self, batch: Sequence[Prepared]) -> Callable[[], Encoded]:
        from fake_runtime import embed

        texts = [bytes(item.tokens.astype(np.uint8)).decode() for item in batch if item.tokens is not None]
        latents: Float32 = np.stack([[embed(word) for word in (text.split() * 3)[:3]] for text in texts])
        means = latents.mean(axis=1)
        vectors = means / np.linalg.norm(means, axis=1, keepdims=True)
        return lambda: Encoded(vectors, None, latents)


@pytest.fixture
async def late(runtime: Any, tmp_path: Any) -> Any:
    """A server whose model gives several latents."""
    from contextlib import AsyncExitStack

    import httpx

    from service.api.app import create_app
    from service.settings import Settings
    from service.wiring import build

    parts = build(Settings(data_dir=tmp_path), Several(runtime))
    app = create_app(parts)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        client = await stack.enter_async_context(
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
        )
        documents = [
            {"id": "mixed", "text": "red blue green"},
            {"id": "near", "text": "red red hat"},
            {"id": "far", "text": "one two three"},
        ]
        await client.put("/collections/shop")
        posted = await client.post("/collections/shop/documents", params={"wait": True}, json=documents)
        assert posted.json()["job"]["indexed"] == 3, posted.text
        yield client


async def search(client: Any, **body: Any) -> list[dict[str, Any]]:
    response = await client.post("/search", json={"collection": "shop", **body})
    assert response.status_code == 200, response.text
    hits: list[dict[str, Any]] = response.json()["hits"]
    return hits


async def test_reranking_is_by_the_best_latent_for_each_of_the_query(late: Any) -> None:
    assert (await late.get("/collections/shop")).json()["latents"] is True
    query = {"text": "red red blue"}
    plain, reranked = await search(late, query=query), await search(late, query=query, rerank=True)
    assert [hit["id"] for hit in plain][:2] == ["near", "mixed"]  # the means: two reds outweigh the blue
    assert [hit["id"] for hit in reranked][:2] == ["mixed", "near"]  # each of its words is there
    assert reranked[0]["score"] == pytest.approx(1.0, abs=1e-5)
    assert reranked[1]["score"] == pytest.approx(2 / 3, abs=0.1)
    again = await search(late, query=query, rerank={"oversampling": 1}, limit=1, offset=1)
    assert again == reranked[1:2]
    above = await search(late, query=query, rerank=True, score_threshold=0.99)
    assert [hit["id"] for hit in above] == ["mixed"]


async def test_reranking_goes_with_documents_as_queries_and_with_hybrid(late: Any) -> None:
    hits = await search(late, query={"document_id": "mixed"}, rerank=True)
    assert [hit["id"] for hit in hits] == ["near", "far"]
    assert hits[0]["score"] == pytest.approx(1 / 3, abs=0.2)
    both = await search(late, query={"text": "red red blue"}, rerank=True, mode="hybrid", explain=True)
    assert both[0]["id"] == "mixed"
    assert both[0]["explanation"]["lexical"]["share"] > 0
    assert both[0]["explanation"]["query"] is None  # this model has no gates


# --- what words are for


async def test_words_help_on_texts_that_the_model_never_saw(tmp_path: Any, need: Callable[[bool, str], None]) -> None:
    """First sentences of docstrings ask for the others; `benchmarks.search_modes` measures it in full."""
    needed("torch")
    from benchmarks.search_modes import MODES, docstrings, fill, recall
    from indexer.store.edge.client import EdgeStore
    from model.errors import InvalidInput
    from model.retriever import Retriever
    from model.types import Limits, Role

    try:
        model = Retriever.load("bundled")
    except (InvalidInput, ImportError) as error:
        need(False, f"the bundled model: {error}")
    texts = docstrings(every=12)
    assert len(texts.ids) > 50
    documents, asked = (
        model.launch([model.prepare(one, role, Limits()) for one in items])()
        for items, role in ((texts.documents, Role.DOCUMENT), ([ask.content for ask in texts.asks], Role.QUERY))
    )
    store = EdgeStore(tmp_path / "index")
    try:
        await store.create("c", documents.vectors.shape[1], language="english")
        points = store.points("c")
        await fill(points, texts, documents)
        (fused,), (words,), (both,) = [
            (await recall(points, texts, asked, MODES[mode])).values()
            for mode in ("fused", "lexical", "hybrid, weight 0.5")
        ]
    finally:
        await store.close()
    assert words[0] > fused[0] + 0.1
    assert both[1] > fused[1] + 0.05


async def test_hits_show_the_passages_with_the_words_of_the_query(shop: Any) -> None:
    answer = await shop.search("X200 shoe", collection="shop", mode="hybrid", highlight=True)
    passages = {hit["id"]: hit["highlights"] for hit in answer["hits"]}
    words = [{"start": 4, "end": 8}, {"start": 9, "end": 13}]
    assert passages["b"] == [{"text": "red shoe x200", "start": 0, "end": 13, "words": words}]
    assert passages["d"] == []
    (hit,) = (await shop.search("hat", collection="shop", mode="lexical"))["hits"]
    assert "highlights" not in hit
    grouped = await shop.search("shoe", collection="shop", mode="lexical", highlight=True, group_by="n")
    assert [group["hits"][0]["highlights"][0]["text"] for group in grouped["groups"]] == [
        "red shoe x200",
        "red red red shoe",
    ]
    assert "mode fused compares embeddings alone" in (await refused(shop, highlight=True))["detail"]
    assert "at most 100" in (await refused(shop, highlight=True, mode="lexical", limit=101))["detail"]
