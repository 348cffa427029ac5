"""The manual's commands, requests and Python, run in their order against a real server. What a page says is printed is looked for.

Blocks of ```bash and ```python are run, each with a note after it: `<!-- prints: WORDS -->` is what its output holds,
`<!-- fails: WORDS -->` the same of one that ends with an error, and `<!-- keep -->` puts it before every later block of the page, as
variables that a reader has set.
What is not run is ```console, with its reason: `<!-- not run: REASON -->`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from model.evaluation.atlas import Atlas

ROOT = Path(__file__).parents[2]
PAGES = sorted(str(path.relative_to(ROOT)) for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(
    r"^```(?P<language>\w*)\n(?P<script>.*?)^```\n(?:<!-- (?P<note>[^\n]*) -->\n)?", re.MULTILINE | re.DOTALL
)
_COMMANDS = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
_READ_ONLY = {"json", "text", "yaml"}  # neither command nor request


@dataclass(frozen=True)
class Block:
    language: str
    script: str
    kind: str  # prints, fails, keep
    words: str


def blocks(page: str) -> list[Block]:
    """Those that are run."""
    found = []
    for match in _BLOCK.finditer((ROOT / page).read_text()):
        kind, _, words = (match["note"] or "").partition(":")
        block = Block(match["language"], match["script"], kind, words.strip())
        if block.language in _COMMANDS:
            assert kind in ("prints", "fails", "keep"), f"{page}: nothing says what this prints:\n{block.script}"
            found.append(block)
        elif block.language == "console":
            assert kind == "not run", f"{page}: nothing says why this is not run:\n{block.script}"
            assert words.strip(), page
        else:
            assert block.language in _READ_ONLY, f"{page}: is this to be run, or not?\n{block.script}"
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_whether_it_is_run(page: str) -> None:
    blocks(page)
    beside = _BLOCK.sub("", (ROOT / page).read_text())
    indented = re.search(r"\n\n( {4}[^\n]*)", beside)
    assert indented is None, f"{page}: code that is only indented says nothing about itself: {indented and indented[1]}"


@pytest.mark.timeout(400)  # a page has a dozen commands, each a process of its own
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
def test_every_command_of_the_page_works(page: str, serve: Any, tmp_path: Path) -> None:
    serve.flags = [f"--import-roots={tmp_path}"]
    if page != "README.md":  # its requests are for what `make demo` serves
        serve.model = None
    (tmp_path / "datasets").symlink_to(ROOT / "datasets")  # commands that are run in the clone
    client = serve.start()
    if page == "README.md":  # a little of what `make demo` has loaded
        client.create_collection("atlas")
        client.load("atlas", [{"id": document.id, "text": document.text} for document in Atlas.read().documents[:60]])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    (tmp_path / ".curlrc").write_text("fail-with-body\n")  # one of several requests cannot fail unseen
    environment = {**os.environ, "PATH": path, "CURL_HOME": str(tmp_path), "RET2_URL": serve.url, "COLUMNS": "200"}
    kept = ""
    for block in blocks(page):
        script = block.script.replace("http://127.0.0.1:8080", serve.url)
        if block.kind == "keep":
            kept += script
            continue
        done = subprocess.run(
            [*_COMMANDS[block.language], kept + script if block.language == "bash" else script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        said = f"{block.script}\n{done.stdout}\n{done.stderr}"
        assert (done.returncode != 0) == (block.kind == "fails"), said
        assert block.words in done.stdout, said
