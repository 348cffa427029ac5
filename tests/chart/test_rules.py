"""The alert rules: promtool reads them and plays them through; every one has a runbook."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from chart.conftest import CHART, Render

RULES = CHART / "rules" / "ret2.yaml"
UNIT_TESTS = Path(__file__).parent / "rules_test.yaml"


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:  # of Debian's package prometheus, which .ci/run does not install: absent is not a failure
        pytest.skip("needs promtool (Debian's package prometheus)")
    return found


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


def test_the_chart_carries_them_whole(render: Render) -> None:
    carried = next(item for item in render("everything") if item["kind"] == "PrometheusRule")
    assert carried["spec"] == yaml.safe_load(RULES.read_text())


def test_every_alert_has_severity_and_runbook() -> None:
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert rule["annotations"]["runbook"] == f"docs/operations.md#{rule['alert'].lower()}"
