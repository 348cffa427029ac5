"""The chart, compose and the code name the same things: settings, roles, metrics, routes. And what is written by a program is up to date.

What only DESIGN names stands in a list of what is COMING; a name that has come must leave its list, and the lists are printed.
"""

import json
import os
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart_objects import CASES, CHART, ROOT, Render, containers, pod_specs
from prometheus_client import CollectorRegistry, ProcessCollector
from watched_metrics import METRICS_OF_OTHERS, expressions, labels_in, metrics_in

from k8s import chart_docs
from service.observability.metrics import Metrics
from service.settings import ServerRole, Settings

SETTINGS = {f"RET2_{name.upper()}" for name in Settings.model_fields}
COMING_SETTINGS: set[str] = set()
COMING_ROLES: set[str] = set()
COMING_COMMANDS: set[str] = set()
COMING_METRICS: set[str] = set()

CLIENT = {"RET2_URL", "RET2_API_KEY"}  # of the commands that talk to a service
OF_OTHERS = {
    "AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_SECRET_ACCESS_KEY", "HF_HOME", "HF_HUB_DISABLE_TELEMETRY",
    "HF_HUB_OFFLINE", "HF_TOKEN",
    "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG",
    "PGDATA", "POSTGRES_DB", "POSTGRES_PASSWORD", "POSTGRES_USER",
    "QDRANT_INIT_FILE_PATH", "QDRANT__SERVICE__API_KEY", "QDRANT__SERVICE__ENABLE_SNAPSHOT_URL_RECOVERY",
    "QDRANT__STORAGE__SNAPSHOTS_PATH", "QDRANT__TELEMETRY_DISABLED",
    "HTTPS_PROXY", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "XDG_CACHE_HOME", "ANONYMOUS",
}  # fmt: skip


def _chart_env(render: Render) -> Iterator[tuple[str, str | None]]:
    for case in CASES:
        for pod in pod_specs(render(case)).values():
            for container in containers(pod):
                yield from ((variable["name"], variable.get("value")) for variable in container.get("env", []))


def _compose_env() -> Iterator[tuple[str, str | None]]:
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    for service in services.values():
        if "ret2-" in service["image"]:
            yield from service["environment"].items()


@pytest.mark.parametrize("where", ["chart", "compose"])
def test_settings_exist(where: str, render: Render) -> None:
    names = {name for name, _ in (_chart_env(render) if where == "chart" else _compose_env())}
    print("coming settings:", *sorted(names & COMING_SETTINGS))
    assert names - SETTINGS - COMING_SETTINGS - CLIENT - OF_OTHERS == set()
    assert names & SETTINGS, "it looked at something"


def test_roles_exist(render: Render) -> None:
    roles = {value for name, value in (*_chart_env(render), *_compose_env()) if name == "RET2_ROLE"}
    print("coming roles:", *sorted(COMING_ROLES))
    assert roles - {str(role) for role in ServerRole} - COMING_ROLES == set()


def test_what_has_come_leaves_its_list() -> None:
    from service.cli.main import app

    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert SETTINGS.isdisjoint(COMING_SETTINGS)
    assert COMING_ROLES.isdisjoint(str(role) for role in ServerRole)
    assert commands.isdisjoint(COMING_COMMANDS)
    assert _exported().isdisjoint(COMING_METRICS)


def test_what_the_chart_gives_cannot_be_given_again(render: Render) -> None:
    """Of two variables of one name Kubernetes takes the last: `settings` refuses those that the templates set."""
    given = {variable["name"] for pod in pod_specs(render()).values() for c in containers(pod) for variable in c["env"]}
    assert given & SETTINGS <= {f"RET2_{name.upper()}" for name in chart_docs.MANAGED}


def test_dockerfiles_name_settings_that_exist() -> None:
    for file in (ROOT / "docker").glob("*.Dockerfile"):
        instructions = " ".join(line for line in file.read_text().splitlines() if not line.startswith("#"))
        names = set(re.findall(r"\b(RET2_\w+)=", instructions))
        assert names
        assert names - SETTINGS == set()


# --- metrics


def _exported() -> set[str]:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    Metrics(registry)
    names = set()
    for metric in registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}.get(
            metric.type, ("",)
        )
        names |= {metric.name + suffix for suffix in suffixes}
    return names


def test_metrics_exist() -> None:
    """What an alert, a panel or a scaler asks for is registered: an alert on a name that is not never fires. That running processes
    export it is seen by tests/acceptance/test_compose_roles.py."""
    exported = _exported() | COMING_METRICS | METRICS_OF_OTHERS
    asked = {name: metrics_in(expression) for name, expression in expressions()}
    print("coming metrics:", *sorted(COMING_METRICS))
    assert all(asked.values())
    assert {name: missing for name, found in asked.items() if (missing := found - exported)} == {}


def test_metrics_in() -> None:
    assert metrics_in('sum by (le) (rate(a_bucket{job="x"}[5m])) / b_total{x="y"} > up{} and c[5m]') == {
        "a_bucket",
        "b_total",
        "up",
        "c",
    }


def test_labels_in() -> None:
    assert labels_in('rate(a{x="b=c",y=~"d|e"}[5m]) > a{z!="f"} and g{}') == {"a": {"x", "y", "z"}, "g": set()}


def test_every_metric_of_ours_is_shown_or_watched() -> None:
    asked = " ".join(expression for _, expression in expressions())
    ours = {name for name in _exported() if name.startswith("ret2_") and not name.endswith(("_sum", "_count"))}
    not_shown = {name for name in ours if not re.search(rf"\b{re.sub('_bucket$', '', name)}", asked)}
    assert not_shown <= {"ret2_search_hits_bucket"}


# --- routes


def test_the_ingress_leads_to_every_route_but_the_private_ones(render: Render) -> None:
    ingress = next(item for item in render("external") if item["kind"] == "Ingress")
    paths = {(path["path"], path["pathType"]) for path in ingress["spec"]["rules"][0]["http"]["paths"]}

    def reached(route: str) -> bool:
        return any(route == path or (kind == "Prefix" and route.startswith(f"{path}/")) for path, kind in paths)

    routes = set(json.loads((ROOT / "docs/openapi.json").read_text())["paths"]) | {"/", "/docs", "/openapi.json"}
    assert {route for route in routes if not reached(route)} == {"/metrics", "/livez", "/readyz"}


def test_a_download_takes_the_files_that_a_model_is_read_from(render: Render) -> None:
    """Never a pickle."""
    from model.checkpoints.hub import SMALL_FILES

    patterns = {f"*{suffix}" for suffix in (*SMALL_FILES, ".safetensors")}
    encoder = pod_specs(render("gpu"))["Deployment/ret2-encoder"]
    for container in encoder["initContainers"]:
        arguments = container["args"]
        assert {value for flag, value in pairwise(arguments) if flag == "--include"} == patterns


# --- what is written by a program


@pytest.mark.parametrize("file", ["README.md", "values.schema.json"])
def test_documents_are_up_to_date(file: str) -> None:
    path = CHART / file
    wanted = chart_docs.documents()[path]
    if os.environ.get("UPDATE_DOCS") == "1":
        path.write_text(wanted)
    assert path.read_text() == wanted, "UPDATE_DOCS=1 pytest tests/chart"


def test_every_value_says_what_it_is() -> None:
    values = list(chart_docs.values((CHART / "values.yaml").read_text()))
    assert len(values) > 100
    assert [value.path for value in values if not value.comment] == []


def test_chart_and_project_have_one_version() -> None:
    import tomllib

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_files_without_secrets_and_hosts_of_registries() -> None:
    """A value that looks like a key has no business in these folders."""
    looks_like_a_key = re.compile(r"(?<![\w/:-])(?=[\w-]*[A-Z])(?=[\w-]*[a-z])(?=[\w-]*\d)[\w-]{32,}")
    files = [path for folder in ("docker", "k8s") for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in [*files, ROOT / "docker-compose.yml"]:
        if path.suffix not in (".pyc", ".tgz"):
            assert looks_like_a_key.findall(Path(path).read_text()) == [], path
