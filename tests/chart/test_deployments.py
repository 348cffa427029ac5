"""What the deployments promise: they stop in order, start in time, scale, and never mix two models."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from chart_objects import Object, Render, containers, pod_specs

Find = Callable[..., Object]
ROLES = ("api", "encoder", "indexer")


def _pod(find: Find, role: str, case: str = "default", extra: dict[str, Any] | None = None) -> Object:
    spec: Object = find("Deployment", f"ret2-{role}", case, extra)["spec"]["template"]["spec"]
    return spec


def _env(container: Object) -> dict[str, Any]:
    return {variable["name"]: variable.get("value") for variable in container["env"]}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("drain", [{}, {"preStopS": 30, "graceS": 120}])
def test_grace_times_add_up(role: str, drain: dict[str, int], find: Find) -> None:
    """Kubernetes counts preStop too: what is left for the process is more than it takes for itself."""
    pod = _pod(find, role, extra={"drain": drain})
    container = pod["containers"][0]
    pre_stop_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    grace_s = float(_env(container)["RET2_GRACE_S"])
    assert (pre_stop_s, grace_s) == (drain.get("preStopS", 10), drain.get("graceS", 25))
    assert pod["terminationGracePeriodSeconds"] > pre_stop_s + grace_s


@pytest.mark.parametrize("role", ROLES)
def test_probes(role: str, find: Find) -> None:
    container = _pod(find, role)["containers"][0]
    paths = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/livez", "readiness": "/readyz", "liveness": "/livez"}
    assert container["readinessProbe"]["timeoutSeconds"] > 5, "a check of /readyz takes up to 5 s"
    assert container["livenessProbe"]["failureThreshold"] * container["livenessProbe"]["periodSeconds"] >= 30


@pytest.mark.parametrize(("startup_s", "tries"), [(900, 180), (901, 181)])
def test_the_encoder_has_time_to_load_its_model(startup_s: int, tries: int, find: Find) -> None:
    probe = _pod(find, "encoder", extra={"encoder": {"startupS": startup_s}})["containers"][0]["startupProbe"]
    assert probe["failureThreshold"] == tries
    assert probe["failureThreshold"] * probe["periodSeconds"] >= startup_s
    assert find("Deployment", "ret2-encoder")["spec"]["progressDeadlineSeconds"] > 900


# --- one model behind the Service

OTHER_MODELS: dict[str, dict[str, Any]] = {
    "another revision": {"encoder": {"models": ["ret2-l=hub:example/ret2-l@" + "f" * 40]}},
    "another repository": {"encoder": {"models": ["ret2-l=hub:example/other@" + "f" * 40]}},
    "another name": {"encoder": {"models": ["l=hub:example/ret2-l@0123456789abcdef0123456789abcdef01234567"]}},
    "one model more": {
        "encoder": {
            "models": ["ret2-l=hub:example/ret2-l@0123456789abcdef0123456789abcdef01234567", "atlas=bundled:atlas"]
        }
    },
    "another backbone": {"model": {"hub": {"backbones": []}}},
    "another source": {"model": {"source": "image"}, "encoder": {"models": ["a=/opt/a"]}},
}


def _generation(find: Find, case: str, extra: dict[str, Any] | None = None) -> str:
    selector = find("Service", "ret2-encoder", case, extra)["spec"]["selector"]
    deployment = find("Deployment", "ret2-encoder", case, extra)["spec"]
    assert selector.items() <= deployment["template"]["metadata"]["labels"].items()
    assert "ret2/model" not in deployment["selector"]["matchLabels"], "a Deployment's selector cannot be changed"
    return str(selector["ret2/model"])


@pytest.mark.parametrize("what", OTHER_MODELS)
def test_another_model_is_another_generation(what: str, find: Find) -> None:
    assert _generation(find, "gpu") != _generation(find, "gpu", OTHER_MODELS[what])


def test_a_model_in_the_image_changes_with_the_image(find: Find) -> None:
    other = {"encoder": {"image": {"tag": "0.2.0-cpu"}}}
    assert _generation(find, "default") != _generation(find, "default", other)
    assert _generation(find, "external") == _generation(find, "external", other)


def test_what_is_not_the_model_keeps_the_generation(find: Find) -> None:
    other = {"encoder": {"replicas": 5, "settings": {"RET2_COMPILE": True}}, "logLevel": "debug"}
    assert _generation(find, "gpu") == _generation(find, "gpu", other)


def test_the_encoder_is_recreated(find: Find) -> None:
    assert find("Deployment", "ret2-encoder")["spec"]["strategy"] == {"type": "Recreate"}


def test_a_new_chart_does_not_replace_pods(render: Render) -> None:
    """Labels of pods carry no version of the chart: with Recreate every such upgrade would stop the encoder."""
    for item in render():
        if item["kind"] == "Deployment":
            assert (
                not {"helm.sh/chart", "app.kubernetes.io/version"}
                & item["spec"]["template"]["metadata"]["labels"].keys()
            )


# --- where the model comes from


def test_model_of_the_image(find: Find) -> None:
    pod = _pod(find, "encoder")
    assert _env(pod["containers"][0])["RET2_MODELS"] == "atlas=bundled:atlas"
    assert "initContainers" not in pod
    assert "models" not in {volume["name"] for volume in pod["volumes"]}


def test_model_of_the_hub_is_downloaded_at_its_revision_and_then_offline(find: Find) -> None:
    pod = _pod(find, "encoder", "gpu")
    commands = [container["command"] for container in pod["initContainers"]]
    assert commands == [
        ["hf", "download", "example/ret2-l", "--revision", "0123456789abcdef0123456789abcdef01234567"],
        ["hf", "download", "example/clip-vit-large", "--revision", "fedcba9876543210fedcba9876543210fedcba98"],
    ]
    env = _env(pod["containers"][0])
    assert env["RET2_MODELS"] == "ret2-l=hub:example/ret2-l@0123456789abcdef0123456789abcdef01234567"
    assert (env["HF_HUB_OFFLINE"], env["HF_HOME"]) == ("1", _env(pod["initContainers"][0])["HF_HOME"])
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in pod["containers"][0]["volumeMounts"]
    assert "HF_TOKEN" not in env, "the token is for the download"


def test_a_download_without_a_claim_is_bounded(find: Find) -> None:
    pod = _pod(find, "encoder", "gpu", {"model": {"hub": {"existingClaim": "", "size": "40Gi"}}})
    assert {"name": "models", "emptyDir": {"sizeLimit": "40Gi"}} in pod["volumes"]


@pytest.mark.parametrize(
    ("case", "volume"),
    [
        ("external", {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}}),
        (
            "everything",
            {"csi": {"readOnly": True, "driver": "models.csi.example.com", "volumeAttributes": {"bucket": "models"}}},
        ),
    ],
)
def test_model_of_a_volume_is_read_only(case: str, volume: Object, find: Find) -> None:
    name = "ret2-encoder" if case == "external" else "ret2-retrieval-encoder"  # everything has a name of its own
    pod = find("Deployment", name, case)["spec"]["template"]["spec"]
    assert {"name": "models", **volume} in pod["volumes"]
    assert _env(pod["containers"][0])["RET2_MODELS"] == (
        "ret2-l=/models/ret2-l" + ("" if case == "external" else ",atlas=bundled:atlas")
    )


# --- GPUs


def test_gpu(find: Find) -> None:
    pod = _pod(find, "encoder", "gpu")
    container = pod["containers"][0]
    assert (
        container["resources"]["limits"]["nvidia.com/gpu"] == container["resources"]["requests"]["nvidia.com/gpu"] == 1
    )
    assert container["resources"]["limits"]["memory"] == "24Gi"
    assert _env(container)["RET2_DEVICE"] == "cuda"
    assert container["image"].endswith("-cuda")
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L4"}
    assert [taint["key"] for taint in pod["tolerations"]] == ["nvidia.com/gpu", "dedicated"]


def test_no_gpu(find: Find) -> None:
    pod = _pod(find, "encoder")
    container = pod["containers"][0]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert _env(container)["RET2_DEVICE"] == "cpu"
    assert container["image"].endswith("-cpu")
    assert "tolerations" not in pod


# --- scaling


def test_what_scales_itself_has_no_replicas(render: Render) -> None:
    objects = render("everything")
    scaled = {item["spec"]["scaleTargetRef"]["name"] for item in objects if "scaleTargetRef" in item.get("spec", {})}
    deployments = {item["metadata"]["name"]: item["spec"] for item in objects if item["kind"] == "Deployment"}
    assert scaled == set(deployments)
    assert not any("replicas" in spec for spec in deployments.values())
    assert all("replicas" in item["spec"] for item in render() if item["kind"] == "Deployment")


def test_encoder_scales_on_the_sum_of_queues_and_indexer_on_the_one_ledger(find: Find, render: Render) -> None:
    """Each encoder has a queue of its own; every process reports the whole ledger."""
    encoder = find("ScaledObject", "ret2-encoder", "gpu")["spec"]
    indexer = next(item for item in render("everything") if item["kind"] == "ScaledObject")["spec"]
    queries = [spec["triggers"][0]["metadata"]["query"] for spec in (encoder, indexer)]
    assert queries == [
        'sum(ret2_queue_cost{job="ret2",namespace="search",release="ret2"})',
        'max(ret2_pending_documents{job="ret2",namespace="search",release="ret2"})',
    ]
    for spec in (encoder, indexer):
        assert spec["minReplicaCount"] >= 1, "no pod, no metric, no scaling up"
        assert spec["fallback"]["replicas"] >= spec["minReplicaCount"]
        assert spec["triggers"][0]["metadata"]["ignoreNullValues"] == "false"


@pytest.mark.parametrize(
    ("extra", "roles"),
    [
        ({}, {"api"}),
        ({"api": {"replicas": 1}}, set()),
        ({"encoder": {"replicas": 2}, "indexer": {"replicas": 3}}, {"api", "encoder", "indexer"}),
        ({"api": {"replicas": 5, "autoscaling": {"enabled": True, "minReplicas": 1}}}, set()),
        ({"encoder": {"replicas": 1, "autoscaling": {"kind": "hpa", "minReplicas": 2}}}, {"api", "encoder"}),
    ],
)
def test_disruption_budgets_only_of_two_pods_or_more(extra: dict[str, Any], roles: set[str], render: Render) -> None:
    budgets = {item["metadata"]["name"] for item in render("default", extra) if item["kind"] == "PodDisruptionBudget"}
    assert budgets == {f"ret2-{role}" for role in roles}


def test_pods_are_spread(render: Render) -> None:
    for name, pod in pod_specs(render("everything")).items():
        if name.startswith("Deployment/"):
            for constraint in pod["topologySpreadConstraints"]:
                component = constraint["labelSelector"]["matchLabels"]["app.kubernetes.io/component"]
                assert name.endswith(f"-{component}")


def test_every_service_finds_its_pods(case: str, render: Render) -> None:
    """A pod that has not the port, by its name, is none of the Service's."""
    objects = render(case)
    pods = [item["spec"]["template"] for item in objects if item["kind"] in ("Deployment", "StatefulSet")]
    for item in objects:
        if item["kind"] == "Service":
            wanted = {port["targetPort"] for port in item["spec"]["ports"]}
            found = [pod for pod in pods if item["spec"]["selector"].items() <= pod["metadata"]["labels"].items()]
            found = [
                pod
                for pod in found
                if wanted <= {p["name"] for c in containers(pod["spec"]) for p in c.get("ports", [])}
            ]
            assert len(found) == (3 if item["metadata"]["name"].endswith("-metrics") else 1)


# --- metrics


def test_metrics_have_a_port_that_no_other_service_leads_to(case: str, render: Render) -> None:
    objects = render(case)
    ports = {
        item["metadata"]["labels"]["app.kubernetes.io/component"]: [
            port["targetPort"] for port in item["spec"]["ports"]
        ]
        for item in objects
        if item["kind"] == "Service"
    }
    assert [component for component, leads_to in ports.items() if "metrics" in leads_to] == ["metrics"]
    assert ports["api"] == ports["encoder"] == ["http"]
    for item in objects:
        if item["kind"] == "Deployment":
            container = item["spec"]["template"]["spec"]["containers"][0]
            listening = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
            env = _env(container)
            assert listening == {"http": env["RET2_PORT"], "metrics": env["RET2_METRICS_PORT"]}


def test_series_say_whose_they_are(render: Render) -> None:
    """What queries choose by: release and component are the pod's, whatever Service it was found by."""
    monitor = next(item for item in render("everything") if item["kind"] == "ServiceMonitor")
    service = next(item for item in render("everything") if item.get("spec", {}).get("clusterIP") == "None")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] == service["spec"]["ports"][0]["name"]
    assert {rule["targetLabel"]: rule.get("sourceLabels") for rule in endpoint["relabelings"]} == {
        "job": None,
        "release": ["__meta_kubernetes_pod_label_app_kubernetes_io_instance"],
        "component": ["__meta_kubernetes_pod_label_app_kubernetes_io_component"],
    }


# --- values as they are meant


def _strings(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [found for value in node.values() for found in _strings(value)]
    if isinstance(node, list):
        return [found for value in node for found in _strings(value)]
    return [node] if isinstance(node, str) else []


@pytest.mark.parametrize("number", [1_048_576, 104_857_600, 1_000_680_000])
def test_large_numbers_stay_whole(number: int, find: Find, render: Render) -> None:
    """Helm's numbers are floats, printed as 1.048576e+08, which no setting and no field takes."""
    extra: dict[str, Any] = {
        "podSecurity": dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), number),
        "drain": {"graceS": number, "preStopS": number},
        "migrations": {"deadlineS": number},
        "metrics": {"prometheusUrl": "http://prometheus:9090"},
        "indexer": {"autoscaling": {"kind": "keda", "pendingDocuments": number, "cooldownS": number}},
        "encoder": {"autoscaling": {"kind": "keda", "queueCost": number, "cooldownS": number}, "startupS": number},
    }
    extra["encoder"]["progressDeadlineS"] = number + 1
    for role in ROLES:
        extra.setdefault(role, {})["settings"] = {"RET2_MAX_BODY_BYTES": number}
    objects = render("default", extra)
    assert [text for text in _strings(objects) if re.search(r"\de\+\d", text)] == []
    pod = _pod(find, "api", extra=extra)
    assert _env(pod["containers"][0])["RET2_MAX_BODY_BYTES"] == str(number)
    assert pod["securityContext"]["runAsUser"] == pod["containers"][0]["securityContext"]["runAsUser"] == number
    assert type(pod["securityContext"]["runAsUser"]) is int
    triggers = [item["spec"]["triggers"][0]["metadata"] for item in objects if item["kind"] == "ScaledObject"]
    assert [trigger["threshold"] for trigger in triggers] == [str(number)] * 2


def test_settings_of_every_kind(find: Find) -> None:
    settings = {"RET2_COMPILE": True, "RET2_BATCH_WAIT_SHARE": 0.25, "RET2_IMPORT_ROOTS": "s3://a/", "RET2_THREADS": 4}
    env = _env(_pod(find, "encoder", extra={"encoder": {"settings": settings}})["containers"][0])
    assert [env[name] for name in settings] == ["true", "0.25", "s3://a/", "4"]


def test_the_platform_may_choose_the_user(find: Find, render: Render) -> None:
    """OpenShift refuses a pod with an id outside its namespace's range."""
    extra = {"podSecurity": dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"))}
    for pod in pod_specs(render("gpu", extra)).values():
        for context in (pod["securityContext"], *(container["securityContext"] for container in containers(pod))):
            assert not context.keys() & {"runAsUser", "runAsGroup", "fsGroup"}
            assert context["runAsNonRoot"] is True


NOT_PLAIN: dict[str, tuple[dict[str, Any], str]] = {
    "a wildcard": ({"ingress": {"enabled": True, "host": "*.example.com", "tlsSecret": "1"}}, "*.example.com"),
    "a number as region": ({"blobs": {"region": "1234"}}, "1234"),
    "a number as Secret": ({"qdrant": {"existingSecret": "123"}}, "123"),
    "a number as entry": ({"database": {"key": "5432"}}, "5432"),
    "a number as class": ({"api": {"priorityClassName": "1e3"}}, "1e3"),
    "a word of YAML as Secret": ({"apiKeys": {"existingSecret": "null", "key": "on"}}, "null"),
}


@pytest.mark.parametrize("what", NOT_PLAIN)
def test_text_stays_text(what: str, render: Render) -> None:
    extra, wanted = NOT_PLAIN[what]
    assert wanted in _strings(render("default", extra))


def test_labels_are_given_once(render: Render, manifests: Callable[..., dict[str, str]]) -> None:
    """The nearest value wins; a key twice in a mapping is no YAML for a strict reader."""
    extra = {
        "commonLabels": {"team": "a", "tier": "b"},
        "api": {"podLabels": {"team": "c"}},
        "metrics": {
            name: {"enabled": True, "labels": {"team": name}} for name in ("serviceMonitor", "rules", "dashboard")
        },
    }
    for text in manifests("default", extra).values():
        for block in re.findall(r"labels:(?: #.*)?\n((?: +[^\s:]+: .*\n)+)", text):
            names = re.findall(r"^ +(\S+):", block, re.MULTILINE)
            assert len(names) == len(set(names)), block
    found = {
        item["kind"]: item["metadata"]["labels"]["team"]
        for item in render("default", extra)
        if item["kind"] != "Service"
    }
    assert (found["ServiceMonitor"], found["PrometheusRule"], found["ConfigMap"]) == (
        "serviceMonitor",
        "rules",
        "dashboard",
    )
    api = next(item for item in render("default", extra) if item["kind"] == "Deployment")
    assert api["spec"]["template"]["metadata"]["labels"].items() >= {"team": "c", "tier": "b"}.items()
    assert api["metadata"]["labels"]["team"] == "a"


def test_every_pod_has_the_common_annotations_and_variables(render: Render) -> None:
    objects = render("everything")
    for item in objects:
        pod = item if item["kind"] == "Pod" else item.get("spec", {}).get("template")
        if pod is not None:
            assert pod["metadata"]["annotations"]["example.com/owner"] == "search", item["metadata"]["name"]
    extra = [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}]
    for name, pod in pod_specs(render("gpu", {"extraEnv": extra})).items():
        for container in containers(pod):
            assert (extra[0] in container["env"]) == (name != "Pod/ret2-test"), name  # it calls nobody but the api


def test_hooks_run_where_they_may(render: Render) -> None:
    pods = pod_specs(render("everything"))
    job = next(pod for name, pod in pods.items() if name.startswith("Job/"))
    assert (job["nodeSelector"], job["priorityClassName"]) == ({"pool": "batch"}, "batch")
    assert [taint["value"] for taint in job["tolerations"]] == ["batch"]
    test = next(pod for name, pod in pods.items() if name.startswith("Pod/"))
    assert test["priorityClassName"] == "front", "as the api's"


# --- a second encoder


def test_both_who_may_call_it_know_the_other_encoder(find: Find) -> None:
    """A reindex is ordered by the api and done by the indexer. The own encoder is first: its first model is the default."""
    url = "http://next-ret2-encoder.search.svc.cluster.local:8080"
    extra = {"encoder": {"others": [url]}}
    for role in ("api", "indexer"):
        own = _env(_pod(find, role)["containers"][0])["RET2_ENCODER_URL"]
        assert "," not in own
        assert _env(_pod(find, role, extra=extra)["containers"][0])["RET2_ENCODER_URL"] == f"{own},{url}"
    assert "RET2_ENCODER_URL" not in _env(_pod(find, "encoder", extra=extra)["containers"][0])


def test_models_of_the_hub_are_downloaded_each(find: Find) -> None:
    commits = ("0" * 40, "1" * 40)
    models = [f"a=hub:example/a@{commits[0]}", "atlas=bundled:atlas", f"b=hub:example/b@{commits[1]}"]
    pod = _pod(find, "encoder", extra={"model": {"source": "hub"}, "encoder": {"models": models}})
    assert [container["command"][2:] for container in pod["initContainers"]] == [
        ["example/a", "--revision", commits[0]],
        ["example/b", "--revision", commits[1]],
    ]
    assert _env(pod["containers"][0])["RET2_MODELS"] == ",".join(models)


# --- stores of its own


def test_api_and_indexer_find_the_stores_of_their_release(find: Find, render: Render) -> None:
    objects = render("bundled")
    for name, ports in (("qdrant", {6333, 6334}), ("postgresql", {5432})):
        service, stateful = find("Service", f"ret2-{name}", "bundled"), find("StatefulSet", f"ret2-{name}", "bundled")
        (container,) = stateful["spec"]["template"]["spec"]["containers"]
        named = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert {named[port["targetPort"]] for port in service["spec"]["ports"]} == ports
        assert {port["port"] for port in service["spec"]["ports"]} == ports
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        (claim,) = stateful["spec"]["volumeClaimTemplates"]
        assert mounted[claim["metadata"]["name"]] in ("/qdrant/storage", "/var/lib/postgresql/data")
    for component in ("api", "indexer"):
        environment = _env(pod_specs(objects)[f"Deployment/ret2-{component}"]["containers"][0])
        assert environment["RET2_QDRANT_URL"] == "http://ret2-qdrant.search.svc.cluster.local:6333"


def test_keys_of_the_stores_are_those_that_api_and_indexer_send(find: Find) -> None:
    def secret(item: Object, name: str) -> Any:
        (container,) = item["spec"]["template"]["spec"]["containers"]
        (found,) = (one["valueFrom"]["secretKeyRef"] for one in container["env"] if one["name"] == name)
        return found

    api = find("Deployment", "ret2-api", "bundled")
    qdrant, postgresql = (find("StatefulSet", f"ret2-{name}", "bundled") for name in ("qdrant", "postgresql"))
    assert secret(qdrant, "QDRANT__SERVICE__API_KEY") == secret(api, "RET2_QDRANT_API_KEY")
    password, url = secret(postgresql, "POSTGRES_PASSWORD"), secret(api, "RET2_DATABASE_URL")
    assert (password["name"], password["key"], url["key"]) == (url["name"], "password", "url")


def test_a_database_of_its_own_is_not_migrated_before_it_is_there(find: Find) -> None:
    for kind in ("Job", "NetworkPolicy"):
        assert find(kind, "ret2-migrations", "bundled")["metadata"]["annotations"]["helm.sh/hook"] == "pre-upgrade"


def test_a_qdrant_that_loads_for_long_is_not_restarted(find: Find) -> None:
    """It would begin again each time."""
    bundled = {"config": {"STORAGE__COLLECTION__STRICT_MODE__ENABLED": True}, "pod": {"nodeSelector": {"disk": "ssd"}}}
    stateful = find("StatefulSet", "ret2-qdrant", "bundled", {"qdrant": {"bundled": bundled}})
    spec = stateful["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert {name for name in container if name.endswith("Probe")} == {"readinessProbe"}
    assert _env(container)["QDRANT__STORAGE__COLLECTION__STRICT_MODE__ENABLED"] == "true"
    assert _env(container)["QDRANT__SERVICE__ENABLE_SNAPSHOT_URL_RECOVERY"] == "false"
    assert spec["nodeSelector"] == {"disk": "ssd"}
