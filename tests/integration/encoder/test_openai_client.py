"""/v1/embeddings and /v1/models by the real `openai` client: over a tiny real model, and over a fake one that can be held and fail."""

import base64
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runtime import D, FakeRuntime
from needs import needed
from threaded_server import serving

from service.client.client import Client
from service.keys import Key, KeyScope, line_of
from service.settings import Settings
from service.wiring import build

openai = needed("openai")
needed("torch")

BOS_EOS = 2
PATCHES = 16 + 1  # of the tiny model's vision tower: 4 x 4 and its class token


def client_of(url: str, **options: Any) -> Any:
    """Without retries, unless a test is about them; a proxy of the environment could not reach this machine."""
    options = {"api_key": "none", "max_retries": 0, **options}
    return openai.OpenAI(base_url=f"{url}/v1", http_client=openai.DefaultHttpxClient(trust_env=False), **options)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from tiny_model import write_tiny_checkpoint

    folder: Path = tmp_path_factory.mktemp("openai")
    model = write_tiny_checkpoint(folder / "model")
    with serving(
        lambda: build(
            Settings(data_dir=folder / "data", models=f"tiny={model}", max_inputs_per_call=4, max_embeddings_per_call=8)
        )
    ) as url:
        yield url


@pytest.fixture
def client(tiny: str) -> Iterator[Any]:
    with client_of(tiny) as client:
        yield client


@pytest.fixture
def serve(tmp_path: Path, runtime: FakeRuntime) -> Iterator[Callable[..., Any]]:
    """A client of a service with these settings over the fake model."""
    with ExitStack() as stack:

        def start(*, options: dict[str, Any] | None = None, **settings: Any) -> Any:
            url = stack.enter_context(serving(lambda: build(Settings(data_dir=tmp_path, **settings), runtime)))
            return stack.enter_context(client_of(url, **(options or {})))

        yield start
        runtime.gate.set()


def data_uri(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def test_text_in_every_form_is_the_same_embedding_as_encode_s(client: Any, tiny: str) -> None:
    """The client asks for base64 unless told otherwise, and decodes it itself."""
    with Client(tiny) as ours:
        (wanted,) = ours.encode([{"text": "red square"}], role="document")
    by_default = client.embeddings.create(model="tiny", input="red square")
    as_floats = client.embeddings.create(model="tiny", input="red square", encoding_format="float")
    in_list = client.embeddings.create(model="tiny", input=["blue", "red square"])
    parts: Any = [[{"type": "text", "text": "red"}, {"type": "text", "text": "square"}]]
    as_parts = client.embeddings.create(model="tiny", input=parts)
    for answer in (by_default, as_floats, in_list, as_parts):
        assert [one.index for one in answer.data] == list(range(len(answer.data)))
        np.testing.assert_allclose(answer.data[-1].embedding, wanted, atol=1e-6)
        assert (answer.model, answer.object, answer.data[0].object) == ("tiny", "list", "embedding")
    asked = client.embeddings.create(model="tiny", input="red square", encoding_format="base64").data[0].embedding
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(asked), "<f4"), wanted, atol=1e-6)


def test_image_parts(client: Any, tiny: str, make_image: Callable[..., bytes]) -> None:
    image = make_image("red", (40, 30))
    with Client(tiny) as ours:
        alone, both = ours.encode([{"image": image}, {"text": "what is this", "image": image}], role="query")
    part = {"type": "image_url", "image_url": {"url": data_uri(image), "detail": "auto"}}
    inputs: Any = [[part], [{"type": "text", "text": "what is this"}, part]]
    answer = client.embeddings.create(model="tiny", input=inputs, extra_body={"input_type": "query"})
    np.testing.assert_allclose([one.embedding for one in answer.data], [alone, both], atol=1e-5)
    # The parts of one input, not in a list of inputs, and the image as a plain string.
    one_input: Any = [{"type": "text", "text": "what is this"}, {"type": "image_url", "image_url": data_uri(image)}]
    (single,) = client.embeddings.create(model="tiny", input=one_input).data
    np.testing.assert_allclose(single.embedding, both, atol=1e-5)


def test_usage_counts_tokens_and_patches(client: Any, make_image: Callable[..., bytes]) -> None:
    text = client.embeddings.create(model="tiny", input=["red square", "blue"]).usage
    assert text.prompt_tokens == text.total_tokens == 2 + BOS_EOS + 1 + BOS_EOS
    part: Any = [[{"type": "image_url", "image_url": {"url": data_uri(make_image())}}]]
    assert client.embeddings.create(model="tiny", input=part).usage.total_tokens == PATCHES


def test_dimensions_are_the_model_s_or_refused(client: Any) -> None:
    assert len(client.embeddings.create(model="tiny", input="red", dimensions=16).data[0].embedding) == 16
    with pytest.raises(openai.BadRequestError, match="dimensions is 8, but model tiny has 16 and no others") as raised:
        client.embeddings.create(model="tiny", input="red", dimensions=8)
    assert raised.value.param == "dimensions"


def test_models(client: Any) -> None:
    (listed,) = client.models.list()
    assert (listed.id, listed.object, listed.owned_by, listed.dimensions) == ("tiny", "model", "ret2", 16)
    assert client.models.retrieve("tiny") == listed
    for unknown in ("text-embedding-3-small", "org/name"):
        with pytest.raises(openai.NotFoundError, match="there is no model") as raised:
            client.models.retrieve(unknown)
        assert (raised.value.type, raised.value.code) == ("not_found_error", "model_not_found")


def test_wrong_inputs_say_what_is_wrong(client: Any) -> None:
    """The message reaches the exception's text, the code and the field its attributes, the request's id its own."""
    cases: list[tuple[Any, type[Exception], str, str]] = [
        ("", openai.BadRequestError, r"input\[0\]: neither text nor image", "input[0]"),
        ([], openai.BadRequestError, "input is an empty list", "input"),
        (["red", ""], openai.BadRequestError, r"input\[1\]", "input[1]"),
        ([1, 2, 3], openai.BadRequestError, "token ids", "input"),
        ([[1, 2], [3]], openai.BadRequestError, "token ids", "input"),
        (["red"] * 9, openai.APIStatusError, "9 inputs in one call, limit is 8", "input"),
        (["red", 5.5], openai.UnprocessableEntityError, "5.5", "input"),
    ]
    for given, kind, message, param in cases:
        with pytest.raises(kind, match=message) as raised:
            client.embeddings.create(model="tiny", input=given)
        error: Any = raised.value
        assert error.type == "invalid_request_error"
        assert error.param.startswith(param)
        assert error.request_id


def test_no_such_path(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="/v1/completions"):
        client.completions.create(model="tiny", prompt="red")


def test_keys(serve: Callable[..., Any], tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(line_of("correct horse battery staple", Key("app", frozenset({KeyScope.SEARCH}))) + "\n")
    client = serve(api_keys_file=keys, options={"api_key": "wrong"})
    with pytest.raises(openai.AuthenticationError, match="no valid API key") as raised:
        client.embeddings.create(model="fake", input="red")
    assert (raised.value.type, raised.value.code) == ("authentication_error", "unauthorized")
    right = client.with_options(api_key="correct horse battery staple")
    assert len(right.embeddings.create(model="fake", input="red").data[0].embedding) == D


def test_overload_is_429_and_the_client_comes_back(serve: Callable[..., Any], runtime: FakeRuntime) -> None:
    client = serve(max_search_queue_cost=1, max_batch_cost=1)
    ask = partial(client.embeddings.create, model="fake", input="red", extra_body={"input_type": "query"})
    runtime.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        try:
            in_model = pool.submit(ask)
            wait_for(lambda: len(runtime.batches) == 1)
            in_queue = pool.submit(ask)
            wait_for(lambda: len(runtime.prepared) == 2)
            with pytest.raises(openai.RateLimitError) as raised:
                ask()
            assert raised.value.type == "rate_limit_error"
            assert int(raised.value.response.headers["retry-after"]) >= 1
            threading.Timer(0.5, runtime.gate.set).start()
            again = client.with_options(max_retries=5).embeddings.create
            for answer in (again(**ask.keywords), in_model.result(30), in_queue.result(30)):
                assert len(answer.data[0].embedding) == D
        finally:
            runtime.gate.set()


def wait_for(condition: Callable[[], bool], timeout_s: float = 8) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not so after {timeout_s} s"
        time.sleep(0.01)


def test_what_does_not_answer_is_504(serve: Callable[..., Any], runtime: FakeRuntime) -> None:
    client = serve(request_timeout_s=0.2)
    runtime.gate.clear()
    with pytest.raises(openai.InternalServerError, match=r"no answer within 0\.2 s") as raised:
        client.embeddings.create(model="fake", input="red")
    assert (raised.value.status_code, raised.value.code) == (504, "timed_out")
    assert int(raised.value.response.headers["retry-after"]) >= 1


def test_a_failed_forward_is_500(serve: Callable[..., Any], runtime: FakeRuntime) -> None:
    client = serve()

    def fail(_texts: list[str]) -> None:
        raise RuntimeError("broken")

    runtime.on_forward = fail
    with pytest.raises(openai.InternalServerError) as raised:
        client.embeddings.create(model="fake", input="red")
    assert (raised.value.status_code, raised.value.type) == (500, "server_error")
