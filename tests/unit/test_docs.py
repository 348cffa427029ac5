from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Strict: a link to a page or a heading that is not there fails, and so does a page that the navigation leaves out."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_links_of_the_manual_lead_somewhere(site: Path) -> None:
    """Those too that strict takes for files beside the pages."""
    lost = {
        f"{page.relative_to(site)}: {target}"
        for page in site.rglob("*.html")
        for target in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text())
        if not re.match(r"[a-z]+:|//|/", target) and not (page.parent / target).exists()
    }
    assert lost == set()


def test_the_manual_asks_no_other_host(site: Path) -> None:
    """No script, style, font or picture of another host; the theme loads one for diagrams that are written as mermaid."""
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert not re.findall(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//[^"]*', text), page
        assert not re.findall(
            r'<link[^>]+rel="(?:stylesheet|preload|preconnect)"[^>]+href="(?:https?:)?//[^"]*', text
        ), page
        assert 'class="mermaid"' not in text, page


def test_the_navigation_has_every_page() -> None:
    listed = (ROOT / "mkdocs.yml").read_text()
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert {page for page in pages if page not in listed} == set()


def test_no_page_waits_to_be_filled_in() -> None:
    """A line that stands in for what was to be written there."""
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    left = [
        f"{page.relative_to(ROOT)}: {line}"
        for page in pages
        for line in page.read_text().splitlines()
        if re.fullmatch(r"\W*(FIGURES|TODO|TBD|FIXME|XXX|PLACEHOLDER)\b.*", line)
    ]
    assert left == []
