"""What a security review looks for, as a table of rules, each over every pod that the chart makes: hooks and init containers too."""

import copy
import re
from collections.abc import Callable
from typing import Any

import helm_python as helm
import pytest
import yaml
from chart_objects import CASES, ROOT, Object, Render, containers, objects_in, pod_specs

Check = Callable[[Object], bool]
Break = Callable[[Object], Any]


def each(check: Check) -> Check:
    return lambda pod: all(check(container) for container in containers(pod))


def security(name: str, wanted: Any) -> tuple[Check, Break]:
    """A field of every container's securityContext; it is broken by leaving it out of the last container."""
    return (
        each(lambda container: container["securityContext"].get(name) == wanted),
        lambda pod: containers(pod)[-1]["securityContext"].pop(name),
    )


_RESTRICTED_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "name",
    "persistentVolumeClaim",
    "projected",
    "secret",
}

RULES: dict[str, tuple[Check, Break]] = {
    "not root": security("runAsNonRoot", True),
    "no escalation": security("allowPrivilegeEscalation", False),
    "not privileged": security("privileged", False),
    "read-only root": security("readOnlyRootFilesystem", True),
    "no capabilities": security("capabilities", {"drop": ["ALL"]}),
    "seccomp": security("seccompProfile", {"type": "RuntimeDefault"}),
    "numeric user": (
        each(lambda container: container["securityContext"].get("runAsUser", 0) >= 1000),
        lambda pod: containers(pod)[-1]["securityContext"].update(runAsUser=0),
    ),
    "no token": (
        lambda pod: pod["automountServiceAccountToken"] is False,
        lambda pod: pod.update(automountServiceAccountToken=True),
    ),
    # A Service named ret2 would set RET2_PORT=tcp://… in every pod.
    "no service links": (
        lambda pod: pod["enableServiceLinks"] is False,
        lambda pod: pod.update(enableServiceLinks=True),
    ),
    "nothing of the host": (
        lambda pod: not any(pod.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")),
        lambda pod: pod.update(hostNetwork=True),
    ),
    "volumes of the restricted standard": (
        lambda pod: all(set(volume) <= _RESTRICTED_VOLUMES for volume in pod["volumes"]),
        lambda pod: pod["volumes"].append({"name": "host", "hostPath": {"path": "/"}}),
    ),
    "bounded emptyDir": (
        lambda pod: all("sizeLimit" in volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume),
        lambda pod: pod["volumes"].append({"name": "more", "emptyDir": {}}),
    ),
    "requests and a memory limit": (
        each(lambda c: {"cpu", "memory"} <= c["resources"]["requests"].keys() and "memory" in c["resources"]["limits"]),
        lambda pod: containers(pod)[-1].pop("resources") and containers(pod)[-1].update(resources={"requests": {}}),
    ),
    "writable /tmp": (
        each(lambda container: any(mount["mountPath"] == "/tmp" for mount in container["volumeMounts"])),
        lambda pod: containers(pod)[-1].update(volumeMounts=[]),
    ),
    "pinned image": (
        each(lambda container: "@sha256:" in container["image"] or _tag(container["image"]) not in ("", "latest")),
        lambda pod: containers(pod)[-1].update(image="ret2-app"),
    ),
    "no shell": (
        each(lambda container: container.get("command", ["ret2"])[0] not in ("sh", "bash", "/bin/sh", "/bin/bash")),
        lambda pod: containers(pod)[-1].update(command=["sh", "-c", "ret2 serve"]),
    ),
    "keys as files are read-only": (
        each(
            lambda c: all(mount.get("readOnly") for mount in c["volumeMounts"] if mount["mountPath"].startswith("/etc"))
        ),
        lambda pod: containers(pod)[-1]["volumeMounts"].append({"name": "keys", "mountPath": "/etc/keys"}),
    ),
}


def _tag(image: str) -> str:
    return image.rpartition("/")[2].partition(":")[2]


@pytest.mark.parametrize("rule", RULES)
def test_pods(rule: str, case: str, render: Render) -> None:
    check, _ = RULES[rule]
    assert [name for name, pod in pod_specs(render(case)).items() if not check(pod)] == []


@pytest.mark.parametrize("rule", RULES)
def test_the_rule_can_fail(rule: str, render: Render) -> None:
    check, break_it = RULES[rule]
    for pod in pod_specs(render("gpu")).values():
        broken = copy.deepcopy(pod)
        try:
            break_it(broken)
            assert not check(broken)
        except KeyError:  # the rule reads what the break took away
            continue


def test_pods_of_hooks_and_init_containers_are_looked_at(render: Render) -> None:
    pods = pod_specs(render("gpu"))
    assert set(pods) == {
        "Deployment/ret2-api", "Deployment/ret2-encoder", "Deployment/ret2-indexer", "Job/ret2-migrations", "Pod/ret2-test",
    }  # fmt: skip
    assert [container["name"] for container in containers(pods["Deployment/ret2-encoder"])] == [
        "download-0",
        "download-1",
        "encoder",
    ]


def test_no_secret_is_made_or_shown(case: str, render: Render) -> None:
    """Secrets are named, never rendered: an environment variable that carries one is a reference."""
    objects = render(case)
    assert not [item for item in objects if item["kind"] == "Secret"]
    for pod in pod_specs(objects).values():
        for container in containers(pod):
            for variable in container.get("env", []):
                secret = variable["name"].endswith(("_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "DATABASE_URL", "KEY_ID"))
                assert secret == ("valueFrom" in variable), variable["name"]


def test_no_account_has_a_token(render: Render) -> None:
    for case in CASES:
        for item in render(case):
            if item["kind"] == "ServiceAccount":
                assert item["automountServiceAccountToken"] is False
            assert item["kind"] not in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")


# --- network


def _selected(policy: Object) -> str:
    return str(policy["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"])


def _policies(objects: list[Object]) -> dict[str, Object]:
    return {_selected(item): item["spec"] for item in objects if item["kind"] == "NetworkPolicy"}


@pytest.mark.parametrize("case", ["default", "gpu", "external", "bundled", "everything"])
def test_every_pod_has_a_policy_for_both_directions(case: str, render: Render) -> None:
    objects = render(case)
    policies = _policies(objects)
    stores = {"qdrant", "postgresql"} if case == "bundled" else set()
    assert set(policies) == {"api", "encoder", "indexer", "migrations", "test"} | stores
    assert len(policies) == len(pod_specs(objects))
    assert all(policy["policyTypes"] == ["Ingress", "Egress"] for policy in policies.values())


def _components(rule: Object, side: str) -> set[str]:
    return {
        peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for peer in rule.get(side, [])
        if "matchLabels" in peer.get("podSelector", {})
    }


@pytest.mark.parametrize("case", ["default", "external"])
def test_only_api_and_indexer_reach_the_encoder_which_reaches_nobody(case: str, render: Render) -> None:
    encoder = _policies(render(case))["encoder"]
    callers, scrapers = encoder["ingress"]
    assert _components(callers, "from") == {"api", "indexer"}
    assert len(callers["from"]) == 2
    assert scrapers["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    assert encoder["egress"] == []


def test_stores_of_its_own_are_reached_by_who_needs_them_and_reach_nobody(render: Render) -> None:
    policies = _policies(render("bundled"))
    callers = {"qdrant": {"api", "indexer"}, "postgresql": {"api", "indexer", "migrations"}}
    for store, who in callers.items():
        (rule,) = policies[store]["ingress"]
        assert _components(rule, "from") == who
        assert len(rule["from"]) == len(who)
        assert policies[store]["egress"] == []
    for component in ("api", "indexer", "migrations"):
        reached = {
            port["port"]: _components(rule, "to") for rule in policies[component]["egress"] for port in rule["ports"]
        }
        assert reached[5432] == {"postgresql"}
        if component != "migrations":
            assert reached[6333] == reached[6334] == {"qdrant"}


def test_metrics_are_for_scrapers_and_the_api_s_port_is_not(render: Render) -> None:
    policies = _policies(render())
    for component in ("api", "encoder", "indexer"):
        *callers, scrapers = policies[component]["ingress"]
        assert [port["port"] for port in scrapers["ports"]] == ["metrics"], component
        assert all(port["port"] == "http" for rule in callers for port in rule["ports"]), component


NEXT = {"podSelector": {"matchLabels": {"app.kubernetes.io/instance": "next"}}}


@pytest.mark.parametrize(
    ("url", "port"), [("http://next-ret2-encoder.search:8080", 8080), ("https://encoder.example.com", 443)]
)
def test_api_and_indexer_reach_the_other_encoder(url: str, port: int, render: Render) -> None:
    extra = {"encoder": {"others": [url]}, "networkPolicy": {"otherEncodersTo": [NEXT]}}
    policies = _policies(render("default", extra))
    way = {"ports": [{"port": port, "protocol": "TCP"}], "to": [NEXT]}
    assert {component for component, policy in policies.items() if way in policy["egress"]} == {"api", "indexer"}
    anywhere = {"ports": [{"port": port, "protocol": "TCP"}]}
    assert anywhere in _policies(render("default", {"encoder": {"others": [url]}}))["indexer"]["egress"]


def test_an_encoder_admits_those_of_another_release_that_are_named(render: Render) -> None:
    callers, _ = _policies(render("default", {"networkPolicy": {"encoderFrom": [NEXT]}}))["encoder"]["ingress"]
    assert NEXT in callers["from"]
    assert len(callers["from"]) == 3, "and its own api and indexer"
    assert {port["port"] for port in callers["ports"]} == {"http"}


def _admits(peer: Object, labels: dict[str, str]) -> bool:
    selector = peer["podSelector"]
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", [])
    )


def test_the_two_releases_of_the_manual_reach_each_other(chart: helm.Chart) -> None:
    """As docs/deploy.md writes them: api and indexer of the one, the encoder of the other, and nobody else."""
    section = (ROOT / "docs" / "deploy.md").read_text().partition("### A new model without a gap")[2]
    of_next, of_first = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL))
    first = objects_in(chart.render(of_first, name="ret2", namespace="search", is_install=True))
    following = objects_in(chart.render(of_next, name="next", namespace="search", is_install=True))
    (encoder,) = (
        item for item in following if (item["kind"], item["metadata"]["name"]) == ("Service", "next-ret2-encoder")
    )
    url = f"http://{encoder['metadata']['name']}.search.svc.cluster.local:{encoder['spec']['ports'][0]['port']}"
    assert of_first["encoder"]["others"] == [url]
    (admitted,) = _policies(following)["encoder"]["ingress"][0]["from"][2:]
    for item in first:
        if item["kind"] == "Deployment":
            component = item["metadata"]["labels"]["app.kubernetes.io/component"]
            assert _admits(admitted, item["spec"]["template"]["metadata"]["labels"]) == (component != "encoder")
    ways = [
        rule for rule in _policies(first)["indexer"]["egress"] if {"port": 8080, "protocol": "TCP"} in rule["ports"]
    ]
    assert [_admits(peer, encoder["spec"]["selector"]) for rule in ways for peer in rule["to"]] == [True]


def test_dns_may_have_another_port(render: Render) -> None:
    """A policy is about the pods' ports, not the Service's: OpenShift's answer on 5353."""
    for policy in _policies(render("gpu", {"networkPolicy": {"dnsPorts": [5353]}})).values():
        assert {port["port"] for port in policy["egress"][0]["ports"]} == {5353}


def test_without_scrapers_nobody_reaches_the_indexer(render: Render) -> None:
    policies = _policies(render("default", {"networkPolicy": {"metricsFrom": []}}))
    assert policies["indexer"]["ingress"] == []
    assert [_components(rule, "from") for rule in policies["encoder"]["ingress"]] == [{"api", "indexer"}]


def test_a_download_opens_public_addresses_only(render: Render) -> None:
    dns, hub = _policies(render("gpu"))["encoder"]["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert {port["port"] for port in hub["ports"]} == {443}
    private = {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "127.0.0.0/8", "100.64.0.0/10"}
    assert private <= set(hub["to"][0]["ipBlock"]["except"])


def test_with_traces_the_encoder_reaches_their_collector_alone(render: Render) -> None:
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    extra = {"tracing": {"endpoint": "http://collector.monitoring:4318"}, "networkPolicy": {"tracingTo": [peer]}}
    policies = _policies(render("default", extra))
    dns, traces = policies["encoder"]["egress"]
    assert {port["port"] for port in dns["ports"]} == {53}
    assert traces == {"ports": [{"port": 4318, "protocol": "TCP"}], "to": [peer]}
    assert traces in policies["api"]["egress"]
    assert traces in policies["indexer"]["egress"]


def test_ports_of_the_stores_are_open(render: Render) -> None:
    """Each where its URL says, and where the values say."""
    egress = _policies(render("external"))["indexer"]["egress"]
    ports = {port["port"]: rule.get("to") for rule in egress for port in rule["ports"]}
    assert set(ports) == {53, "http", 443, 25060}
    assert ports[25060] == [{"ipBlock": {"cidr": "192.0.2.16/28"}}]
    everything = _policies(render("everything"))["api"]["egress"]
    assert {port["port"] for rule in everything for port in rule["ports"]} == {
        53,
        "http",
        6333,
        6334,
        5432,
        8333,
        8080,
        80,
        443,
        4318,
    }


def test_the_migration_is_let_through_before_it_runs(find: Callable[..., Object]) -> None:
    job, policy = (find(kind, "ret2-migrations")["metadata"]["annotations"] for kind in ("Job", "NetworkPolicy"))
    assert job["helm.sh/hook"] == policy["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert int(policy["helm.sh/hook-weight"]) < int(job["helm.sh/hook-weight"])
    assert "hook-succeeded" in policy["helm.sh/hook-delete-policy"], "what is a hook is not uninstalled"
