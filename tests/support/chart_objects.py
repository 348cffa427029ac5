"""The chart k8s/ret2 and the objects in its rendered templates."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def merged(values: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    result = dict(values)
    for key, value in extra.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


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
