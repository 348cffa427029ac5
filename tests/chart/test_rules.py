"""The alert rules: promtool reads them and plays them through; every one has a runbook."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from chart_objects import CHART, Render

RULES = CHART / "rules" / "ret2.yaml"
UNIT_TESTS = Path(__file__).parent / "rules_test.yaml"


@pytest.fixture
def promtool(need: Callable[[bool, str], None]) -> str:
    found = shutil.which("promtool")
    need(found is not None, "promtool (Debian's package prometheus)")
    return str(found)


def test_promtool_reads_them(promtool: str) -> None:
    done = subprocess.run([promtool, "check", "rules", str(RULES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_they_fire_when_they_should(promtool: str) -> None:
    done = subprocess.run([promtool, "test", "rules", str(UNIT_TESTS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried() -> None:
    alerts = {rule["alert"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]}
    tried = yaml.safe_load(UNIT_TESTS.read_text())["tests"]
    assert {case["alertname"] for test in tried for case in test["alert_rule_test"] if case.get("exp_alerts")} == alerts


def test_the_chart_carries_them_whole_for_its_own_release(promtool: str, render: Render, tmp_path: Path) -> None:
    """Each release brings its own, so that Ret2NotSeen says it of a release while another is well."""
    carried = next(item for item in render("everything") if item["kind"] == "PrometheusRule")["spec"]
    own = 'job="ret2",namespace="search",release="ret2"'
    assert carried == yaml.safe_load(RULES.read_text().replace('job="ret2"', own))
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(carried))
    done = subprocess.run([promtool, "check", "rules", str(tmp_path / "rules.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_is_added_up_over_releases() -> None:
    """Two may be seen by one Prometheus."""
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            grouped = re.findall(r"\b(?:sum|max|min|count|avg)\b(.{0,25})", rule["expr"])
            assert all(by.startswith(" by (namespace, release") for by in grouped), rule["alert"]


def test_the_dashboard_shows_the_releases_that_are_chosen() -> None:
    dashboard = json.loads((CHART / "dashboards/ret2.json").read_text())
    assert {"namespace", "release"} <= {variable["name"] for variable in dashboard["templating"]["list"]}
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            series = re.findall(r"\{([^}]*job=[^}]*)\}", target["expr"])
            assert series
            assert all('namespace=~"$namespace",release=~"$release"' in one for one in series), panel["title"]


def test_every_alert_has_severity_and_runbook() -> None:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
