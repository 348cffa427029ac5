"""values.schema.json: unknown keys and impossible values do not install."""

from typing import Any

import helm_python as helm
import pytest
from chart_objects import Render

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "typing error at the top": ({"replicaCuont": 3}, "replicaCuont"),
    "typing error inside": ({"api": {"replicaCuont": 3}}, "replicaCuont"),
    "typing error deep inside": ({"encoder": {"gpu": {"enabeld": True}}}, "enabeld"),
    "typing error in a list": ({"encoder": {"tolerations": [{"kye": "gpu"}]}}, "kye"),
    "typing error in a peer": ({"networkPolicy": {"apiFrom": [{"podSelecter": {}}]}}, "podSelecter"),
    "an empty peer, which is everybody": ({"networkPolicy": {"apiFrom": [{}]}}, "apiFrom"),
    "setting that there is not": ({"encoder": {"settings": {"RET2_MAX_BACTH_COST": 1}}}, "RET2_MAX_BACTH_COST"),
    "setting that the chart gives": ({"api": {"settings": {"RET2_PORT": 1}}}, "RET2_PORT"),
    "secret among the settings": ({"api": {"settings": {"RET2_ENCODER_API_KEY": "abc"}}}, "RET2_ENCODER_API_KEY"),
    "number as text": ({"api": {"replicas": "three"}}, "replicas"),
    "tag latest": ({"api": {"image": {"tag": "latest"}}}, "tag"),
    "digest that is none": ({"api": {"image": {"digest": "sha256:abc"}}}, "digest"),
    "revision that is a branch": (
        {"model": {"source": "hub"}, "encoder": {"models": ["a=hub:a/b@main"]}},
        "models",
    ),
    "revision that is short": (
        {"model": {"hub": {"backbones": [{"repository": "a/b", "revision": "abc1234"}]}}},
        "revision",
    ),
    "root": ({"podSecurity": {"runAsUser": 0}}, "runAsUser"),
    "source that there is not": ({"model": {"source": "s3"}}, "source"),
    "strategy that there is not": ({"encoder": {"updateStrategy": "OnDelete"}}, "updateStrategy"),
    "labels that are ours": ({"commonLabels": {"app.kubernetes.io/name": "mine"}}, "commonLabels"),
    "a label that chooses the model": ({"encoder": {"podLabels": {"ret2/model": "mine"}}}, "podLabels"),
    "a setting among the variables": ({"extraEnv": [{"name": "RET2_HOST", "value": "::"}]}, "extraEnv"),
    "encoder as setting": ({"api": {"settings": {"RET2_ENCODER_URL": "http://n"}}}, "RET2_ENCODER_URL"),
    "models as setting": ({"encoder": {"settings": {"RET2_MODELS": "a=/a"}}}, "RET2_MODELS"),
    "a model without a name": ({"encoder": {"models": ["/models/a"]}}, "models"),
    "no model": ({"encoder": {"models": []}}, "models"),
    "value taken away": ({"drain": {"graceS": None}}, "graceS"),
    "quantity that is none": ({"api": {"resources": {"limits": {"memory": "two gigabytes"}}}}, "memory"),
}

# What the schema cannot say: values that do not go together.
DO_NOT_GO_TOGETHER: dict[str, tuple[dict[str, Any], str]] = {
    "no keys and not anonymous": ({"apiKeys": {"existingSecret": ""}}, "insecure"),
    "volume without a volume": (
        {"model": {"source": "volume"}, "encoder": {"models": ["a=/models/a"]}},
        "existingClaim",
    ),
    "volume with a path elsewhere": ({"model": {"source": "volume", "volume": {"existingClaim": "m"}}}, "/models"),
    "hub without a model": ({"model": {"source": "hub"}}, "hub:"),
    "a model of the hub without a download": ({"encoder": {"models": ["a=hub:a/b@" + "0" * 40]}}, "hub:"),
    "two models of one name": ({"encoder": {"models": ["a=bundled:atlas", "a=bundled:everyday"]}}, "one name"),
    "KEDA without Prometheus": ({"encoder": {"autoscaling": {"kind": "keda"}}}, "prometheusUrl"),
    "fewer than the least while Prometheus is away": (
        {
            "metrics": {"prometheusUrl": "http://p"},
            "indexer": {"autoscaling": {"kind": "keda", "minReplicas": 3, "fallbackReplicas": 2}},
        },
        "indexer.autoscaling.fallbackReplicas is 2",
    ),
    "more than the most while Prometheus is away": (
        {
            "metrics": {"prometheusUrl": "http://p"},
            "encoder": {"autoscaling": {"kind": "keda", "fallbackReplicas": 9}},
        },
        "encoder.autoscaling.fallbackReplicas is 9",
    ),
    "a Qdrant of its own without a key": ({"qdrant": {"bundled": {"enabled": True}}}, "qdrant.existingSecret"),
    "a Qdrant of its own on another port": (
        {"qdrant": {"existingSecret": "q", "grpcPort": 7334, "bundled": {"enabled": True}}},
        "qdrant.grpcPort is 7334",
    ),
    "least over most": ({"api": {"autoscaling": {"minReplicas": 20}}}, "maxReplicas"),
    "start longer than a rollout": ({"encoder": {"startupS": 3600}}, "progressDeadlineS"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str, render: Render) -> None:
    values, named = REFUSED[what]
    with pytest.raises(helm.HelmError, match=rf"meet the specifications of the schema[\s\S]*{named}"):
        render("default", values)


@pytest.mark.parametrize("what", DO_NOT_GO_TOGETHER)
def test_do_not_go_together(what: str, render: Render) -> None:
    values, named = DO_NOT_GO_TOGETHER[what]
    with pytest.raises(helm.HelmError, match=named):
        render("default", values)


# Kubernetes' own words, passed on as they are, and what Helm gives every chart of another.
OPEN = {"nodeAffinity", "podAffinity", "podAntiAffinity", "global"}


def test_every_object_of_the_schema_is_closed(chart: helm.Chart) -> None:
    """Either it knows its keys, or it is a map of strings, quantities or settings."""
    assert chart.schema is not None
    assert _open_objects(chart.schema, "") == []


def _open_objects(node: Any, name: str) -> list[str]:
    if isinstance(node, list):
        return [found for item in node for found in _open_objects(item, name)]
    if not isinstance(node, dict) or name in OPEN:
        return []
    here = [name] if node.get("type") == "object" and node.get("additionalProperties", True) is True else []
    return here + [found for key, value in node.items() for found in _open_objects(value, key)]


def test_every_value_is_in_the_schema_and_the_other_way_round(chart: helm.Chart) -> None:
    assert chart.schema is not None
    assert _paths(chart.values, chart.schema, chart.schema["$defs"]) == []


def _paths(values: dict[str, Any], schema: dict[str, Any], known: dict[str, Any], prefix: str = "") -> list[str]:
    if "$ref" in schema:
        schema = known[schema["$ref"].rpartition("/")[2]]
    if "required" not in schema:  # a map, or a part of Kubernetes' own
        return []
    named = set(schema["properties"]) - {"global"}
    wrong = [f"{prefix}{name}" for name in named ^ set(values)]
    wrong += [f"{prefix}{name} is not required" for name in named - set(schema["required"])]
    for name in named & set(values):
        if isinstance(values[name], dict):
            wrong += _paths(values[name], schema["properties"][name], known, f"{prefix}{name}.")
    return wrong
