"""The page over the bundled model and a part of atlas: a flag with a question finds its passage.

UPDATE_DOCS=1 writes the manual's pictures.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect, sync_playwright

from model.evaluation.atlas import Atlas
from service.cli.demo import FIELDS, atlas_documents

IMAGES = Path(__file__).parents[2] / "docs" / "images"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
PART = 240


@pytest.mark.timeout(300)
def test_a_flag_and_a_question_on_the_page(serve: Any, tmp_path: Path, need: Callable[[bool, str], None]) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    need(chromium is not None, "Chromium, from the package chromium")
    atlas = Atlas.read()
    client = serve.start()
    client.create_collection("atlas", indexes=FIELDS)
    flags = [document for document in atlas_documents(atlas) if document["metadata"].get("part") == "flags"]
    client.load("atlas", list(islice(flags, PART)))
    broken = {
        "id": "flag:xx/capital",
        "text": "A flag that is not there",
        "image": {"url": "http://127.0.0.1/flag.png"},
    }
    list(client.post_documents("atlas", [broken, {**broken, "id": "flag:xx/area", "image": None}]))
    subjects = {document.subject for document in atlas.documents if document.id in {one["id"] for one in flags[:PART]}}
    asked = next(one for one in atlas.queries if one.subject in subjects and one.topic == "capital")
    picture = tmp_path / "flag.png"
    picture.write_bytes(atlas.images[asked.image_ids[-1]])
    client.search("atlas", asked.question, picture)  # the first search of a process is slower than those after it
    hosts: set[str] = set()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        for name, width, height, scheme in (("search", 1280, 900, "light"), ("phone", 390, 844, "dark")):
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
            page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
            page.goto(serve.url)
            expect(page.get_by_role("button", name="More like flag:").first).to_be_visible()
            page.get_by_label("Question or words").fill(asked.question)
            page.locator("#file").set_input_files(picture)
            expect(page.get_by_role("status")).to_contain_text("hits")
            first = page.get_by_label("Hits").get_by_role("listitem").first
            expect(first).to_contain_text(asked.positive_id)
            expect(first.get_by_role("img", name="query, layer 1")).to_be_visible()
            page.wait_for_timeout(500)  # the pictures
            _shot(page, name)
        page = browser.new_page(viewport={"width": 1280, "height": 600})
        page.goto(f"{serve.url}/?view=work")
        job = page.get_by_role("article").first
        expect(job.get_by_text("succeeded with failures")).to_be_visible()
        job.get_by_role("button", name="Show failures").click()
        expect(job.get_by_role("row").nth(1)).to_contain_text("which is not a public one")
        page.mouse.move(0, 0)
        _shot(page, "jobs")
        browser.close()
    assert hosts <= {urlsplit(serve.url).netloc, ""}, "the page asked another host"


def _shot(page: Any, name: str) -> None:
    if os.environ.get("UPDATE_DOCS"):
        IMAGES.mkdir(exist_ok=True)
        page.screenshot(path=IMAGES / f"{name}.png")
