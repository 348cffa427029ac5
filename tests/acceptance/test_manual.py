"""The manual's commands and requests, run in their order against a real server. What a page says is printed is looked for.

A block of ```bash is run; ```console is for reading. `<!-- prints: WORDS -->` after a block is what its output holds; `<!-- keep -->` puts
it before every later block of the page, as variables that a reader has set.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("index.md", "http.md", "search.md", "imports.md")
_BLOCK = re.compile(r"^```bash\n(?P<script>.*?)^```\n(?:<!-- (?P<note>[^\n]*) -->\n)?", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    script: str
    prints: str | None
    kept: bool


def blocks(page: str) -> list[Block]:
    found = []
    for match in _BLOCK.finditer((DOCS / page).read_text()):
        note = match["note"] or ""
        prints = note.removeprefix("prints: ") if note.startswith("prints: ") else None
        assert note == "keep" or prints is not None, f"{page}: nothing says what this prints:\n{match['script']}"
        found.append(Block(match["script"], prints, note == "keep"))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_works(
    page: str, serve: Any, tmp_path: Path, make_image: Callable[..., bytes]
) -> None:
    serve.flags = [f"--import-roots={tmp_path}"]
    serve.start()
    for colour in ("red", "green", "blue"):
        (tmp_path / f"{colour}.png").write_bytes(make_image(colour))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "RET2_URL": serve.url, "COLUMNS": "200"}
    kept = ""
    for block in blocks(page):
        script = block.script.replace("http://127.0.0.1:8080", serve.url)
        if block.kept:
            kept += script
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", kept + script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{block.script}\n{done.stdout}\n{done.stderr}"
        assert block.prints in done.stdout, f"{block.script}\n{done.stdout}\n{done.stderr}"


def test_pages_with_commands_are_run() -> None:
    """A page that begins to have commands is not left out by mistake."""
    with_commands = {path.name for path in DOCS.glob("*.md") if _BLOCK.search(path.read_text())}
    assert with_commands - set(PAGES) == set()
