"""The LangChain and LlamaIndex retrievers of examples/ in the real packages, over a whole service with a model of a few lines."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from example_files import EXAMPLES, load_example
from fake_runtime import FakeRuntime
from needs import needed
from threaded_server import serving

from model.errors import NotFound
from service.client.client import Client
from service.settings import Settings
from service.wiring import build


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("retrievers")
    with serving(lambda: build(Settings(data_dir=folder), FakeRuntime())) as url:
        yield url


@pytest.fixture
def client(url: str, make_image: Callable[..., bytes]) -> Iterator[Client]:
    with Client(url) as client:
        client.create_collection("birds")
        documents = [
            {"id": "robin", "text": "robin red breast", "image": make_image("red"), "metadata": {"legs": 2}},
            {"id": "wren", "text": "wren small brown", "metadata": {"legs": 2}},
            {"id": "spider", "text": "not a wren", "metadata": {"legs": 8}},
        ]
        client.load("birds", documents)
        yield client


@pytest.fixture
def picture(tmp_path: Path, make_image: Callable[..., bytes]) -> Path:
    path = tmp_path / "red.png"
    path.write_bytes(make_image("red", (20, 10)))
    return path


async def test_langchain(client: Client, picture: Path) -> None:
    needed("langchain_core")
    from langchain_core.runnables import RunnableLambda

    retriever = load_example("langchain_retriever").Ret2Retriever(client=client, collection="birds", limit=2)
    robin, other = retriever.invoke("robin red breast")
    assert (robin.id, robin.page_content) == ("robin", "robin red breast")
    assert robin.metadata["legs"] == 2
    assert robin.metadata["score"] > other.metadata["score"]
    assert client._http.get(robin.metadata["image_url"]).headers["content-type"] == "image/png"
    assert retriever.invoke("", image=picture)[0].id == "robin"
    assert (await retriever.ainvoke("wren small brown"))[0].id == "wren"
    assert [one[0].id for one in retriever.batch(["robin red breast", "wren small brown"])] == ["robin", "wren"]

    first: Any = retriever | RunnableLambda(lambda documents: documents[0].page_content)
    assert first.invoke("wren small brown") == "wren small brown"
    legs = retriever.model_copy(update={"filter": {"field": "legs", "equals": 8}})
    assert [one.id for one in legs.invoke("wren")] == ["spider"]
    with pytest.raises(NotFound):
        retriever.model_copy(update={"collection": "fish"}).invoke("wren")


async def test_llamaindex(client: Client, picture: Path) -> None:
    needed("llama_index.core")
    from llama_index.core import QueryBundle
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
    from llama_index.core.schema import ImageNode

    build_retriever = load_example("llamaindex_retriever").Ret2Retriever
    retriever = build_retriever(client, "birds", limit=2)
    robin, other = retriever.retrieve("robin red breast")
    assert (robin.node.id_, robin.text, robin.metadata) == ("robin", "robin red breast", {"legs": 2})
    assert robin.score > other.score
    assert isinstance(robin.node, ImageNode)
    assert client._http.get(robin.node.image_url).headers["content-type"] == "image/png"
    assert retriever.retrieve(QueryBundle("", image_path=str(picture)))[0].node.id_ == "robin"
    assert (await retriever.aretrieve("wren small brown"))[0].node.id_ == "wren"
    legs = build_retriever(client, "birds", where={"field": "legs", "equals": 8})
    assert [one.node.id_ for one in legs.retrieve("wren")] == ["spider"]

    from llama_index.core.llms import MockLLM

    engine = RetrieverQueryEngine.from_args(
        retriever,
        llm=MockLLM(),
        response_synthesizer=get_response_synthesizer(llm=MockLLM(), response_mode=ResponseMode.COMPACT),
    )
    assert "wren small brown" in str(engine.query("wren small brown"))  # the mock repeats its prompt


@pytest.mark.parametrize("name", ["langchain_retriever", "llamaindex_retriever"])
def test_as_commands(name: str, url: str, client: Client, picture: Path) -> None:
    needed({"langchain_retriever": "langchain_core", "llamaindex_retriever": "llama_index.core"}[name])
    command = [sys.executable, f"{EXAMPLES}/{name}.py", "birds", "robin", "--image", str(picture), "--url", url]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].endswith("robin  robin red breast")
