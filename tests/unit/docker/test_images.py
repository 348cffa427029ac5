"""The images, built for real without a daemon and started as their user on a read-only root. Minutes and gigabytes: `make test-images`."""

import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
BASE = "localhost/ret2-test-base:1"
TORCH = os.environ.get("RET2_TEST_TORCH", "")  # what pip is asked for; empty: what install.py chooses
USER = "10001:10001"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.environ.get("RET2_TEST_IMAGES") != "1", reason="builds images: make test-images"),
]


class Buildah:
    """Debian's buildah over a store of its own, which goes with the test's folder."""

    def __init__(self, folder: Path) -> None:
        self._store = [f"--root={folder / 'store'}", f"--runroot={folder / 'run'}", "--storage-driver=vfs"]

    def __call__(self, command: str, *arguments: str) -> str:
        return run("buildah", *self._store, command, *arguments, cwd=ROOT)

    def build(self, dockerfile: str, tag: str, **build_args: str) -> str:
        options = [option for name, value in build_args.items() for option in ("--build-arg", f"{name}={value}")]
        if folder := os.environ.get("PIP_FIND_LINKS"):  # a folder of wheels beside the index that pip asks
            options += ["--volume", f"{folder}:{folder}:ro", "--build-arg", f"PIP_FIND_LINKS={folder}"]
        self(
            "build", "--isolation=chroot", "--pull-never", "--layers=false", "--format=oci",
            f"--file=docker/{dockerfile}", f"--tag={tag}", f"--build-arg=BASE={BASE}", *options, ".",
        )  # fmt: skip
        return tag


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    absent = [tool for tool in ("buildah", "debootstrap", "unshare") if shutil.which(tool) is None]
    if absent or os.geteuid() != 0:  # as the fixture `need`, which is made anew for each test
        why = f"needs root, and of Debian's packages {', '.join(absent) or 'none'}"
        (pytest.fail if os.environ.get("REQUIRE_INTEGRATION") == "1" else pytest.skip)(why)
    folder = tmp_path_factory.mktemp("buildah")
    buildah = Buildah(folder)
    _make_base(buildah, folder / "base")
    yield buildah
    shutil.rmtree(folder, ignore_errors=True)


def _make_base(buildah: Buildah, folder: Path) -> None:
    """What `python:…-slim` is elsewhere: a small Debian with python3 and venv, and the certificates that this machine trusts."""
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    run("debootstrap", "--variant=minbase", "--include=ca-certificates,python3,python3-venv", suite, str(folder))
    bundle = Path("etc/ssl/certs/ca-certificates.crt")
    shutil.copyfile("/" / bundle, folder / bundle)
    container = buildah("from", "scratch")
    buildah("add", "--quiet", container, str(folder), "/")
    buildah("commit", "--quiet", "--rm", container, BASE)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def app_image(buildah: Buildah) -> str:
    return buildah.build("app.Dockerfile", "localhost/ret2-app:test", VERSION="0.1.0", REVISION="abc")


@pytest.fixture(scope="module")
def encoder_image(buildah: Buildah) -> str:
    return buildah.build("encoder.Dockerfile", "localhost/ret2-encoder:test", DEVICE="cpu", TORCH=TORCH)


def config_of(buildah: Buildah, image: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(buildah("inspect", "--type=image", image))["OCIv1"]["config"]
    return config


@contextmanager
def mounted(buildah: Buildah, image: str) -> Iterator[Path]:
    container = buildah("from", "--pull-never", image)
    yield Path(buildah("mount", container))
    buildah("rm", container)


def bytes_of(folder: Path) -> int:
    return int(run("du", "--summarize", "--bytes", "--one-file-system", str(folder)).split()[0])


@dataclass(frozen=True)
class Started:
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def wait_for(self, path: str, wanted: int, within_s: float) -> None:
        end, status = time.monotonic() + within_s, 0
        while time.monotonic() < end:
            if self.process.poll() is not None:
                pytest.fail(f"ended with {self.process.returncode}: {self.log.read_text()[-3000:]}")
            if (status := status_of(self.port, path)) == wanted:
                return
            time.sleep(0.5)
        pytest.fail(f"{path} answers {status}, not {wanted}, after {within_s} s: {self.log.read_text()[-3000:]}")

    def assert_stops(self) -> None:
        """SIGTERM to the process of the image, whose parent is unshare: it drains and ends with status 0."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        assert self.process.wait(40) == 0


@contextmanager
def started(root: Path, config: dict[str, Any], log: Path, **settings: str) -> Iterator[Started]:
    """The image's entry point and command as its user, PID 1 of a namespace of its own, its root read-only but for /tmp."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environment = [*config["Env"], f"RET2_PORT={port}", *(f"{name}={value}" for name, value in settings.items())]
    read_only = (
        'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && mount -t tmpfs -o mode=1777 tmpfs "$0/tmp" && '
        'mount -t proc proc "$0/proc" && mount --bind /dev "$0/dev" && '
        f'exec chroot --userspec={USER} "$0" env -i "$@"'
    )
    command = [*config["Entrypoint"], *config["Cmd"]]
    isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", read_only, str(root)]
    with log.open("wb") as errors:
        process = subprocess.Popen([*isolated, *environment, *command], stderr=errors)
    try:
        yield Started(process, port, log)
    finally:
        process.kill()
        process.wait()


def status_of(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=15) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.mark.parametrize("image", ["app_image", "encoder_image"])
def test_config(image: str, buildah: Buildah, request: pytest.FixtureRequest) -> None:
    config = config_of(buildah, request.getfixturevalue(image))
    assert config["User"] == USER
    assert config["Entrypoint"] == ["/opt/ret2/bin/ret2"]
    assert config["Cmd"] == ["serve"]
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


@pytest.mark.parametrize("image", ["app_image", "encoder_image"])
def test_photographs_of_telephones_can_be_read(image: str, buildah: Buildah, request: pytest.FixtureRequest) -> None:
    with mounted(buildah, request.getfixturevalue(image)) as root:
        run("chroot", str(root), "/opt/ret2/bin/python", "-c", "import pi_heif; pi_heif.register_heif_opener()")


@pytest.mark.parametrize("image", ["app_image", "encoder_image"])
def test_traces_can_be_turned_on(image: str, buildah: Buildah, request: pytest.FixtureRequest) -> None:
    with mounted(buildah, request.getfixturevalue(image)) as root:
        packages = {path.name for path in (root / "opt/ret2/lib").glob("python3.*/site-packages/opentelemetry/*")}
    assert {"sdk", "exporter"} <= packages


def test_the_app_has_no_torch_and_is_small(buildah: Buildah, app_image: str) -> None:
    with mounted(buildah, app_image) as root:
        packages = {path.name for path in (root / "opt/ret2/lib").glob("python3.*/site-packages/*")}
        compiled = list((root / "opt/ret2/lib").glob("python3.*/site-packages/service/__pycache__/settings.*.pyc"))
        size, own = bytes_of(root), bytes_of(root / "opt/ret2")
    print(f"app image: {size / 2**20:.0f} MiB, of which {own / 2**20:.0f} MiB are ours")
    assert not packages & {"torch", "transformers", "safetensors", "pip", "hatchling", "pytest"}
    assert {"service", "indexer", "model"} <= packages
    assert compiled, "every start would compile anew: the root is read-only"
    assert own < 500 * 2**20


def test_the_app_starts(buildah: Buildah, app_image: str, tmp_path: Path) -> None:
    """Against an encoder that is not there: alive, honestly not ready."""
    settings = {"RET2_ENCODER_URL": "http://127.0.0.1:9", "RET2_ENCODER_ATTEMPTS": "1"}
    with (
        mounted(buildah, app_image) as root,
        started(root, config_of(buildah, app_image), tmp_path / "app.log", **settings) as app,
    ):
        app.wait_for("/livez", 200, 60)
        assert status_of(app.port, "/readyz") == 503
        app.assert_stops()


def test_the_encoder_starts_and_the_app_on_it(
    buildah: Buildah, app_image: str, encoder_image: str, tmp_path: Path
) -> None:
    with (
        mounted(buildah, encoder_image) as encoder_root,
        started(encoder_root, config_of(buildah, encoder_image), tmp_path / "encoder.log") as encoder,
    ):
        print(f"encoder image: {bytes_of(encoder_root) / 2**20:.0f} MiB")
        encoder.wait_for("/readyz", 200, 300)
        url = f"http://127.0.0.1:{encoder.port}"
        with (
            mounted(buildah, app_image) as app_root,
            started(app_root, config_of(buildah, app_image), tmp_path / "app.log", RET2_ENCODER_URL=url) as app,
        ):
            app.wait_for("/readyz", 200, 60)
            app.assert_stops()
        encoder.assert_stops()


def test_a_build_of_torch_for_another_device_is_refused(buildah: Buildah, encoder_image: str) -> None:
    with mounted(buildah, encoder_image) as root:
        shutil.copyfile(ROOT / "docker/check_torch.py", root / "tmp/check_torch.py")
        python = ["chroot", str(root), "/opt/ret2/bin/python", "/tmp/check_torch.py"]
        results = [
            subprocess.run([*python, device], capture_output=True).returncode for device in ("cpu", "cuda", "gpu")
        ]
    assert results == [0, 1, 1]
