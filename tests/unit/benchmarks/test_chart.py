"""The chart of growth: every line is in it, at the places that its numbers say."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from benchmarks import index_sizes
from benchmarks.chart import svg
from benchmarks.index_sizes import WAYS, Searched, chart

SVG = "{http://www.w3.org/2000/svg}"


def test_a_decade_is_as_long_as_the_next() -> None:
    drawn = ET.fromstring(svg({"a & b": [(10_000, 2.0), (100_000, 20.0), (1_000_000, 200.0)]}, "x", "y"))
    (line,) = drawn.iter(f"{SVG}polyline")
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in line.attrib["points"].split())
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert x0 < x1
    assert y0 > y1  # down is more in SVG
    assert {"a & b", "100,000", "1,000,000", "x", "y"} <= {each.text for each in drawn.iter(f"{SVG}text")}


def test_every_way_of_searching_that_was_measured_is_drawn() -> None:
    found = {
        size: [Searched(way, {"whole": [size / 1_000]}, (1.0,)) for way in [*WAYS, "late interaction"][: 6 - late]]
        for late, size in enumerate((10_000, 100_000))
    }
    drawn = ET.fromstring(chart(found))
    lengths = [len(line.attrib["points"].split()) for line in drawn.iter(f"{SVG}polyline")]
    assert lengths == [2, 2, 2, 2, 2, 1]


def test_a_run_keeps_what_it_said_and_draws_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(_size: int, _folder: Path, _seconds: float, _shape: str, late: bool, say: Any) -> list[Searched]:
        say("a table")
        return [Searched("late interaction" if late else "plain", {"whole": [5.0]}, (1.0,))]

    monkeypatch.setattr(index_sizes, "measure", measured)
    monkeypatch.setattr(index_sizes, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(index_sizes, "CHART", tmp_path / "growth.svg")
    monkeypatch.setattr("sys.argv", ["index_sizes", "10000", "1000000"])
    index_sizes.main()
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("sys.argv", ["index_sizes", "10000", "1000000", "--write"])
    index_sizes.main()
    (written,) = (tmp_path / "results").iterdir()
    assert written.name.endswith("-search.md")
    assert written.read_text().count("a table\n") == 3
    drawn = ET.parse(tmp_path / "growth.svg")
    assert [len(line.attrib["points"].split()) for line in drawn.iter(f"{SVG}polyline")] == [2, 1]
