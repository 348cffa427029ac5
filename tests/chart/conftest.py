"""The chart k8s/ret2, rendered by Helm's own library for the values of `ci/` and whatever a test adds to them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "k8s" / "ret2"
CASES = ("default", "gpu", "external", "minimal", "bundled", "everything")

Object = dict[str, Any]
Render = Callable[..., list[Object]]


def values_of(case: str) -> dict[str, Any]:
    """What `helm install -f` would be given; the default case gives nothing."""
    if case == "default":
        return {}
    values: dict[str, Any] = yaml.safe_load((CHART / "ci" / f"{case}-values.yaml").read_text())
    return values


def objects_in(manifests: dict[str, str]) -> list[Object]:
    texts = (text for path, text in sorted(manifests.items()) if not path.endswith("NOTES.txt"))
    return [document for text in texts for document in yaml.load_all(text, yaml.CSafeLoader) if document]


@pytest.fixture(scope="session")
def chart() -> Iterator[helm.Chart]:
    with helm.Chart.load(CHART) as chart:
        yield chart


@pytest.fixture(scope="session")
def manifests(chart: helm.Chart) -> Callable[..., dict[str, str]]:
    """By template: the text that Helm sends to Kubernetes."""

    rendered: dict[str, dict[str, str]] = {}

    def render(case: str = "default", extra: dict[str, Any] | None = None) -> dict[str, str]:
        values = _merged(values_of(case), extra or {})
        key = json.dumps(values)
        if key not in rendered:
            rendered[key] = chart.render(values, name="ret2", namespace="search", is_install=True)
        return rendered[key]

    return render


@pytest.fixture(scope="session")
def render(manifests: Callable[..., dict[str, str]]) -> Render:
    return lambda case="default", extra=None: objects_in(manifests(case, extra))


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def find(render: Render) -> Callable[..., Object]:
    """The one object of a kind and name; fails when there are none or several."""

    def one(kind: str, name: str, case: str = "default", extra: dict[str, Any] | None = None) -> Object:
        found = [o for o in render(case, extra) if (o["kind"], o["metadata"]["name"]) == (kind, name)]
        assert len(found) == 1, f"{len(found)} objects {kind} {name}"
        return found[0]

    return one


def _merged(values: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in extra.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def pod_specs(objects: list[Object]) -> dict[str, Object]:
    """Every pod that the objects lead to, by kind and name."""
    specs = {}
    for item in objects:
        name = f"{item['kind']}/{item['metadata']['name']}"
        if item["kind"] == "Pod":
            specs[name] = item["spec"]
        elif "template" in item.get("spec", {}):
            specs[name] = item["spec"]["template"]["spec"]
    return specs


def containers(spec: Object) -> list[Object]:
    return [*spec.get("initContainers", []), *spec["containers"]]
