"""Every alert has its section in docs/operations.md and every metric its row; every promise, limit and expectation has
a test that exists.
"""

import os
import re

import pytest
import yaml
from chart_objects import CHART, ROOT
from prometheus_client import CollectorRegistry

from service.observability.metrics import Metrics
from service.settings import Settings

PAGE = ROOT / "docs" / "operations.md"
PROMISES = ROOT / "docs" / "promises.md"
EXPECTATIONS = ROOT / "docs" / "expectations.md"
SECURITY = ROOT / "SECURITY.md"
_BEGIN = "<!-- metrics: UPDATE_DOCS=1 pytest tests/chart/test_operations.py -->\n"
_END = "<!-- end of metrics -->\n"
_LABELS = {
    "ret2_text_positions": "model, kind",
    "ret2_device_memory_bytes": "kind",
}
_BOUND = re.compile(
    r"(^|_)max_|^key_|_attempts$|(timeout|grace|age|after)_s$"
)  # names of settings that bound something
_SUFFIX = {"counter": "_total", "info": "_info"}


def rules() -> list[dict[str, dict[str, str]]]:
    groups = yaml.safe_load((CHART / "rules" / "ret2.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[str]:
    return [str(rule["alert"]) for rule in rules()]


def sections() -> dict[str, str]:
    """By the anchor of the heading, as GitHub and mkdocs make it."""
    parts = re.split(r"^#{2,3} (.+)$", PAGE.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w-]+", "-", title.lower()): text for title, text in zip(parts[1::2], parts[2::2], strict=True)}


def test_runbook_links_lead_to_a_section() -> None:
    for rule in rules():
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert ROOT / page == PAGE
        text = sections()[anchor]
        for part in ("What it means.", "What to look at.", "What to do."):
            assert len(text.partition(f"**{part}**")[2].split("**")[0].split()) > 3, (anchor, part)


def test_sections_are_of_alerts_that_there_are() -> None:
    titles = re.findall(r"^### (Ret2\w+)$", PAGE.read_text(), re.MULTILINE)
    assert sorted(titles) == sorted(alerts())


def metrics_table() -> str:
    registry = CollectorRegistry()
    known = {
        metric._name: metric._labelnames
        for metric in vars(Metrics(registry)).values()
        if hasattr(metric, "_labelnames")
    }
    rows = ["| metric | kind | labels | |", "|---|---|---|---|"]
    for metric in sorted(registry.collect(), key=lambda one: one.name):
        labels = _LABELS.get(metric.name) or ", ".join(known.get(metric.name, ()))
        rows.append(
            f"| `{metric.name}{_SUFFIX.get(metric.type, '')}` | {metric.type} | {labels} | {metric.documentation} |"
        )
    return "\n".join(rows) + "\n"


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    written, _, after = rest.partition(_END)
    if os.environ.get("UPDATE_DOCS") == "1":
        written = metrics_table()
        PAGE.write_text(before + _BEGIN + written + _END + after)
    assert written == metrics_table(), "UPDATE_DOCS=1 pytest tests/chart/test_operations.py"


def test_metrics_and_settings_that_are_named_exist() -> None:
    text = PAGE.read_text()
    named = set(re.findall(r"`(ret2_\w+)", text)) | set(re.findall(r"(ret2_\w+){", text))
    exported = set(re.findall(r"^\| `(ret2_\w+)`", text, re.MULTILINE))
    assert named - exported == set()
    settings = {f"RET2_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"RET2_[A-Z_]+", text)) - settings == set()


@pytest.mark.parametrize("page", [PROMISES, SECURITY, EXPECTATIONS], ids=["promises", "security", "expectations"])
def test_tests_that_are_named_exist(page: "os.PathLike[str]") -> None:
    named = re.findall(r"`(tests/[\w/.]+\.py)(?:::(\w+))?`", (ROOT / page).read_text())
    assert len(named) >= 10
    for path, name in named:
        assert (ROOT / path).is_file(), path
        if name:
            assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{name}"


def test_every_row_has_a_test() -> None:
    for page in (PROMISES, SECURITY):
        blocks = re.split(r"\n\n", page.read_text())
        tables = [block for block in blocks if re.match(r"\| (\| promise|alert|limit|asset) ", block)]
        assert len(tables) == (3 if page == PROMISES else 1)
        for row in (row for table in tables for row in table.splitlines()[2:]):
            assert "`tests/" in row, row


def test_every_promise_alert_and_limit_has_its_row() -> None:
    text = PROMISES.read_text()
    assert re.findall(r"^\| .*</a>(\d+) ", text, re.MULTILINE) == [str(number) for number in range(1, 18)]
    assert set(alerts()) <= set(re.findall(r"Ret2\w+", text))
    bounds = {name for name in Settings.model_fields if _BOUND.search(name)}
    assert len(bounds) > 30
    assert {f"RET2_{name.upper()}" for name in bounds} - set(re.findall(r"RET2_[A-Z_]+", text)) == set()
