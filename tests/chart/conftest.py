"""The chart k8s/ret2, rendered by Helm's own library for the values of `ci/` and whatever a test adds to them."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import helm_python as helm
import pytest
from chart_objects import CASES, CHART, Object, Render, merged, objects_in, values_of


@pytest.fixture(scope="session")
def chart() -> Iterator[helm.Chart]:
    with helm.Chart.load(CHART) as chart:
        yield chart


@pytest.fixture(scope="session")
def manifests(chart: helm.Chart) -> Callable[..., dict[str, str]]:
    """By template: the text that Helm sends to Kubernetes."""

    rendered: dict[str, dict[str, str]] = {}

    def render(case: str = "default", extra: dict[str, Any] | None = None) -> dict[str, str]:
        values = merged(values_of(case), extra or {})
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
