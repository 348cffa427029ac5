"""The clients of other embedding services, as they are published, against this one: a tiny real model."""

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import requests
from needs import needed
from numpy.typing import NDArray
from PIL import Image
from threaded_server import serving

from service.client.client import Client
from service.settings import Settings
from service.wiring import build

cohere, voyageai, litellm = needed("cohere"), needed("voyageai"), needed("litellm")
needed("torch")

TEXTS = ["red", "a blue circle", "green"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from tiny_model import write_tiny_checkpoint

    folder: Path = tmp_path_factory.mktemp("clients")
    model = write_tiny_checkpoint(folder / "model")
    settings = Settings(
        data_dir=folder / "data", models=f"tiny={model}", max_inputs_per_call=2, max_embeddings_per_call=5
    )
    with serving(lambda: build(settings)) as url:
        yield url


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment could not reach this machine."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """What carries the calls of the clients that take such a thing: they would leave their own open."""
    with httpx.Client(trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def voyage(url: str) -> Iterator[Any]:
    with requests.Session() as voyageai.requestssession:
        yield voyageai.Client("none", base_url=f"{url}/v1", max_retries=1)
    voyageai.requestssession = None


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.radial_gradient("L").resize((40, 30)).convert("RGB")


def data_uri(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def expected(url: str, items: Sequence[dict[str, Any]], role: str) -> NDArray[np.float32]:
    """The embeddings of the service's own client."""
    with Client(url) as client:
        parts = [client.encode(items[start : start + 2], role=role) for start in range(0, len(items), 2)]
    return np.asarray([result for part in parts for result in part], np.float32)


def test_cohere_texts(url: str, http: httpx.Client) -> None:
    client = cohere.ClientV2("none", base_url=url, httpx_client=http)
    answer = client.embed(model="tiny", input_type="search_query", texts=TEXTS, embedding_types=["float", "base64"])
    queries = expected(url, [{"text": text} for text in TEXTS], "query")
    np.testing.assert_allclose(answer.embeddings.float_, queries, atol=1e-6)
    read = [np.frombuffer(base64.b64decode(text), "<f4") for text in answer.embeddings.base64]
    np.testing.assert_allclose(read, queries, atol=1e-6)
    assert answer.texts == TEXTS
    assert answer.meta.billed_units.input_tokens > len(TEXTS)


def test_cohere_images_and_both(url: str, picture: Image.Image, http: httpx.Client) -> None:
    client, uri = cohere.ClientV2("none", base_url=url, httpx_client=http), data_uri(picture)
    image = client.embed(model="tiny", input_type="image", images=[uri], embedding_types=["float"])
    both = client.embed(
        model="tiny",
        input_type="search_document",
        inputs=[
            {"content": [{"type": "text", "text": "red"}, {"type": "image_url", "image_url": {"url": uri}}]},
        ],
    )
    items = [{"image": uri}, {"text": "red", "image": uri}]
    np.testing.assert_allclose(
        [*image.embeddings.float_, *both.embeddings.float_], expected(url, items, "document"), atol=1e-6
    )


def test_voyage_texts(url: str, voyage: Any) -> None:
    answer = voyage.embed(TEXTS, model="tiny", input_type="query")
    np.testing.assert_allclose(answer.embeddings, expected(url, [{"text": text} for text in TEXTS], "query"), atol=1e-6)
    assert answer.total_tokens > len(TEXTS)


def test_voyage_texts_and_pictures(url: str, picture: Image.Image, voyage: Any) -> None:
    answer = voyage.multimodal_embed([["red", picture], [picture], ["green"]], model="tiny", input_type="document")
    actual = np.asarray(answer.embeddings)
    assert actual.shape[0] == 3
    # The client sends pictures in a format of its own choice: without loss.
    uri = data_uri(picture)
    items = [{"text": "red", "image": uri}, {"image": uri}, {"text": "green"}]
    np.testing.assert_allclose(actual, expected(url, items, "document"), atol=1e-4)


def test_litellm(url: str, http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its calls carry fields that are null."""
    monkeypatch.setattr(litellm, "client_session", http)
    answer = litellm.embedding(model="openai/tiny", input=TEXTS, api_base=f"{url}/v1", api_key="none")
    actual = [item["embedding"] for item in answer.data]
    np.testing.assert_allclose(actual, expected(url, [{"text": text} for text in TEXTS], "document"), atol=1e-6)


def test_langchain(url: str, http: httpx.Client) -> None:
    embeddings = needed("langchain_openai").OpenAIEmbeddings(
        model="tiny", base_url=f"{url}/v1", api_key="none", check_embedding_ctx_length=False, http_client=http
    )
    actual = embeddings.embed_documents(TEXTS)
    np.testing.assert_allclose(actual, expected(url, [{"text": text} for text in TEXTS], "document"), atol=1e-6)


def post(url: str, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{url}{path}", json=body, timeout=30, trust_env=False)


def test_a_text_that_is_the_data_uri_of_an_image_is_the_image(url: str, picture: Image.Image) -> None:
    """Such as clients send that know strings alone."""
    uri = data_uri(picture)
    answer = post(url, "/v1/embeddings", {"input": [uri, "data:text/plain;base64,AAAA"]}).json()
    items = [{"image": uri}, {"text": "data:text/plain;base64,AAAA"}]
    np.testing.assert_allclose(
        [datum["embedding"] for datum in answer["data"]], expected(url, items, "document"), atol=1e-6
    )


BODIES = {
    "/v1/embeddings": lambda texts: {"input": texts},
    "/v1/multimodalembeddings": lambda texts: {
        "inputs": [{"content": [{"type": "text", "text": text}]} for text in texts]
    },
    "/v2/embed": lambda texts: {"texts": texts},
}


@pytest.mark.parametrize("path", BODIES)
def test_more_inputs_than_one_batch_and_a_bound_on_them(url: str, path: str) -> None:
    assert post(url, path, BODIES[path](["red"] * 5)).status_code == 200
    answer = post(url, path, BODIES[path](["red"] * 6))
    assert answer.status_code == 413
    assert "limit is 5" in answer.json()["detail"]


@pytest.mark.parametrize("path", BODIES)
def test_a_bad_input_is_named_by_its_place_in_the_call(url: str, path: str) -> None:
    answer = post(url, path, BODIES[path](["red", "blue", "green", ""]))
    assert answer.status_code == 400
    assert "[3]" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("/v1/embeddings", {"truncation": False}),
        ("/v1/multimodalembeddings", {"truncation": False}),
        ("/v2/embed", {"truncate": "NONE"}),
    ],
)
def test_a_text_that_must_not_be_cut(url: str, path: str, changes: dict[str, Any]) -> None:
    long_text = "red " * 400
    assert post(url, path, BODIES[path]([long_text])).status_code == 200
    answer = post(url, path, BODIES[path]([long_text]) | changes)
    assert answer.status_code == 400
    assert "tokens more than the model reads" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/embeddings", "dimensions"),
        ("/v1/embeddings", "output_dimension"),
        ("/v1/multimodalembeddings", "output_dimension"),
        ("/v2/embed", "output_dimension"),
    ],
)
def test_other_dimensions_than_the_models(url: str, path: str, field: str) -> None:
    answer = post(url, path, BODIES[path](["red"]) | {field: 7})
    assert answer.status_code == 400
    assert "model tiny has" in answer.json()["detail"]


@pytest.mark.parametrize("body", [{}, {"texts": ["red"], "images": ["data:,"]}])
def test_cohere_takes_inputs_of_one_kind(url: str, body: dict[str, Any]) -> None:
    answer = post(url, "/v2/embed", body)
    assert answer.status_code == 400
    assert "exactly one of texts, images and inputs" in answer.json()["detail"]
