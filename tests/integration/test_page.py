"""The page at `/` in a real browser, over the whole application with a fake model."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from threaded_server import serving

from service.assembly import build
from service.client import Client
from service.keys import Key, KeyScope, line_of
from service.settings import Settings

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
COLOURS = ("red", "green", "blue")
SECRET = "a key that opens the page"


@pytest.fixture(scope="module")
def browser(need: Callable[[bool, str], None]) -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    need(chromium is not None, "Chromium, from the package chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield running
        running.close()


class Site:
    """A running service, a client of it, and pages that must neither complain nor reach another host."""

    def __init__(self, url: str, browser: Browser, stack: ExitStack, api_key: str | None = None) -> None:
        self.url, self._browser, self._stack = url, browser, stack
        self.client = stack.enter_context(Client(url, api_key=api_key))
        self.complaints: list[str] = []
        self.hosts: set[str] = set()

    def page(self, path: str = "", **options: Any) -> Page:
        page = self._browser.new_context(**options).new_page()
        self._stack.callback(page.context.close)
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self._hear(said.type, said.text))
        page.goto(f"{self.url}/{path}")
        return page

    def _hear(self, kind: str, text: str) -> None:
        # That an answer was no 2xx is said by the browser itself, of requests whose refusal the page shows.
        if kind in ("error", "warning") and "the server responded with a status of" not in text:
            self.complaints.append(text)

    def load(self, make_image: Callable[..., bytes], collection: str = "colours") -> None:
        self.client.create_collection(collection)
        self.client.load(
            collection,
            [
                {"id": colour, "text": f"a {colour} square", "image": make_image(colour), "metadata": {"side": side}}
                for side, colour in enumerate(COLOURS)
            ],
        )


@pytest.fixture
def serve(browser: Browser, runtime: Any, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    with ExitStack() as stack:
        sites: list[Site] = []

        def start(api_key: str | None = None, **settings: Any) -> Site:
            url = stack.enter_context(serving(lambda: build(Settings(data_dir=tmp_path / "data", **settings), runtime)))
            sites.append(Site(url, browser, stack, api_key))
            return sites[-1]

        yield start
        runtime.gate.set()
    for site in sites:
        assert site.complaints == []
        assert site.hosts <= {urlsplit(site.url).netloc, ""}, "the page asked another host"


@pytest.fixture
def site(serve: Callable[..., Site], make_image: Callable[..., bytes]) -> Site:
    running = serve()
    running.load(make_image)
    return running


def asked(page: Page, words: str) -> None:
    page.get_by_label("Question or words").fill(words)
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("hits")


def drop(page: Page, content: bytes, name: str, kind: str = "drop") -> None:
    """A file dropped on the page or pasted into it, as a browser hands it over."""
    page.evaluate(
        """([content, name, kind]) => {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], name, {type: name.endsWith("png") ? "image/png" : ""}));
            const event = kind === "drop"
              ? new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})
              : new ClipboardEvent("paste", {clipboardData: data, bubbles: true, cancelable: true});
            document.querySelector("main").dispatchEvent(event);
        }""",
        [base64.b64encode(content).decode(), name, kind],
    )


def first_hit(page: Page) -> Any:
    return page.get_by_label("Hits").get_by_role("listitem").first


def test_nothing_loaded_yet_says_how_to_begin(serve: Callable[..., Site], make_image: Callable[..., bytes]) -> None:
    site = serve()
    page = site.page()
    expect(page.get_by_text("There is nothing to search yet")).to_be_visible()
    expect(page.get_by_text(f"--url {site.url}")).to_be_visible()
    site.load(make_image)
    page.get_by_role("button", name="Look again").click()
    asked(page, "red")
    expect(first_hit(page)).to_contain_text("a red square")


def test_words_find_and_the_address_can_be_shared(site: Site) -> None:
    page = site.page()
    asked(page, "a blue square")
    hit = first_hit(page)
    expect(hit).to_contain_text("a blue square")
    expect(hit).to_contain_text("side")
    image = hit.locator("img")
    expect(image).to_be_visible()
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    expect(page.get_by_role("status")).to_contain_text("model")
    other = site.page(page.url.removeprefix(f"{site.url}/"))
    expect(first_hit(other)).to_contain_text("a blue square")
    expect(other.get_by_label("Question or words")).to_have_value("a blue square")


@pytest.mark.parametrize("way", ["drop", "paste", "choose"])
def test_a_picture_finds(site: Site, way: str, make_image: Callable[..., bytes], tmp_path: Path) -> None:
    page = site.page()
    expect(page.get_by_role("combobox", name="Collection")).to_contain_text("colours")
    if way == "choose":
        (tmp_path / "green.png").write_bytes(make_image("green"))
        page.locator("#file").set_input_files(tmp_path / "green.png")
    else:
        drop(page, make_image("green"), "green.png", way)
    expect(first_hit(page)).to_contain_text("a green square")
    expect(page.get_by_alt_text("The picture that is searched with")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("not the picture")
    page.get_by_role("button", name="Remove the picture").click()
    expect(page.get_by_alt_text("The picture that is searched with")).to_be_hidden()
    again = site.page(page.url.removeprefix(f"{site.url}/"))
    expect(again.get_by_role("status")).to_contain_text("drop it here again")


def test_what_is_no_picture_is_refused_and_the_next_search_works(site: Site) -> None:
    page = site.page()
    expect(page.get_by_role("combobox", name="Collection")).to_contain_text("colours")
    drop(page, b"<html>no picture</html>", "page.png")
    trouble = page.get_by_role("alert")
    expect(trouble).to_contain_text("HTML")
    expect(trouble).to_contain_text("Request")
    page.get_by_role("button", name="Remove the picture").click()
    asked(page, "red")
    expect(first_hit(page)).to_contain_text("red")
    expect(trouble).to_be_hidden()


def test_a_picture_over_the_limit_is_made_smaller(serve: Callable[..., Site], make_image: Callable[..., bytes]) -> None:
    site = serve(max_image_bytes=2000)
    site.load(make_image)
    page = site.page()
    expect(page.get_by_role("combobox", name="Collection")).to_contain_text("colours")
    drop(page, make_image("red") + bytes(4000), "red.png")
    expect(page.get_by_role("status")).to_contain_text("was made smaller here")
    expect(first_hit(page)).to_be_visible()


def test_more_like_this(site: Site) -> None:
    page = site.page()
    asked(page, "red")
    page.get_by_role("button", name="More like red").click()
    expect(page.get_by_text("More like red×")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("2 hits")
    assert "like=red" in page.url
    page.get_by_role("button", name="No longer like this document").click()
    expect(page.get_by_text("More like red×")).to_be_hidden()


def test_a_page_at_a_time(serve: Callable[..., Site]) -> None:
    site = serve()
    site.client.create_collection("many")
    site.client.load("many", [{"id": f"{n:02}", "text": f"red {n}"} for n in range(30)])
    page = site.page()
    asked(page, "red")
    hits = page.get_by_label("Hits").get_by_role("listitem")
    expect(hits).to_have_count(24)
    page.get_by_role("button", name="More", exact=True).click()
    expect(hits).to_have_count(30)
    expect(page.get_by_role("button", name="More", exact=True)).to_be_hidden()
    assert len({hits.nth(n).locator(".id").inner_text() for n in range(30)}) == 30


def test_keys_alone_are_enough(site: Site) -> None:
    page = site.page()
    expect(page.get_by_role("combobox", name="Collection")).to_contain_text("colours")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Question or words")).to_be_focused()
    page.keyboard.type("green")
    page.keyboard.press("Enter")
    expect(first_hit(page)).to_contain_text("green")
    page.keyboard.press("Escape")
    expect(page.get_by_label("Question or words")).to_have_value("")
    expect(page.get_by_label("Hits").get_by_role("listitem")).to_have_count(0)


def test_a_service_that_is_gone_is_said(browser: Browser, runtime: Any, tmp_path: Path) -> None:
    with ExitStack() as stack:
        with serving(lambda: build(Settings(data_dir=tmp_path / "data"), runtime)) as url:
            site = Site(url, browser, stack)
            site.client.create_collection("colours")
            page = site.page()
            expect(page.get_by_role("combobox", name="Collection")).to_contain_text("colours")
        page.get_by_label("Question or words").fill("red")
        page.get_by_role("button", name="Search", exact=True).click()
        expect(page.get_by_role("alert")).to_contain_text("The service does not answer")


def test_a_key_is_asked_for_and_kept_for_the_tab(
    serve: Callable[..., Site], make_image: Callable[..., bytes], tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(line_of(SECRET, Key("page", frozenset(KeyScope))) + "\n")
    site = serve(api_key=SECRET, api_keys_file=keys)
    site.load(make_image)
    page = site.page()
    page.get_by_label("This service wants an API key").fill("not this one, surely")
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_label("This service wants an API key")).to_be_visible()
    page.get_by_label("This service wants an API key").fill(SECRET)
    page.get_by_role("button", name="Use it").click()
    asked(page, "red")
    image = first_hit(page).locator("img")
    assert image.evaluate("image => image.decode().then(() => image.src)").startswith("blob:")
    page.reload()
    expect(first_hit(page)).to_contain_text("red")
    assert page.evaluate("localStorage.length") == 0


def test_a_job_is_followed_while_it_runs(site: Site, runtime: Any) -> None:
    runtime.gate.clear()
    site.client.post_documents(
        "colours", [{"id": f"new-{n}", "text": f"new {n}"} for n in range(5)]
    ).__iter__().__next__()
    page = site.page("?view=work")
    job = page.get_by_role("article").first
    expect(job.get_by_role("progressbar")).to_be_visible()
    expect(job).to_contain_text("5 accepted")
    runtime.gate.set()
    expect(job).to_contain_text("5 indexed")
    expect(job.get_by_text("succeeded")).to_be_visible()
    expect(page.get_by_label("Collections", exact=True)).to_contain_text("8")


def test_what_failed_is_listed_with_its_reason(site: Site) -> None:
    list(site.client.post_documents("colours", [{"id": "gone", "image": {"url": "http://127.0.0.1:9/x.png"}}]))
    page = site.page("?view=work")
    page.get_by_role("button", name="Show failures").first.click()
    row = page.get_by_role("row").filter(has_text="gone")
    expect(row).to_contain_text("127.0.0.1")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("path", ["?q=a+red+square", "?view=work"])
def test_everybody_can_use_it_at_any_width(site: Site, path: str, width: int, scheme: Any) -> None:
    page = site.page(path, viewport={"width": width, "height": 800}, color_scheme=scheme)
    ready = first_hit(page) if "q=" in path else page.get_by_role("article").first
    expect(ready).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "it scrolls sideways"
    spec = find_spec("axe_playwright_python")
    assert spec is not None
    assert spec.origin is not None
    # The policy of the page lets no foreign script in, and evaluating is not loading one.
    page.evaluate(Path(spec.origin).with_name("axe.min.js").read_text())
    found = page.evaluate("axe.run()")["violations"]
    assert not found, json.dumps([(one["id"], [node["html"] for node in one["nodes"]]) for one in found], indent=1)
