"""Models of a hub, over HTTP against a hub on loopback: what a revision means, what is kept, and what is said when it cannot be had."""

from __future__ import annotations

import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dual_encoders import write_dual_encoder
from fake_hub import FakeHub, running_hub, use_hub
from needs import needed
from typer.testing import CliRunner

needed("torch")

from huggingface_hub import constants  # noqa: E402

from model.checkpoints import hub as hub_models  # noqa: E402
from model.checkpoints.sources import find  # noqa: E402
from model.errors import DependencyUnavailable, InvalidInput  # noqa: E402
from model.retriever import Retriever  # noqa: E402
from service.cli.main import app  # noqa: E402

NAME = "org/clip-tiny"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dual_encoder(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    with running_hub() as running:
        use_hub(monkeypatch, running.url, tmp_path / "cache")
        yield running


def changed(clip: Path, folder: Path, seed: int = 1) -> Path:
    return write_dual_encoder(folder, seed=seed)


def test_without_a_revision_main_is_resolved_once_and_kept(hub: FakeHub, clip: Path, tmp_path: Path) -> None:
    first = hub.publish(NAME, clip)
    retriever = Retriever.load(f"hub:{NAME}")
    assert (retriever.info.name, retriever.info.commit) == (NAME, first)
    assert retriever.info.fingerprint == Retriever.load(str(clip)).info.fingerprint
    hub.publish(NAME, changed(clip, tmp_path / "newer"))
    hub.requests.clear()
    assert find(f"hub:{NAME}").commit == first
    assert hub.requests == []  # a restart needs no hub
    renewed = hub_models.fetch(NAME, renew=True)
    assert renewed.commit != first
    assert find(f"hub:{NAME}").commit == renewed.commit
    assert Retriever.load(f"hub:{NAME}").info.fingerprint != retriever.info.fingerprint


def test_a_commit_or_a_tag_pins(hub: FakeHub, clip: Path, tmp_path: Path) -> None:
    first = hub.publish(NAME, clip, tag="v1")
    second = hub.publish(NAME, changed(clip, tmp_path / "newer"))
    assert find(f"hub:{NAME}@v1").commit == first
    assert find(f"hub:{NAME}@{first}").commit == first
    assert find(f"hub:{NAME}@{second}").commit == find(f"hub:{NAME}").commit == second
    hub.repositories[NAME].refs["refs/pr/7"] = first
    assert find(f"hub:{NAME}@refs/pr/7").commit == first


def test_only_what_loading_needs_is_downloaded(hub: FakeHub, clip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clip, tmp_path / "published")
    for name in (
        "pytorch_model.bin",
        "open_clip_model.safetensors",
        "tf_model.h5",
        "onnx/model.onnx",
        "onnx/config.json",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"large")
    hub.publish(NAME, folder)
    kept = sorted(path.name for path in find(f"hub:{NAME}").folder.rglob("*"))
    assert kept == ["config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"]


def test_weights_in_several_files_are_downloaded_together(hub: FakeHub, tmp_path: Path) -> None:
    folder = write_dual_encoder(tmp_path / "split", max_shard_size="10KB")
    hub.publish(NAME, folder)
    assert Retriever.load(f"hub:{NAME}").info.fingerprint == Retriever.load(str(folder)).info.fingerprint


def test_a_download_that_breaks_off_is_gone_on_with(hub: FakeHub, clip: Path) -> None:
    commit = hub.publish(NAME, clip)
    hub.broken.add("model.safetensors")
    with pytest.raises(
        DependencyUnavailable, match=r"broke off \(status 503\)\. Start again: what has been downloaded is kept"
    ):
        find(f"hub:{NAME}")
    assert hub_models.cached(NAME) is None
    assert hub_models.cached(NAME, commit) is None
    hub.broken.clear()
    hub.requests.clear()
    assert find(f"hub:{NAME}").commit == commit
    assert not [request for request in hub.requests if request.startswith("GET") and "tokenizer" in request]


def test_a_model_with_pickles_alone_is_refused_before_anything_is_downloaded(
    hub: FakeHub, clip: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(clip, tmp_path / "published")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    hub.publish(NAME, folder)
    with pytest.raises(
        InvalidInput, match=r"only pickled weights \(pytorch_model\.bin\).*hub:org/clip-tiny@refs/pr/NUMBER"
    ):
        find(f"hub:{NAME}")
    assert len(hub.requests) == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("config.json", "model.onnx"), "no weights that can be read here: neither model.safetensors nor"),
        (("open_clip_config.json", "open_clip_model.safetensors"), "a CLIP in OpenCLIP's own format"),
        (("README.md",), r"has no config\.json, so it is no model \(found README\.md\)"),
    ],
)
def test_a_model_of_another_kind_is_named(hub: FakeHub, tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    for name in files:
        (folder / name).write_text("{}")
    hub.publish(NAME, folder)
    with pytest.raises(InvalidInput, match=message):
        find(f"hub:{NAME}")


def test_a_name_a_revision_and_a_licence_that_are_not_there(
    hub: FakeHub, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.publish(NAME, clip)
    with pytest.raises(InvalidInput, match=r"127\.0\.0\.1 has no model 'org/none' that can be read.*HF_TOKEN"):
        find("hub:org/none")
    with pytest.raises(InvalidInput, match=r"has no revision 'v9'\. Name a commit or a tag"):
        find(f"hub:{NAME}@v9")
    for name in ("clip", "", "a/b/c", "org/a--b", "-org/x"):
        with pytest.raises(InvalidInput, match=f"hub model {name!r} has no name of the form ORG/NAME"):
            find(f"hub:{name}")
    hub.repositories[NAME].token, hub.repositories[NAME].gated = "hf_right", True
    with pytest.raises(
        InvalidInput, match=r"must be asked for: accept its terms on its page at 127\.0\.0\.1.*HF_TOKEN"
    ):
        find(f"hub:{NAME}")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert find(f"hub:{NAME}").commit == commit


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_without_a_network_that_is_said_at_once_with_what_to_do(
    hub: FakeHub, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(NAME, clip)
    advice = r"is not on this machine, and 127\.0\.0\.1 cannot be reached \({}\)\. .*ret2 models pull hub:org/clip-tiny.*HF_HOME"
    hub.stalled.set()
    began = time.monotonic()
    with pytest.raises(DependencyUnavailable, match=advice.format("no answer in time")):
        find(f"hub:{NAME}")
    assert time.monotonic() - began < 5
    use_hub(monkeypatch, f"http://127.0.0.1:{free_port()}", tmp_path / "cache")
    began = time.monotonic()
    for revision in ("", "@" + "0" * 40):
        with pytest.raises(DependencyUnavailable, match=advice.format("ConnectError")):
            find(f"hub:{NAME}{revision}")
    assert time.monotonic() - began < 5
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DependencyUnavailable, match=advice.format("HF_HUB_OFFLINE is set")):
        find(f"hub:{NAME}")


def test_a_host_name_that_is_not_resolved_in_time(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name resolution has no time-out of its own."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(8))
    began = time.monotonic()
    with pytest.raises(DependencyUnavailable, match="no answer in time"):
        find(f"hub:{NAME}")
    assert time.monotonic() - began < 5


def test_the_commands_pull_and_list(hub: FakeHub, clip: Path) -> None:
    commit = hub.publish(NAME, clip)
    result = CliRunner().invoke(app, ["models", "pull", f"hub:{NAME}"])
    assert result.exit_code == 0, result.output
    pinned, folder = result.stdout.splitlines()
    assert pinned == f"hub:{NAME}@{commit}"
    assert Retriever.load(folder).info.dimensions == 8
    listed = CliRunner().invoke(app, ["models"])
    assert re.search(rf"hub:{NAME}@{commit}\n +main, 0 MB\n", listed.stdout), listed.stdout
    result = CliRunner().invoke(app, ["models", "pull", "org/none"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "has no model 'org/none'" in " ".join(result.stderr.split())
