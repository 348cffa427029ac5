"""Workflows and dependabot's file keep to their published schemas, and a release has one version everywhere."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

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


def test_one_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((ROOT / "k8s/ret2/Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)
    tags = re.findall(r"ret2-(?:app|encoder):(\d+\.\d+\.\d+)", (ROOT / "docker-compose.yml").read_text())
    assert set(tags) == {version}
