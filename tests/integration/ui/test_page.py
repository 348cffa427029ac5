"""The page at `/` in a real browser, over the whole application with a fake model."""

from __future__ import annotations

import base64
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import httpx
import pytest
from fake_runtime import FakeRuntime
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from threaded_server import serving

from service.client.client import Client
from service.keys import Key, KeyScope, line_of
from service.settings import Settings
from service.wiring import build

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
COLOURS = ("red", "green", "blue")
SECRET, SEARCHER = "a key that opens the page", "a key for searches alone"
FIELDS = {
    "brand": "keyword",
    "caption": "text",
    "price": "number",
    "sold": "datetime",
    "new": "bool",
    "from": "geo",
}
SHOES = {
    "boot": {
        "brand": "Ada, Ltd",
        "caption": "high and warm",
        "price": 149,
        "sold": "2026-03-31T22:00:00Z",
        "new": True,
        "from": {"lat": 52.52, "lon": 13.405},
    },
    "clog": {
        "brand": "Bell",
        "caption": "low and warm",
        "price": 45,
        "sold": "2026-04-01T09:00:00Z",
        "new": False,
        "from": {"lat": 48.86, "lon": 2.35},
    },
}


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

    def check(self) -> None:
        assert self.complaints == []
        assert self.hosts <= {urlsplit(self.url).netloc, ""}, "the page asked another host"

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
    """A service of its own, for what the shared one is not: empty, with keys, with other bounds."""
    with ExitStack() as stack:
        sites: list[Site] = []

        def start(api_key: str | None = None, **settings: Any) -> Site:
            url = stack.enter_context(serving(lambda: build(Settings(data_dir=tmp_path / "data", **settings), runtime)))
            sites.append(Site(url, browser, stack, api_key))
            return sites[-1]

        yield start
        runtime.gate.set()
    for site in sites:
        site.check()


@pytest.fixture(scope="module")
def model() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture(scope="module")
def shared(model: FakeRuntime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the one service of most tests: `colours` with pictures, `shop` with all six types of fields, and `many`,
    filled by more jobs than a page of them shows."""
    folder = tmp_path_factory.mktemp("page")
    with serving(lambda: build(Settings(data_dir=folder), model)) as url, Client(url) as client:
        client.create_collection("shop", indexes=FIELDS, language="english")
        client.load("shop", [{"id": name, "text": f"a shoe, {name}", "metadata": one} for name, one in SHOES.items()])
        client.create_collection("many")
        for n in range(31):
            list(client.post_documents("many", [{"id": f"{n:02}", "text": f"red {n}"}]))
        client.create_collection("fails")
        yield url
        model.gate.set()


@pytest.fixture
def site(shared: str, model: FakeRuntime, browser: Browser, make_image: Callable[..., bytes]) -> Iterator[Site]:
    with ExitStack() as stack:
        running = Site(shared, browser, stack)
        if "colours" not in [one.name for one in running.client.collections()]:
            running.load(make_image)
        yield running
        model.gate.set()
        model.on_forward = lambda _texts: None
    running.check()


def asked(page: Page, words: str) -> None:
    page.get_by_label("Question or words").fill(words)
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("hits")


def drag(page: Page, file: Path, *, taken: bool = True) -> None:
    """As a person does from another window: the browser asks the page about each step, and opens the file itself if it refuses."""
    devtools = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
    for step in ("dragEnter", "dragOver", "drop"):
        if step == "drop":
            expect(page.locator("body")).to_have_class("dropping" if taken else "")
        devtools.send("Input.dispatchDragEvent", {"type": step, "x": 200, "y": 500, "data": data})
    expect(page.locator("body")).not_to_have_class("dropping")


def hand_over(page: Page, content: bytes, name: str, kind: str = "drop") -> None:
    """A file as the event of a browser holds it."""
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


def opened(site: Site, collection: str = "colours") -> Page:
    """With the controls of the collection, and what it offers to begin with."""
    page = site.page(f"?collection={collection}")
    expect(page.get_by_role("combobox", name="Collection")).to_have_value(collection)
    return page


def ids(page: Page) -> list[str]:
    """Of the hits, once the search has ended."""
    expect(page.get_by_role("status")).to_contain_text(re.compile("hit|Nothing was found"))
    return [one.split()[0] for one in page.locator(".hit .id").all_inner_texts()]


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


def test_a_hit_shows_its_thumbnail_and_a_click_the_large_one(
    serve: Callable[..., Site], make_image: Callable[..., bytes]
) -> None:
    site = serve()
    site.client.create_collection("colours")
    picture = make_image("red", (1600, 800))
    site.client.load("colours", [{"id": "red", "text": "a red square", "image": picture}])
    page = site.page()
    widths: list[str] = []
    page.on("request", lambda request: widths.extend(parse_qs(urlsplit(request.url).query).get("width", [])))
    page.goto(f"{site.url}/?collection=colours&q=red")
    small = first_hit(page).locator("img")
    assert small.evaluate("image => image.decode().then(() => image.naturalWidth)") == 256
    assert set(widths) == {"256"}
    opener = page.get_by_role("button", name="Show the picture of red larger")
    opener.press("Enter")
    dialog = page.get_by_role("dialog", name="Picture of red")
    large = dialog.get_by_role("img", name="Picture of red")
    assert large.evaluate("image => image.decode().then(() => image.naturalWidth)") == 1024
    assert set(widths) == {"256", "1024"}
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(opener).to_be_focused()
    opener.click()
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_have_count(0)
    site.check()


def test_words_find_and_the_address_can_be_shared(site: Site) -> None:
    page = site.page("?collection=colours")
    asked(page, "a blue square")
    hit = first_hit(page)
    expect(hit).to_contain_text("a blue square")
    expect(hit).to_contain_text("side")
    image = hit.locator("img")
    expect(image).to_be_visible()
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    expect(page.get_by_role("status")).to_contain_text("model")
    expect(page).to_have_title("Search · ret2")
    other = site.page(page.url.removeprefix(f"{site.url}/"))
    expect(first_hit(other)).to_contain_text("a blue square")
    expect(other.get_by_label("Question or words")).to_have_value("a blue square")


@pytest.mark.parametrize("way", ["drop", "paste", "choose"])
def test_a_picture_finds(site: Site, way: str, make_image: Callable[..., bytes], tmp_path: Path) -> None:
    page = opened(site)
    file = tmp_path / "green.png"
    file.write_bytes(make_image("green"))
    if way == "choose":
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Picture…").press("Enter")
        chooser.value.set_files(file)
    elif way == "drop":
        drag(page, file)
    else:
        hand_over(page, file.read_bytes(), file.name, "paste")
    expect(first_hit(page)).to_contain_text("a green square")
    expect(page.get_by_alt_text("The picture that is searched with")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("does not hold the picture")
    page.get_by_role("button", name="Remove the picture").click()
    expect(page.get_by_alt_text("The picture that is searched with")).to_be_hidden()
    expect(page.get_by_label("Question or words")).to_be_focused()
    again = site.page(page.url.removeprefix(f"{site.url}/"))
    expect(again.get_by_role("status")).to_contain_text("drop it here again")


def test_a_picture_dropped_beside_the_search_does_nothing(
    site: Site, make_image: Callable[..., bytes], tmp_path: Path
) -> None:
    page = site.page("?view=work")
    (tmp_path / "green.png").write_bytes(make_image("green"))
    drag(page, tmp_path / "green.png", taken=False)
    expect(page.get_by_role("link", name="colours")).to_be_visible()
    assert page.url == f"{site.url}/?view=work"


def test_what_is_no_picture_is_refused_and_the_next_search_works(site: Site) -> None:
    page = opened(site)
    hand_over(page, b"<html>no picture</html>", "page.png")
    trouble = page.get_by_role("alert")
    expect(trouble).to_contain_text("HTML")
    expect(trouble).to_contain_text("Request")
    expect(page.get_by_alt_text("The picture that is searched with")).to_be_hidden()
    asked(page, "red")
    expect(first_hit(page)).to_contain_text("red")
    expect(trouble).to_be_hidden()


def test_a_picture_over_the_limit_is_made_smaller(serve: Callable[..., Site], make_image: Callable[..., bytes]) -> None:
    site = serve(max_image_bytes=2000)
    site.load(make_image)
    page = opened(site)
    hand_over(page, make_image("red") + bytes(4000), "red.png")
    expect(page.get_by_role("status")).to_contain_text("was made smaller here")
    expect(first_hit(page)).to_be_visible()


def test_words_and_a_picture_together(site: Site, make_image: Callable[..., bytes]) -> None:
    page = opened(site)
    page.get_by_label("Question or words").fill("a square")
    hand_over(page, make_image("green"), "green.png")
    expect(first_hit(page)).to_contain_text("a green square")
    expect(first_hit(page)).to_contain_text(re.compile(r"without your words \d.\d{3} · without your picture \d.\d{3}"))
    expect(page.get_by_placeholder("Ask about the picture")).to_be_visible()
    other = site.page(page.url.removeprefix(f"{site.url}/"))
    expect(other.get_by_role("status")).to_contain_text("made with a picture, which an address cannot hold")
    expect(other.get_by_role("status")).to_contain_text("3 hits")


def test_back_leads_to_the_search_before(site: Site, make_image: Callable[..., bytes]) -> None:
    """With its picture, though the address does not hold it."""
    page = opened(site)
    question = page.get_by_label("Question or words")
    shown = page.get_by_alt_text("The picture that is searched with")
    asked(page, "red")
    page.get_by_role("combobox", name="Mode").select_option("lexical")
    expect(page.get_by_role("status")).to_contain_text("1 hit.")
    page.get_by_role("combobox", name="Mode").select_option("fused")
    expect(page.get_by_role("status")).to_contain_text("3 hits")
    question.fill("")
    hand_over(page, make_image("green"), "green.png")
    expect(first_hit(page)).to_contain_text("a green square")
    page.get_by_role("button", name="More like green").click()
    expect(page.locator("#like")).to_be_visible()
    expect(shown).to_be_hidden()
    page.go_back()
    expect(first_hit(page)).to_contain_text("a green square")
    expect(shown).to_be_visible()
    expect(page.locator("#like")).to_be_hidden()
    page.go_back()
    expect(question).to_have_value("red")
    expect(shown).to_be_hidden()
    page.go_back()
    expect(page.get_by_role("combobox", name="Mode")).to_have_value("lexical")
    expect(page.get_by_role("status")).to_contain_text("1 hit.")
    page.go_back()
    expect(page.get_by_role("combobox", name="Mode")).to_have_value("fused")
    page.go_back()
    expect(question).to_have_value("")
    expect(page.get_by_label("To begin with").get_by_role("button")).to_have_count(3)
    page.go_forward()
    expect(question).to_have_value("red")
    expect(first_hit(page)).to_contain_text("red")
    page.goto(f"{site.url}/?q=blue&collection=colours")  # not as the page itself writes it
    expect(first_hit(page)).to_contain_text("blue")
    page.go_back()
    expect(question).to_have_value("red")


def test_nothing_found_says_why_and_the_way_out(site: Site) -> None:
    page = opened(site, "shop")
    asked(page, "shoe")
    page.get_by_label("price: to").fill("1")
    page.get_by_label("price: to").blur()
    expect(page.get_by_text("No document of shop meets the filter", exact=True)).to_be_visible()
    page.get_by_role("combobox", name="Mode").select_option("lexical")
    expect(page.get_by_text("No document of shop meets the filter and has a word of the question")).to_be_visible()
    page.get_by_role("button", name="Search without the filter").click()
    expect(page.locator(".hit")).to_have_count(2)
    expect(page.get_by_text("Nothing was found")).to_be_hidden()
    expect(page.get_by_label("price: to")).to_have_value("")
    expect(page.get_by_label("Question or words")).to_be_focused()
    assert "filter" not in page.url
    page.get_by_role("combobox", name="Collection").select_option("fails")
    expect(page.get_by_text("fails holds nothing yet")).to_be_visible()


def test_more_like_this(site: Site) -> None:
    page = opened(site)
    asked(page, "red")
    page.get_by_role("button", name="More like red").click()
    expect(page.locator("#like")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("2 hits")
    assert "like=red" in page.url
    page.get_by_role("button", name="No longer like this document").click()
    expect(page.locator("#like")).to_be_hidden()


def test_more_goes_on_with_the_search_whose_hits_are_shown(site: Site) -> None:
    """Whatever the controls say by then, filter included, and the address stays."""
    wanted = {"not": {"field": "n", "gt": 1000}}
    page = site.page(f"?{urlencode({'collection': 'many', 'q': 'red', 'filter': json.dumps(wanted)})}")
    hits = page.get_by_label("Hits").get_by_role("listitem")
    expect(hits).to_have_count(24)
    expect(page.get_by_role("status")).to_contain_text("The first 24 hits")
    address = page.url
    page.get_by_label("Question or words").fill("another question")
    with page.expect_request("**/search") as sent:
        page.get_by_role("button", name="More", exact=True).click()
    expect(hits).to_have_count(31)
    expect(page.get_by_role("status")).to_have_text(re.compile("^31 hits"))
    expect(hits.nth(24).get_by_role("button")).to_be_focused()
    body = sent.value.post_data_json
    assert (body["query"], body["filter"]) == ({"text": "red"}, wanted)
    assert page.url == address
    expect(page.get_by_role("button", name="More", exact=True)).to_be_hidden()
    assert len({hits.nth(n).locator(".id").inner_text() for n in range(31)}) == 31


def test_keys_alone_are_enough(site: Site) -> None:
    page = opened(site)
    expect(page.get_by_role("button", name="More like red")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    assert "#" not in page.url, "it would be a step for Back"
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
    assert site.hosts == {urlsplit(url).netloc}


def control_of(page: Page, label: str) -> Any:
    return page.get_by_role("combobox", name="new") if label == "new" else page.get_by_label(label, exact=True)


@pytest.mark.parametrize(
    ("controls", "condition"),
    [
        ({"brand": "Ada, Ltd"}, {"field": "brand", "equals": "Ada, Ltd"}),
        ({"caption": "warm HIGH"}, {"field": "caption", "match": "warm HIGH"}),
        ({"price: from": "100", "price: to": "200"}, {"field": "price", "gte": 100, "lte": 200}),
        (
            {"sold: from": "2026-03-31", "sold: to": "2026-03-31"},
            {"field": "sold", "gte": "2026-03-31T00:00:00Z", "lte": "2026-03-31T23:59:59.999999Z"},
        ),
        ({"new": "true"}, {"field": "new", "equals": True}),
        (
            {"from: latitude": "52", "from: longitude": "13", "from: km around": "100"},
            {"field": "from", "geo_radius": {"lat": 52, "lon": 13, "radius_m": 100_000}},
        ),
    ],
)
def test_a_filter_control(site: Site, controls: dict[str, str], condition: dict[str, Any]) -> None:
    """It selects, it stands in the address, and the address opens with the control as it was."""
    page = opened(site, "shop")
    asked(page, "shoe")
    for label, value in controls.items():
        control = control_of(page, label)
        if label == "new":
            control.select_option(value)
        else:
            control.fill(value)
            control.blur()
    expect(page.locator(".hit")).to_have_count(1)
    assert ids(page) == ["boot"]
    assert json.loads(parse_qs(urlsplit(page.url).query)["filter"][0]) == condition
    page.reload()
    assert ids(page) == ["boot"]
    for label, value in controls.items():
        expect(control_of(page, label)).to_have_value(value)
    expect(page.get_by_text("Filter from the address")).to_be_hidden()


def test_several_filters_and_one_that_no_control_can_show(site: Site) -> None:
    conditions = [{"field": "brand", "in": ["Ada, Ltd", "Bell"]}, {"not": {"field": "price", "lt": 100}}]
    page = site.page(f"?{urlencode({'collection': 'shop', 'q': 'shoe', 'filter': json.dumps({'all': conditions})})}")
    assert ids(page) == ["boot"]
    expect(page.get_by_label("brand", exact=True)).to_have_value("Ada, Ltd\nBell")
    expect(page.get_by_text('{"not":{"field":"price","lt":100}}')).to_be_visible()
    page.get_by_role("button", name="Without the filter from the address").click()
    expect(page.locator(".hit")).to_have_count(2)
    assert json.loads(parse_qs(urlsplit(page.url).query)["filter"][0]) == conditions[0]


def test_modes_and_what_explains_a_hit(site: Site) -> None:
    page = opened(site, "shop")
    asked(page, "the boot")
    expect(page.get_by_role("img", name="query, layer 1: text 100%, image 0%").first).to_be_visible()
    expect(page.get_by_text("from the picture")).to_be_visible()
    page.get_by_role("combobox", name="Mode").select_option("lexical")
    expect(first_hit(page)).to_contain_text("BM25 of the words")
    assert ids(page) == ["boot"]
    assert "mode=lexical" in page.url
    page.get_by_label("say why").uncheck()
    expect(first_hit(page)).not_to_contain_text("BM25")
    expect(page.get_by_text("from the picture")).to_be_hidden()
    page.get_by_label("Question or words").fill("nowhere")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("Nothing was found")


def test_another_collection(site: Site) -> None:
    page = opened(site, "shop")
    asked(page, "a red square")
    page.get_by_label("price: to").fill("100")
    page.get_by_label("price: to").blur()
    expect(page.locator(".hit")).to_have_count(1)
    page.get_by_role("combobox", name="Collection").select_option("colours")
    expect(first_hit(page)).to_contain_text("a red square")
    assert len(ids(page)) == 3
    expect(page.get_by_label("price: to")).to_be_hidden()
    assert "filter" not in page.url
    page.keyboard.press("Escape")  # not in the question: nothing is taken away
    expect(first_hit(page)).to_be_visible()


def test_what_a_collection_holds_is_offered(site: Site) -> None:
    page = opened(site, "shop")
    offered = page.get_by_label("To begin with").get_by_role("button")
    expect(offered).to_have_count(2)
    offered.filter(has_text="boot").click()
    expect(page.locator("#like")).to_contain_text("More like boot")
    assert ids(page) == ["clog"]
    expect(offered).to_have_count(0)
    page.get_by_label("Question or words").press("Escape")
    expect(offered).to_have_count(2)
    page.get_by_label("price: from").fill("100")
    page.get_by_label("price: from").blur()
    expect(offered).to_have_count(1)
    expect(offered).to_contain_text("boot")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ({"collection": "nothere", "q": "red"}, "nothere"),
        ({"collection": "colours", "q": "red", "mode": "wrong"}, "mode"),
        ({"collection": "colours", "q": "red", "filter": "{"}, "The filter in the address is not JSON"),
        ({"collection": "colours", "q": "red", "filter": '{"field": "side", "equals": [1]}'}, "filter"),
    ],
)
def test_what_the_address_has_wrong_is_said(site: Site, address: dict[str, str], said: str) -> None:
    """Nothing else is searched in its place."""
    page = site.page(f"?{urlencode(address)}")
    expect(page.get_by_role("alert")).to_contain_text(said)
    expect(page.get_by_label("Hits").get_by_role("listitem")).to_have_count(0)
    expect(page.get_by_role("combobox", name="Collection")).to_have_value(address["collection"])


def test_an_empty_question_gives_up_the_search_under_way(site: Site, model: FakeRuntime) -> None:
    page = opened(site)
    expect(page.get_by_role("button", name="More like red")).to_be_visible()
    model.gate.clear()
    question = page.get_by_label("Question or words")
    question.fill("red")
    question.press("Enter")
    expect(page.get_by_role("status")).to_have_text("Searching…")
    question.fill("")
    with page.expect_event("requestfailed"):
        question.press("Enter")
    model.gate.set()
    expect(page.get_by_role("button", name="More like red")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("Type something, or drop a picture.")
    expect(page.get_by_label("Hits").get_by_role("listitem")).to_have_count(0)


def test_too_much_at_once_is_said_with_when_to_come_back(site: Site) -> None:
    page = opened(site)
    problem = {"title": "Too many requests", "detail": "the queue is full", "code": "overloaded", "request_id": "r-1"}
    page.route("**/search", lambda route: route.fulfill(status=429, headers={"retry-after": "7"}, json=problem))
    page.get_by_label("Question or words").fill("red")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("the queue is full. Try again in 7 s.")


def test_a_long_passage_and_a_picture_that_is_lost(
    serve: Callable[..., Site], make_image: Callable[..., bytes]
) -> None:
    site = serve()
    site.client.create_collection("colours")
    site.client.set_alias("current", "colours")
    words = "red " * 80 + "and so it ends"
    site.client.load("colours", [{"id": "red", "text": words, "image": make_image("red")}])
    page = site.page()
    page.route("**/image**", lambda route: route.fulfill(status=404))
    page.goto(f"{site.url}/?collection=current&q=red")
    expect(page.get_by_role("combobox", name="Collection").locator("option:checked")).to_have_text("current → colours")
    passage = first_hit(page).locator("p")
    expect(first_hit(page)).to_contain_text("the picture is not there")
    expect(first_hit(page).locator("h2")).to_contain_text(re.compile(r"score \d\.\d{3}"))
    cut = passage.bounding_box()
    page.get_by_role("button", name="Show all of it").press("Enter")
    expect(page.get_by_role("button", name="Show all of it")).to_be_hidden()
    expect(passage).to_be_focused()
    whole = passage.bounding_box()
    assert cut is not None
    assert whole is not None
    assert whole["height"] > cut["height"]


def test_the_page_may_reach_nothing_but_its_service(site: Site) -> None:
    """By a policy without exceptions, which a browser enforces."""
    page = opened(site)
    policy = httpx.get(site.url).headers["content-security-policy"]
    assert not re.search(r"unsafe|\*|://", policy)
    assert {"script-src 'self'", "style-src 'self'", "connect-src 'self'"} <= set(policy.split("; "))
    refused = page.evaluate(
        """async () => {
            const refused = [];
            document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
            document.body.setAttribute("style", "color: red");
            document.head.append(Object.assign(document.createElement("script"), {textContent: "window.inline = 1"}));
            await fetch("http://127.0.0.1:9/").catch(() => {});
            await new Promise((resolve) => setTimeout(resolve, 100));
            return refused;
        }"""
    )
    assert refused == ["style-src-attr", "script-src-elem", "connect-src"]
    site.complaints.clear()  # the browser's own words about these three


HOSTILE = (
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    '"><svg/onload=window.hacked=1>',
    "</p></li><iframe srcdoc='<script>parent.hacked = 1</script>'>",
    "javascript:window.hacked=1",
    "<a href='javascript:window.hacked=1' autofocus onfocus='window.hacked = 1'>here</a>",
    "&lt;b&gt; ${window.hacked = 1} {{hacked}}",
)
# What none of these may become, wherever the page shows it.
MADE_OF_MARKUP = (
    "script:not([src]), iframe, svg, b:has(a), [onerror], [onload], [onfocus], [href^='javascript:'], img[src='x']"
)


def test_markup_of_documents_is_shown_as_text(serve: Callable[..., Site]) -> None:
    """In ids, texts, names and values of metadata, reasons and addresses. The browser's own policy is turned off, so that
    markup would be carried out."""
    site = serve()
    site.client.create_collection("hostile", indexes={f'"{HOSTILE[1]}"': "keyword"})
    documents: list[dict[str, Any]] = [
        {"id": f"{n} {markup}", "text": f"red {markup}", "metadata": {key_of(markup): [markup, {"deep": markup}]}}
        for n, markup in enumerate(HOSTILE)
    ]
    (good,) = site.client.post_documents("hostile", documents)
    assert good.rejected == ()
    bad = [
        {"id": f"bad {n} {markup}", "image": {"url": f"http://127.0.0.1:9/{quote(markup, safe='')}"}}
        for n, markup in enumerate(HOSTILE)
    ]
    for posted in site.client.post_documents("hostile", bad):
        assert posted.job is not None
        site.client.wait_job(posted.job.id)
    wait_until_searched(site, len(HOSTILE))

    page = site.page("?collection=hostile&q=red", bypass_csp=True)
    expect(page.locator(".hit")).to_have_count(len(HOSTILE))
    for n, markup in enumerate(HOSTILE):
        hit = page.locator(".hit").filter(has=page.get_by_role("button", name=f"More like {n} {markup}", exact=True))
        assert hit.locator(".id").text_content() == f"{n} {markup}"
        assert hit.locator("p").text_content() == f"red {markup}"
        assert hit.locator("dt").text_content() == key_of(markup)
        assert hit.locator("dd").text_content() == json.dumps(
            [markup, {"deep": markup}], separators=(",", ":"), ensure_ascii=False
        )
    expect(page.locator(MADE_OF_MARKUP)).to_have_count(0)
    page.get_by_role("button", name=f"More like 1 {HOSTILE[1]}", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("hits")
    expect(page.locator(MADE_OF_MARKUP)).to_have_count(0)

    work = site.page("?view=work", bypass_csp=True)
    work.get_by_role("button", name="Show failures").click()
    for n, markup in enumerate(HOSTILE):
        expect(work.get_by_role("row").filter(has_text=f"bad {n} {markup}")).to_have_count(1)
    expect(work.locator(MADE_OF_MARKUP)).to_have_count(0)

    addressed = site.page(bypass_csp=True)
    for field in ("q", "filter", "like", "mode", "collection"):
        parts = {"collection": "hostile", "q": "red", field: HOSTILE[1]}
        addressed.goto(f"{site.url}/?{urlencode(parts)}")
        expect(addressed.get_by_text("window.hacked" if field == "collection" else "hostile").first).to_be_attached()
        expect(addressed.locator(MADE_OF_MARKUP)).to_have_count(0)
        assert addressed.evaluate("window.hacked") is None
    assert [one.evaluate("window.hacked") for one in (page, work)] == [None, None]


def key_of(markup: str) -> str:
    """Return the markup as a key of metadata, which has no double quotes."""
    return markup.replace('"', "'")


def wait_until_searched(site: Site, documents: int) -> None:
    for job in site.client.jobs():
        site.client.wait_job(job.id)
    assert site.client.collection("hostile").documents == documents


@pytest.fixture
def locked(serve: Callable[..., Site], make_image: Callable[..., bytes], tmp_path: Path) -> Site:
    keys = tmp_path / "keys"
    every, search = Key("page", frozenset(KeyScope)), Key("searcher", frozenset({KeyScope.SEARCH}))
    keys.write_text(line_of(SECRET, every) + "\n" + line_of(SEARCHER, search) + "\n")
    site = serve(api_key=SECRET, api_keys_file=keys)
    site.load(make_image)
    return site


def enter(page: Page, secret: str) -> None:
    page.get_by_label("This service wants an API key").fill(secret)
    page.get_by_role("button", name="Use it").click()


COUNTS_BLOBS = """
    [window.made, window.blobs] = [0, new Set()];
    const [make, revoke] = [URL.createObjectURL, URL.revokeObjectURL];
    URL.createObjectURL = (blob) => { const one = make(blob); made += 1; blobs.add(one); return one; };
    URL.revokeObjectURL = (one) => { blobs.delete(one); revoke(one); };
"""


def test_a_key_is_asked_for_and_kept_for_the_tab(locked: Site) -> None:
    page = locked.page()
    enter(page, "not this one, surely")
    expect(page.get_by_role("alert")).to_contain_text("This key is refused")
    enter(page, SECRET)
    asked(page, "red")
    image = first_hit(page).locator("img")
    expect(image).to_have_attribute("src", re.compile("^blob:"))
    image.evaluate("image => image.decode()")
    page.add_init_script(COUNTS_BLOBS)
    page.reload()
    expect(first_hit(page)).to_contain_text("red")
    page.wait_for_function("made === 3")
    for shown in page.locator(".hit img").all():
        expect(shown).to_have_attribute("src", re.compile("^blob:"))
        shown.evaluate("image => image.decode()")
    page.wait_for_function("blobs.size === 0")  # else a picture that was fetched is kept for good
    assert page.evaluate("made") == 3
    assert page.evaluate("localStorage.length") == 0


def test_the_footer_names_every_model_and_what_is_wrong_with_it(site: Site) -> None:
    page = site.page()
    footer = page.get_by_role("contentinfo")
    expect(footer).to_have_text(re.compile(r"^fake, \d+ dimensions; ret2 \d+\.\d+\.\d+"))
    info = httpx.get(f"{site.url}/info").json()
    info["models"] += [
        {"name": "large", "state": "loading", "dimensions": None, "detail": None},
        {"name": "broken", "state": "failed", "dimensions": None, "detail": "no folder <b>'x'</b>"},
    ]
    page.route("**/info", lambda route: route.fulfill(json=info))
    page.reload()
    expect(footer).to_contain_text("; large, being loaded; broken, failed: no folder <b>'x'</b>; ret2")
    page.goto(f"{site.url}/?view=work")
    expect(footer).to_contain_text("large, being loaded")


def test_another_key_takes_the_place_of_the_first(locked: Site) -> None:
    """Everything is bound once, and a late refusal of the first key does not take the second away."""
    page = locked.page("?view=work")
    late: list[Route] = []
    page.route("**/info", lambda route: late.append(route) if not late else route.continue_())
    with page.expect_request("**/info"):
        enter(page, "not this one, surely")
    page.get_by_role("button", name="Forget the key").click()
    enter(page, SEARCHER)
    expect(page.get_by_role("row")).to_contain_text(["name", "colours"])
    expect(page.get_by_role("alert")).to_contain_text("GET /jobs needs a key with scope")
    with page.expect_response("**/info"):
        late[0].fulfill(status=401, json={"detail": "no valid API key"})
    expect(page.get_by_role("row")).to_contain_text(["name", "colours"])
    expect(page.get_by_label("This service wants an API key")).to_be_hidden()
    page.get_by_role("button", name="Forget the key").click()
    expect(page.get_by_role("table")).to_be_hidden()
    enter(page, SECRET)
    expect(page.get_by_role("article")).to_have_count(1)
    page.get_by_role("link", name="Search").click()
    page.get_by_role("button", name="Forget the key").click()
    enter(page, SEARCHER)
    with page.expect_request("**/search"):
        asked(page, "red")
    searches: list[str] = []
    page.on("request", lambda request: searches.append(request.url))
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("hits")
    assert sum(url.endswith("/search") for url in searches) == 1


def test_a_job_is_followed_while_it_runs(site: Site, model: FakeRuntime) -> None:
    """What has the focus keeps it while the counts change, and how the job ended is announced."""
    late = threading.Event()

    def hold(texts: list[str]) -> None:
        if any("late" in text for text in texts):
            assert late.wait(10), "the test never let them go on"

    model.on_forward = hold
    model.gate.clear()
    site.client.create_collection("followed")
    documents = [{"id": f"{n}", "text": f"late {n}" if n >= 128 else f"new {n}"} for n in range(400)]
    httpx.post(f"{site.url}/collections/followed/documents", json=documents).raise_for_status()
    page = site.page("?view=work")
    job = page.get_by_role("article").first
    expect(job).to_contain_text("400 accepted")
    cancel = job.get_by_role("button", name="Cancel")
    cancel.focus()
    collection = page.get_by_role("link", name="followed")
    expect(collection).to_be_visible()
    heading = page.get_by_role("heading", name="Jobs")
    place = heading.bounding_box()
    model.gate.set()
    expect(job).to_contain_text(re.compile(r"\b(64|128) indexed"))
    assert 0 < job.get_by_role("progressbar").evaluate("bar => bar.value / bar.max") < 1
    expect(cancel).to_be_focused()
    page.keyboard.press("Enter")
    late.set()
    expect(job.get_by_text("cancelled", exact=True)).to_be_visible()
    expect(job).to_be_focused()
    expect(page.get_by_role("status")).to_contain_text("documents → followed cancelled: 400 accepted")
    assert heading.bounding_box() == place, "what is read moves"
    expect(collection).to_be_visible()
    site.client.delete_collection("followed")


def test_the_table_of_collections_keeps_the_focus(site: Site) -> None:
    page = site.page("?view=work")
    link = page.get_by_role("link", name="colours")
    link.focus()
    before = len(page.get_by_role("article").all())
    list(site.client.post_documents("colours", [{"id": "red", "text": "a red square again"}]))
    expect(page.get_by_role("article")).to_have_count(before + 1)
    expect(link).to_be_focused()


def test_what_failed_is_listed_with_its_reason_and_tried_again_once(site: Site) -> None:
    documents = [{"id": f"gone-{n:02}", "image": {"url": "http://127.0.0.1:9/x.png"}} for n in range(25)]
    list(site.client.post_documents("fails", documents))
    page = site.page("?view=work")
    job = page.get_by_role("article").nth(0)
    name = job.get_attribute("aria-label")
    assert name is not None
    job = page.get_by_role("article", name=name)  # others come before it
    job.get_by_role("button", name="Show failures").click()
    expect(job.get_by_role("row").filter(has_text="gone-00")).to_contain_text("127.0.0.1")
    expect(job.get_by_role("row")).to_have_count(21)
    job.get_by_role("button", name="Further").press("Enter")
    expect(job.get_by_role("row").filter(has_text="gone-24")).to_be_visible()
    expect(job.get_by_role("button", name="Further")).to_be_disabled()
    before = job.get_by_role("button", name="Before")
    expect(before).to_be_focused()
    before.press("Enter")
    expect(job.get_by_role("row").filter(has_text="gone-00")).to_be_visible()
    expect(before).to_be_disabled()
    job.get_by_role("button", name="Further").press("Enter")
    job.get_by_role("button", name="Retry what failed").click()
    expect(job).to_contain_text("Tried again as job")
    again = page.get_by_role("article").filter(has_text="of what failed in")
    expect(again).to_have_count(1)
    expect(again.get_by_text("failed", exact=True)).to_be_visible()
    job.get_by_role("button", name="Retry what failed").click()
    expect(job).to_contain_text("Already tried again as job")
    expect(job.get_by_role("row").filter(has_text="gone-24")).to_be_visible()
    job.get_by_role("button", name="Hide failures").click()
    expect(job.get_by_role("row")).to_have_count(0)
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="fails"))
    expect(row.get_by_role("cell")).to_contain_text(["fails", "0", "0", "25", "KiB"])


def test_a_job_that_waits_is_asked_about_where_nothing_streams(site: Site) -> None:
    """And what does not answer is said until it answers again."""
    site.client.create_collection("waits")
    (posted,) = site.client.post_documents("waits", [{"id": "red", "text": "red"}])
    assert posted.job is not None
    job = site.client.wait_job(posted.job.id)
    page, over = site.page(), threading.Event()
    page.route("**/jobs/*/events", lambda route: route.abort())

    def waiting(route: Route) -> None:
        answer = route.fetch()
        found = answer.json()
        changed = (
            {} if over.is_set() else {"state": "waiting", "indexed": 0, "waiting_on": "the encoder does not answer"}
        )
        jobs = [{**one, **(changed if one["id"] == job.id else {})} for one in found.get("jobs", [found])]
        route.fulfill(response=answer, json={"jobs": jobs} if "jobs" in found else jobs[0])

    page.route(re.compile(rf"/jobs(\?|/{job.id}$)"), waiting)
    page.goto(f"{site.url}/?view=work")
    card = page.get_by_role("article", name=job.id)
    card.get_by_text("waiting, and tried again by itself").click()
    expect(card).to_contain_text("the encoder does not answer")
    page.route("**/cancel", lambda route: route.fulfill(status=409, json={"title": "Conflict", "detail": "too late"}))
    card.get_by_role("button", name="Cancel").click()
    expect(card.get_by_role("alert")).to_have_text("Conflict: too late.")
    page.unroute("**/cancel")
    card.get_by_role("button", name="Cancel").click()  # it has ended: nothing is left to cancel
    expect(card.get_by_role("alert")).to_be_hidden()
    page.route("**/collections", lambda route: route.abort())
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer")
    page.unroute("**/collections")
    expect(page.get_by_role("alert")).to_be_hidden()
    over.set()
    expect(card.get_by_text("succeeded", exact=True)).to_be_visible()
    expect(card.get_by_text("waiting")).to_be_hidden()
    site.complaints.clear()  # the browser's own words about what was aborted
    site.client.delete_collection("waits")


def test_jobs_go_on_where_back_brings_the_page_as_it_was(site: Site) -> None:
    """A browser that keeps the page whole says so in these events; what was followed had ended with the first."""
    page = site.page("?view=work")
    expect(page.get_by_role("article")).to_have_count(30)
    page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true}))")
    list(site.client.post_documents("colours", [{"id": "red", "text": "a red square as before"}]))
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    newest = page.get_by_role("article").first
    expect(newest).to_contain_text("documents → colours")
    expect(newest).to_contain_text("1 indexed")


def test_older_jobs_and_what_a_collection_was_filled_by(site: Site) -> None:
    page = site.page()

    def of_another_model(route: Route) -> None:
        answer = route.fetch()
        collections = [{**one, "compatible": one["name"] != "shop"} for one in answer.json()["collections"]]
        route.fulfill(response=answer, json={"collections": collections})

    page.route("**/collections", of_another_model)
    page.goto(f"{site.url}/?view=work")
    jobs = page.get_by_role("article")
    expect(jobs).to_have_count(30)
    page.get_by_role("button", name="Older jobs").click()
    expect(page.get_by_role("button", name="Older jobs")).to_be_hidden()
    assert jobs.count() > 31
    expect(jobs.nth(30)).to_be_focused()
    row = page.get_by_role("row").filter(has_text="shop")
    expect(row).to_contain_text("fake-fingerp")
    expect(page.get_by_role("row").filter(has_text="its model is not served")).to_have_count(1)
    expect(row).to_contain_text("its model is not served")


def given(page: Page, content: bytes) -> None:
    expect(page.get_by_role("button", name="Search", exact=True)).to_be_visible()
    hand_over(page, content, "given.png")


PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
BODY = {"title": "Unauthorized", "detail": "no valid API key"}
SHOP = "?" + urlencode({"collection": "shop", "q": "shoe", "filter": '{"not":{"field":"price","lt":9}}'})
NOWHERE = "?" + urlencode({"collection": "shop", "q": "shoe", "filter": '{"field":"price","lt":9}'})
RUNNING = {
    "kind": "import",
    "collection": "shop",
    "state": "waiting",
    "accepted": 9,
    "indexed": 4,
    "skipped": 0,
    "failed": 1,
}
JOB = {
    "id": "0123456789abcdef",
    **RUNNING,
    "cancelled": 0,
    "created_at": 1.8e9,
    "retry_of": "beef",
    "waiting_on": "Qdrant",
}
# What it is called -> address, what is then done, what is then seen, and what other answers there are.
STATES: dict[str, tuple[str, Callable[[Page], None], str, dict[str, Any]]] = {
    "to begin with": ("?collection=colours", lambda _: None, "Some of what colours holds", {}),
    "hits": (SHOP, lambda _: None, "Bell", {}),
    "a picture": ("?collection=colours", lambda page: given(page, PNG), "does not hold the picture", {}),
    "more like this": ("?collection=colours&like=red", lambda _: None, "More like red", {}),
    "nothing found": (NOWHERE, lambda _: None, "No document of shop", {}),
    "nothing in it": ("?collection=fails", lambda _: None, "fails holds nothing yet", {}),
    "trouble": ("?q=red&collection=" + "nothere" * 20, lambda _: None, "No such collection", {}),
    "no picture": ("?collection=shop", lambda page: given(page, b"<html>"), "Bad Request", {}),
    "a key": ("", lambda page: enter(page, "wrong"), "This key is refused", {"**/info": {"status": 401, "json": BODY}}),
    "nothing": (
        "",
        lambda _: None,
        "There is nothing to search yet",
        {"**/collections": {"json": {"collections": []}}},
    ),
    "work": (
        "?view=work",
        lambda page: page.get_by_role("button", name="Show failures").first.click(),
        "not a public one",
        {},
    ),
    "under way": (
        "?view=work",
        lambda page: page.get_by_text("waiting, and tried again by itself").first.click(),
        "Qdrant",
        {
            "**/jobs?*": {"json": {"jobs": [JOB]}},
            "**/jobs/*/events": {"status": 503},
            f"**/jobs/{JOB['id']}": {"json": JOB},
        },
    ),
    "no work": (
        "?view=work",
        lambda _: None,
        "There is none yet",
        {"**/jobs?*": {"json": {"jobs": []}}, "**/collections": {"status": 503, "json": {"title": "Unavailable"}}},
    ),
}


@pytest.mark.parametrize(("scheme", "width"), [("dark", 320), ("light", 1280)])
def test_everybody_can_use_it_at_any_width(site: Site, width: int, scheme: Any) -> None:
    list(site.client.post_documents("fails", [{"id": "gone", "image": {"url": "http://127.0.0.1:9/x.png"}}]))
    spec = find_spec("axe_playwright_python")
    assert spec is not None
    assert spec.origin is not None
    axe = Path(spec.origin).with_name("axe.min.js").read_text()
    page = site.page("ui/icon.svg", viewport={"width": width, "height": 800}, color_scheme=scheme)
    for state, (path, act, shown, answers) in STATES.items():
        for pattern, answer in answers.items():
            page.route(pattern, lambda route, _request, answer=answer: route.fulfill(**answer))
        page.goto(f"{site.url}/{path}")
        act(page)
        expect(page.get_by_text(shown).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{state}: it scrolls sideways"
        # The policy of the page lets no foreign script in, and evaluating is not loading one.
        page.evaluate(axe)
        found = page.evaluate("axe.run()")["violations"]
        assert not found, json.dumps(
            [state, *((one["id"], [n["html"] for n in one["nodes"]]) for one in found)], indent=1
        )
        page.unroute_all()


def test_no_filter_control_lies_over_another_or_hides_its_words(site: Site) -> None:
    for width in (320, 1280):
        page = site.page(
            "?" + urlencode({"collection": "shop", "filter": "null"}), viewport={"width": width, "height": 900}
        )
        if width == 320:
            page.get_by_text("Only documents with").click()
        expect(page.get_by_label("brand", exact=True)).to_be_visible()
        boxes = page.locator(".filters :is(input, select, textarea)").evaluate_all(
            "all => all.map((one) => one.getBoundingClientRect()).map((box) => [box.left, box.right, box.top, box.bottom])"
        )
        assert len(boxes) == 10
        for n, (left, right, top, bottom) in enumerate(boxes):
            assert 0 <= left < right <= width
            for other in boxes[:n]:
                assert right <= other[0] or other[1] <= left or bottom <= other[2] or other[3] <= top
        cut = page.locator(".filters input").evaluate_all(
            """all => all.filter((one) => {
                const pen = new OffscreenCanvas(1, 1).getContext("2d");
                const style = getComputedStyle(one);
                pen.font = style.font;
                const room = one.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
                return pen.measureText(one.placeholder).width > room;
            }).map((one) => one.placeholder)"""
        )
        assert cut == []


def test_a_page_of_others_cancels_no_job(serve: Callable[..., Site], browser: Browser, runtime: Any) -> None:
    """The same service by another name is another site to a browser, which asks nobody before it sends this."""
    site = serve()
    site.client.create_collection("colours")
    runtime.gate.clear()
    (posted,) = site.client.post_documents("colours", [{"id": "red", "text": "red"}])
    assert posted.job is not None
    with browser.new_context(bypass_csp=True) as context:
        page, statuses = context.new_page(), list[int]()
        page.goto(f"{site.url.replace('127.0.0.1', 'localhost')}/livez")
        page.on("response", lambda answer: statuses.append(answer.status))
        cancel = f"{site.url}/jobs/{posted.job.id}/cancel"
        page.evaluate("(address) => fetch(address, {method: 'POST', mode: 'no-cors'})", cancel)
        expect(page.locator("body")).to_be_visible()
    assert statuses == [403]
    runtime.gate.set()
    assert site.client.wait_job(posted.job.id).indexed == 1
