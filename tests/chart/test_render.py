"""The chart renders, to what Kubernetes takes, and to what was reviewed: tests/chart/golden. UPDATE_DOCS=1 writes that anew."""

import os
from collections.abc import Callable
from pathlib import Path

import helm_python as helm
import kubernetes_validate
import pytest
import yaml
from chart_objects import CASES, CHART, Object, Render, values_of

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = ("1.28.0", "1.30.0", "1.32.0", "1.34.0", "1.36.0", "1.37.0")
OF_OPERATORS = {"ServiceMonitor", "PrometheusRule", "ScaledObject"}  # Kubernetes itself has no schema of these


@pytest.mark.parametrize("version", ["v1.28.0", "v1.37.0"])
def test_lint(case: str, version: str) -> None:
    report = helm.lint(CHART, values_of(case), strict=True, kube_version=version)
    assert report["total_charts_linted"] == 1
    assert [message for message in report["messages"] if message["severity"] > 1] == []


def test_every_file_of_values_is_a_case() -> None:
    assert {path.name for path in (CHART / "ci").iterdir()} == {f"{case}-values.yaml" for case in CASES[1:]}


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_object(case: str, version: str, render: Render) -> None:
    for item in render(case):
        if item["kind"] not in OF_OPERATORS:
            kubernetes_validate.validate(item, version, strict=True)


def test_the_check_against_kubernetes_can_fail(find: Callable[..., Object]) -> None:
    service = find("Service", "ret2-api")
    service["spec"]["sesionAffinity"] = "None"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(service, VERSIONS[0], strict=True)


def test_kinds(render: Render) -> None:
    kinds = {case: {item["kind"] for item in render(case)} for case in CASES}
    always = {"Deployment", "Service", "Pod"}
    assert kinds["minimal"] == always
    assert kinds["default"] == always | {"ServiceAccount", "Job", "NetworkPolicy", "PodDisruptionBudget"}
    assert kinds["external"] == kinds["default"] | {"Ingress"}
    assert kinds["bundled"] == kinds["default"] | {"StatefulSet"}
    assert kinds["gpu"] == kinds["default"] | {"ScaledObject"}
    assert kinds["everything"] == kinds["external"] | OF_OPERATORS | {"HorizontalPodAutoscaler", "ConfigMap"}


def test_names_are_not_given_twice(case: str, render: Render) -> None:
    names = [(item["kind"], item["metadata"]["name"]) for item in render(case)]
    assert len(names) == len(set(names))


def test_every_object_has_namespace_and_labels(case: str, render: Render) -> None:
    for item in render(case):
        assert item["metadata"]["namespace"] == "search"
        assert item["metadata"]["labels"]["app.kubernetes.io/instance"] == "ret2"


def test_golden(case: str, manifests: Callable[..., dict[str, str]]) -> None:
    text = _readable(manifests(case))
    file = GOLDEN / f"{case}.yaml"
    if os.environ.get("UPDATE_DOCS") == "1":
        file.write_text(text)
    assert file.read_text() == text, f"{file.name} differs: UPDATE_DOCS=1 pytest tests/chart, then read the diff"


def _readable(manifests: dict[str, str]) -> str:
    """Without what has files and tests of its own."""
    parts = []
    for path, text in sorted(manifests.items()):
        for item in yaml.load_all(text, yaml.CSafeLoader) if not path.endswith("NOTES.txt") else [text]:
            if isinstance(item, dict):
                if item["kind"] == "ConfigMap":
                    item["data"] = dict.fromkeys(item["data"], "…")
                if item["kind"] == "PrometheusRule":
                    item["spec"] = "…"
                if item["kind"] == "Pod":
                    item["spec"]["containers"][0]["command"][-1] = "…"
                parts.append(
                    f"# {path.removeprefix('ret2/templates/')}\n{yaml.safe_dump(item, sort_keys=False, width=140)}"
                )
    return "---\n".join(parts)
