"""Boosts and diversity over HTTP, with Qdrant Edge and with the server store: compared with plain Python."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from indexer.domain.documents import point_id
from indexer.store.server.settings import ServerStoreSettings
from indexer.store.server.store import ServerStore

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant"),
    pytest.mark.filterwarnings("ignore:Local mode is not recommended"),
]

WORDS = ["red", "blue", "white", "green", "star", "cross", "moon"]
ORIGIN = datetime(2026, 6, 1, tzinfo=UTC)


def documents() -> list[dict[str, Any]]:
    made = [
        {
            "id": f"d{i:02}",
            "text": f"{WORDS[i % 7]} {WORDS[(i * 3 + 1) % 7]} {WORDS[(i * i) % 7]}",
            "metadata": {
                "brand": ["Ada", "Bell"][i % 2],
                "sold": [i, [i, 2 * i], None, "many"][i % 4],
                "made": (ORIGIN + timedelta(days=i - 12)).isoformat(),
            },
        }
        for i in range(30)
    ]
    made[5]["metadata"] = {}
    return made


BOOST = [
    {"filter": {"field": "brand", "equals": "Ada"}, "weight": 0.3},
    {"field": "sold", "weight": -0.01},
    {"field": "made", "decay": "exp", "scale": "5d", "origin": "2026-06-01", "weight": 0.5},
]


def added(metadata: dict[str, Any]) -> list[float]:
    """By hand, of `BOOST`."""
    sold = metadata.get("sold")
    numbers = [one for one in (sold if isinstance(sold, list) else [sold]) if isinstance(one, int)]
    days = abs((datetime.fromisoformat(metadata["made"]) - ORIGIN).days) if "made" in metadata else None
    return [
        0.3 if metadata.get("brand") == "Ada" else 0.0,
        -0.01 * max(numbers, default=0),
        0.0 if days is None else 0.5 * 0.5 ** (days / 5),
    ]


@pytest.fixture(params=["edge", "server"])
async def shop(request: pytest.FixtureRequest, serve: Callable[..., Awaitable[Any]]) -> Any:
    store = ServerStore(ServerStoreSettings(":memory:")) if request.param == "server" else None
    served = await serve(store=store)
    await served.client.put("/collections/shop", json={"indexes": {"sold": "number", "made": "datetime"}})
    await served.load(*documents(), collection="shop")
    return served


async def search(shop: Any, status: int = 200, **body: Any) -> dict[str, Any]:
    response = await shop.client.post("/search", json={"collection": "shop", "query": {"text": "red star"}, **body})
    assert response.status_code == status, response.text
    answer: dict[str, Any] = response.json()
    return answer


MODES: list[dict[str, Any]] = [
    {},
    {"mode": "lexical"},
    {"mode": "hybrid"},
    {"mode": "hybrid", "fusion": {"method": "weighted", "weight": 0.4}},
]


@pytest.mark.parametrize("options", MODES)
async def test_boosts_are_added_to_the_score_of_the_mode(shop: Any, options: dict[str, Any]) -> None:
    plain = (await search(shop, limit=50, **options))["hits"]
    scores = {hit["id"]: hit["score"] + sum(added(hit["metadata"])) for hit in plain}
    answer = await search(shop, limit=50, boost=BOOST, explain=True, **options)
    assert {hit["id"]: hit["score"] for hit in answer["hits"]} == pytest.approx(scores, abs=1e-5)
    ranked = [(-hit["score"], point_id(hit["id"])) for hit in answer["hits"]]
    assert ranked == sorted(ranked)
    for hit in answer["hits"]:
        assert hit["explanation"]["boosts"] == pytest.approx(added(hit["metadata"]))
    half = answer["hits"][len(ranked) // 2]["score"]
    above = await search(shop, limit=50, boost=BOOST, score_threshold=half, **options)
    assert [hit["id"] for hit in above["hits"]] == [hit["id"] for hit in answer["hits"] if hit["score"] >= half]


async def test_cursors_walk_a_boosted_and_a_diverse_ranking(shop: Any) -> None:
    for options in ({"boost": BOOST}, {"diversity": 0.5}, {"boost": BOOST, "diversity": 0.2, "mode": "lexical"}):
        whole = [hit["id"] for hit in (await search(shop, limit=50, **options))["hits"]]
        walked: list[str] = []
        cursor: str | None = None
        while cursor is not None or not walked:
            page = await search(shop, limit=7, **options, **({} if cursor is None else {"cursor": cursor}))
            walked += [hit["id"] for hit in page["hits"]]
            cursor = page["cursor"]
        assert walked == whole
        assert sorted(whole) == sorted(set(whole))
    groups = (await search(shop, boost=BOOST, group_by="brand"))["groups"]
    best = {group["value"]: group["hits"][0] for group in groups}
    assert best["Ada"]["score"] > best["Bell"]["score"]


@pytest.mark.parametrize(
    ("decay", "scale", "origin", "distance", "part"),
    [
        ("exp", 10.0, 0.0, 20, 0.25),
        ("gauss", 10.0, 0.0, 20, 1 / 16),
        ("linear", 10.0, 0.0, 5, 0.75),
        ("linear", 10.0, 0.0, 25, 0.0),
        ("exp", 10.0, 25.0, 5, 0.25),
    ],
)
async def test_decays_fall_to_a_half_at_their_scale(
    serve: Any, decay: str, scale: float, origin: float, distance: int, part: float
) -> None:
    served = await serve()
    await served.load({"id": "x", "text": "red", "metadata": {"n": [distance, 100_000]}}, collection="shop")
    boost = [{"field": "n", "decay": decay, "scale": scale, "origin": origin, "weight": 2}]
    (hit,) = (await search(served, boost=boost, explain=True))["hits"]
    assert hit["explanation"]["boosts"] == pytest.approx([2 * part])


async def test_now_is_the_origin_of_times(serve: Any) -> None:
    served = await serve()
    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    await served.load({"id": "x", "text": "red", "metadata": {"at": yesterday}}, collection="shop")
    boost = [{"field": "at", "decay": "exp", "scale": "24h", "weight": 1}]
    (hit,) = (await search(served, boost=boost, explain=True))["hits"]
    assert hit["explanation"]["boosts"] == pytest.approx([0.5], abs=1e-3)


async def test_diversity_is_maximal_marginal_relevance(shop: Any) -> None:
    plain = (await search(shop, limit=50, with_vector=True))["hits"]
    vectors = {hit["id"]: np.array(hit["vector"]) for hit in plain}
    low, high = plain[-1]["score"], plain[0]["score"]
    relevance = {hit["id"]: (hit["score"] - low) / (high - low) for hit in plain}
    answer = (await search(shop, limit=50, diversity=0.6, explain=True))["hits"]
    assert {hit["id"]: hit["score"] for hit in answer} == pytest.approx(
        {hit["id"]: hit["score"] for hit in plain}, abs=1e-5
    )
    assert answer[0]["id"] == plain[0]["id"]
    before: list[str] = []
    for hit in answer:

        def worth(name: str) -> float:
            closest = max((float(vectors[name] @ vectors[other]) for other in before), default=-1.0)
            return 0.4 * relevance[name] - 0.6 * closest

        left = [name for name in vectors if name not in before]
        assert worth(hit["id"]) == pytest.approx(max(map(worth, left)), abs=1e-4)
        if before:
            closest = max(float(vectors[hit["id"]] @ vectors[other]) for other in before)
            assert hit["explanation"]["closest"] == pytest.approx(closest, abs=1e-5)
        before.append(hit["id"])
    assert [hit["id"] for hit in answer] != [hit["id"] for hit in plain]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"boost": [{"field": "sold", "weight": 1}] * 17}, "at most 16"),
        ({"boost": [{"field": "made", "weight": 1}]}, "field made is declared datetime, the boost asks for number"),
        ({"boost": [{"field": "sold", "decay": "exp", "scale": "3d", "weight": 1}]}, "the boost asks for datetime"),
        ({"boost": [{"field": "made", "decay": "exp", "scale": "3 days", "weight": 1}]}, "such as 30d"),
        ({"boost": [{"field": "sold", "decay": "exp", "scale": 3, "weight": 1}]}, "origin must be a number"),
        ({"boost": [{"field": "sold", "decay": "exp", "scale": 0, "origin": 1, "weight": 1}]}, "must be above 0"),
        (
            {"boost": [{"field": "made", "decay": "exp", "scale": "3d", "origin": 4, "weight": 1}]},
            "origin must be a time",
        ),
        ({"boost": [{"filter": {"field": "sold", "equals": "x"}, "weight": 1}]}, "declared number"),
        ({"boost": BOOST, "sort": [{"field": "sold"}]}, "goes without boost and diversity"),
        ({"diversity": 0.5, "group_by": "brand"}, "group_by goes without diversity"),
        ({"diversity": 1.5}, "less than or equal to 1"),
        ({"query": None, "sort": [{"field": "sold"}], "diversity": 0.5}, "diversity needs a query"),
    ],
)
async def test_what_cannot_steer_is_refused(shop: Any, body: dict[str, Any], words: str) -> None:
    response = await shop.client.post("/search", json={"collection": "shop", "query": {"text": "red"}, **body})
    assert response.status_code in (400, 422), response.text
    assert words in response.text


# --- weights of a query


async def test_weights_shift_a_query_between_its_text_and_its_image(
    serve: Any, runtime: Any, make_image: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(runtime), "info", replace(runtime.info, weighable=True))
    served = await serve()
    picture = {"base64": base64.b64encode(make_image("blue")).decode()}
    await served.load({"id": "text", "text": "red"}, {"id": "image", "image": picture}, collection="shop")
    both = {"text": "red", "image": picture}

    async def scores(**query: Any) -> dict[str, float]:
        hits = (await search(served, query=query))["hits"]
        return {hit["id"]: hit["score"] for hit in hits}

    by_text, by_image = await scores(text="red"), await scores(image=picture)
    assert await scores(**both, weights={"text": 1, "image": 0}) == pytest.approx(by_text, abs=1e-5)
    assert await scores(**both, weights={"text": 0, "image": 1}) == pytest.approx(by_image, abs=1e-5)
    mixed = await scores(**both, weights={"text": 3, "image": 4})
    total = {name: 3 * by_text[name] + 4 * by_image[name] for name in by_text}
    norm = (9 + 16 + 24 * by_text["image"]) ** 0.5
    assert mixed == pytest.approx({name: score / norm for name, score in total.items()}, abs=1e-5)
    body = {"query": {**both, "weights": {"text": 3, "image": 4}}, "explain": True}
    (first, _) = (await search(served, **body))["hits"]
    assert first["explanation"]["without_text"] == pytest.approx(by_image[first["id"]], abs=1e-5)


async def test_weights_are_refused_where_there_is_nothing_to_weigh(shop: Any, make_image: Any) -> None:
    both = {"text": "red", "image": {"base64": base64.b64encode(make_image("blue")).decode()}}
    problem = await search(shop, 400, query={**both, "weights": {"text": 1, "image": 2}})
    assert "fuses text and image by itself" in problem["detail"]
    alone = await search(shop, 422, query={"text": "red", "weights": {"text": 1, "image": 2}})
    assert "the query needs both" in str(alone)
    none = await search(shop, 422, query={**both, "weights": {"text": 0, "image": 0}})
    assert "both weights are 0" in str(none)
