"""Generators and linters of other people read docs/openapi.json without an error and without a warning."""

import compileall
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

OPENAPI = Path(__file__).parents[3] / "docs" / "openapi.json"
# The generator for Python has no types for these; it writes and reads them as bytes.
CONFIGURATION = {
    "content_type_overrides": dict.fromkeys(
        ("image/*", "application/msgpack", "application/x-ndjson"), "application/octet-stream"
    )
}

pytestmark = pytest.mark.slow


def run(*command: str, folder: Path) -> str:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    said = result.stdout + result.stderr
    if re.search(r"dns error|ENOTFOUND|EAI_AGAIN|Failed to fetch", said):
        pytest.skip(f"needs the registry that {command[0]} comes from")
    assert result.returncode == 0, said
    return said


def npx(*command: str, folder: Path) -> str:
    """Run a program of npm, which this project needs for nothing else."""
    if shutil.which("npx") is None:
        pytest.skip("needs npx")
    return run("npx", "--yes", *command, folder=folder)


def test_a_client_for_python(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGURATION))
    generator = ("--from", "openapi-python-client==0.29.1", "--with", "ruff", "openapi-python-client", "generate")
    options = ("--meta", "none", "--config", "config.json", "--fail-on-warning")
    said = run(sys.executable, "-m", "uv", "tool", "run", *generator, "--path", str(OPENAPI), *options, folder=tmp_path)
    assert "arning" not in said
    package = next(path.parent for path in tmp_path.glob("*/client.py"))
    assert compileall.compile_dir(package, quiet=1)
    assert (package / "api" / "search" / "search.py").is_file()


def test_types_for_typescript(tmp_path: Path) -> None:
    npx("--package", "openapi-typescript@7.13.0", "openapi-typescript", str(OPENAPI), "-o", "api.ts", folder=tmp_path)
    npx("--package", "typescript@5.9.3", "tsc", "--noEmit", "--strict", "--skipLibCheck", "api.ts", folder=tmp_path)
    assert "operations" in (tmp_path / "api.ts").read_text()


def test_redocly_has_no_error(tmp_path: Path) -> None:
    npx("--package", "@redocly/cli@2.0.0", "redocly", "lint", str(OPENAPI), folder=tmp_path)


def test_spectral_has_no_warning(tmp_path: Path) -> None:
    (tmp_path / ".spectral.yaml").write_text('extends: ["spectral:oas"]\n')
    spectral = ("--package", "@stoplight/spectral-cli@6.15.0", "spectral")
    npx(*spectral, "lint", "--fail-severity", "warn", str(OPENAPI), folder=tmp_path)
