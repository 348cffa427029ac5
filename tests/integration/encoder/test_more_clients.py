"""Clients of /v1/embeddings that do not fit into this environment, each in one of its own: `make test-clients`."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from needs import needed
from threaded_server import serving

from service.client.client import Client
from service.settings import Settings
from service.wiring import build

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get("RET2_TEST_CLIENTS"), reason="installs the clients of others: make test-clients"
    ),
]
needed("torch")

# A package and a program that prints the embedding of "red", as JSON.
PROGRAMS = {
    "chromadb": """
from chromadb.utils.embedding_functions import OpenAIEmbeddingFunction
embed = OpenAIEmbeddingFunction(api_key="none", api_base=URL, model_name="tiny")
print(json.dumps([float(value) for value in embed(["red"])[0]]))
""",
    "dspy": """
import dspy
embed = dspy.Embedder("openai/tiny", api_base=URL, api_key="none", caching=False)
print(json.dumps([float(value) for value in embed(["red"])[0]]))
""",
    "haystack-ai": """
from haystack.components.embedders import OpenAITextEmbedder
from haystack.utils import Secret
embedder = OpenAITextEmbedder(api_key=Secret.from_token("none"), model="tiny", api_base_url=URL)
print(json.dumps(embedder.run("red")["embedding"]))
""",
    "llama-index-embeddings-openai-like": """
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
embedding = OpenAILikeEmbedding(model_name="tiny", api_base=URL, api_key="none")
print(json.dumps(embedding.get_text_embedding("red")))
""",
}
NODE = """
const OpenAI = require("openai").default;
const client = new OpenAI({baseURL: process.argv[2], apiKey: "none"});
client.embeddings.create({model: "tiny", input: "red"})
  .then((answer) => console.log(JSON.stringify(answer.data[0].embedding)));
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    from tiny_model import write_tiny_checkpoint

    folder: Path = tmp_path_factory.mktemp("clients")
    model = write_tiny_checkpoint(folder / "model")
    with serving(lambda: build(Settings(data_dir=folder / "data", models=f"tiny={model}"))) as url:
        yield url


def check(url: str, printed: str) -> None:
    with Client(url) as client:
        expected = client.encode([{"text": "red"}], role="document")
    np.testing.assert_allclose(json.loads(printed.strip().splitlines()[-1]), np.asarray(expected)[0], atol=1e-6)


def run(*command: str, folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"NO_PROXY": "127.0.0.1", "ANONYMIZED_TELEMETRY": "False", "HAYSTACK_TELEMETRY_ENABLED": "False"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("package", PROGRAMS)
def test_python(package: str, url: str, tmp_path: Path) -> None:
    program = f"import json\nURL = {url + '/v1'!r}\n" + PROGRAMS[package]
    uv = (sys.executable, "-m", "uv", "run", "--no-project", "--python", sys.executable, "--with", package)
    check(url, run(*uv, "python", "-c", program, folder=tmp_path))


def test_node(url: str, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    (tmp_path / "program.js").write_text(NODE)
    run("npm", "install", "--silent", "openai", folder=tmp_path)
    check(url, run("node", "program.js", f"{url}/v1", folder=tmp_path))
