"""What alerts, dashboard and scalers ask Prometheus for. The scalers' queries are those of the golden renders, which are compared with
the chart."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
_CHART, _GOLDEN = ROOT / "k8s" / "ret2", ROOT / "tests" / "chart" / "golden"
# Metrics of Prometheus itself, and of a Qdrant server.
METRICS_OF_OTHERS = frozenset({"up", "collection_dead_replicas", "collection_active_replicas_min", "collections_total"})
OF_PROMETHEUS = frozenset(
    {"job", "instance", "namespace", "release", "component"}
)  # labels that it gives to what it scrapes


def expressions() -> Iterator[tuple[str, str]]:
    """With the name of the alert, panel or object."""
    for group in yaml.safe_load((_CHART / "rules/ret2.yaml").read_text())["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])
    for panel in json.loads((_CHART / "dashboards/ret2.json").read_text())["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel.get("targets", []))
    for case in ("gpu", "everything"):
        for item in yaml.load_all((_GOLDEN / f"{case}.yaml").read_text(), yaml.CSafeLoader):
            if item and item["kind"] == "ScaledObject":
                yield item["metadata"]["name"], item["spec"]["triggers"][0]["metadata"]["query"]


def metrics_in(expression: str) -> set[str]:
    """The words before a brace or a range: nothing else of PromQL stands there."""
    return set(re.findall(r"([a-zA-Z_:][\w:]*)(?=[{\[])", expression))


def labels_in(expression: str) -> dict[str, set[str]]:
    """By metric, the labels that it is selected by."""
    found: dict[str, set[str]] = {}
    for metric, selector in re.findall(r"([a-zA-Z_:][\w:]*)\{([^}]*)\}", expression):
        found.setdefault(metric, set()).update(re.findall(r"(\w+)(?:=|!)", re.sub(r'"[^"]*"', "", selector)))
    return found
