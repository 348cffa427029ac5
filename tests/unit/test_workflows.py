"""Workflows and dependabot's file keep to their published schemas, and a release has one version everywhere."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from hashlib import sha256
from pathlib import Path

import helm_python as helm
import pytest
import yaml

ROOT = Path(__file__).parents[2]
FILES = {
    "vendor.github-workflows": sorted((ROOT / ".github" / "workflows").glob("*.yml")),
    "vendor.dependabot": [ROOT / ".github" / "dependabot.yml"],
}


@pytest.mark.parametrize("schema", FILES)
def test_schema(schema: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", f"--builtin-schema={schema}", *map(str, FILES[schema])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_can_refuse(tmp_path: Path) -> None:
    wrong = FILES["vendor.github-workflows"][0].read_text().replace("runs-on:", "run-on:")
    (tmp_path / "wrong.yml").write_text(wrong)
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema=vendor.github-workflows",
        tmp_path / "wrong.yml",
    ]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


def test_only_releases_may_write_and_only_where_they_must() -> None:
    for file in FILES["vendor.github-workflows"]:
        workflow = yaml.safe_load(file.read_text())
        assert workflow["permissions"] == {"contents": "read"}, file.name
        for name, job in workflow["jobs"].items():
            assert "uses" in job or job["timeout-minutes"] <= 90, f"{file.name}: {name} could hang for six hours"
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    assert {name for name, job in jobs.items() if "write" in str(job.get("permissions"))} == {
        "images",
        "chart",
        "wheel",
    }


def test_the_chart_of_a_release_finds_its_images(tmp_path: Path) -> None:
    """The steps of the workflow themselves, for a tag of the present version."""
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]
    chart = yaml.safe_load((ROOT / "k8s/ret2/Chart.yaml").read_text())
    said = tmp_path / "output"
    environment = {
        "PATH": os.environ["PATH"],
        "GITHUB_REF_NAME": f"v{chart['appVersion']}",
        "GITHUB_REPOSITORY": "Example/Ret2",
        "REGISTRY": "registry.example.com",
        "GITHUB_OUTPUT": str(said),
    }
    (step,) = (step for step in jobs["versions"]["steps"] if step.get("id") == "version")
    subprocess.run(["bash", "-e"], input=step["run"].partition("grep")[0], text=True, env=environment, check=True)
    outputs = dict(line.split("=", 1) for line in said.read_text().splitlines())
    (tags,) = (step["with"]["tags"] for step in jobs["images"]["steps"] if step.get("id") == "build")
    for name, value in outputs.items():
        tags = tags.replace(f"${{{{ needs.versions.outputs.{name} }}}}", value)
    pushed = set()
    for each in jobs["images"]["strategy"]["matrix"]["include"]:
        pushed.add(tags.replace("${{ matrix.name }}", each["name"]).replace("${{ matrix.suffix }}", each["suffix"]))
    shutil.copytree(ROOT / "k8s/ret2", tmp_path / "k8s/ret2")
    assert "images" in jobs["chart"]["needs"], "they are pushed before their digests are asked for"
    (rewrite,) = (step["run"] for step in jobs["chart"]["steps"] if step.get("run", "").startswith("sed"))
    environment |= {"IMAGES": outputs["images"], "VERSION": outputs["version"]}
    registry = "docker() { echo sha256:$(echo -n $4 | sha256sum | cut -c1-64); }\n"  # buildx imagetools inspect IMAGE
    subprocess.run(["bash", "-e"], input=registry + rewrite, text=True, env=environment, cwd=tmp_path, check=True)
    values = yaml.safe_load((tmp_path / "k8s/ret2/values.yaml").read_text())
    app, encoder = (f"{values[role]['image']['repository']}:{chart['appVersion']}" for role in ("api", "encoder"))
    assert pushed == {app, f"{encoder}-cpu", f"{encoder}-cuda"}
    assert app == f"registry.example.com/example/ret2/ret2-app:{chart['appVersion']}"

    def digest(image: str) -> str:
        return f"{image.partition(':')[0]}@sha256:{sha256(image.encode()).hexdigest()}"

    with helm.Chart.load(tmp_path / "k8s/ret2") as released:

        def images(**values: object) -> set[str]:
            rendered = released.render(values, name="ret2", namespace="search").values()
            return {image for text in rendered for image in re.findall(r'^ +image: "?([^"\s]+)', text, re.MULTILINE)}

        assert images() == {digest(app), digest(f"{encoder}-cpu")}
        assert images(encoder={"gpu": {"enabled": True}}) == {digest(app), digest(f"{encoder}-cuda")}
        chosen = {"image": {"tag": "mine"}}
        assert images(api=chosen) == {app.partition(":")[0] + ":mine", digest(f"{encoder}-cpu")}, (
            "whoever names one has it"
        )


def test_one_qdrant_everywhere() -> None:
    """Server and client of one major and minor version, as the client asks for."""
    (client,) = re.findall(r"^qdrant-client==(\d+\.\d+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    files = (ROOT / "docker-compose.yml", ROOT / ".github/workflows/ci.yml")
    servers = {found for file in files for found in re.findall(r"qdrant/qdrant:v(\d+\.\d+)\.\d+", file.read_text())}
    values = yaml.safe_load((ROOT / "k8s/ret2/values.yaml").read_text())
    servers.add(values["qdrant"]["bundled"]["image"]["tag"].removeprefix("v").rpartition(".")[0])
    assert servers == {client}


def test_one_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((ROOT / "k8s/ret2/Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)
    tags = re.findall(r"ret2-(?:app|encoder):(\d+\.\d+\.\d+)", (ROOT / "docker-compose.yml").read_text())
    assert set(tags) == {version}
