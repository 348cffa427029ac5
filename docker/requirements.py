"""Prints what pyproject.toml depends on, with the extras named, so that an image installs it in a layer before any code."""

import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

_OF_OUR_OWN = "ret2["  # an extra that only names other extras


def requirements(pyproject: str, extras: Iterable[str]) -> list[str]:
    """Raises `SystemExit` naming an extra that there is not."""
    project = tomllib.loads(pyproject)["project"]
    known = project["optional-dependencies"]
    wanted = list(project["dependencies"])
    for extra in extras:
        if extra not in known:
            raise SystemExit(f"no extra {extra!r} in pyproject.toml; there are {', '.join(sorted(known))}")
        wanted += known[extra]
    return [line for line in wanted if not line.startswith(_OF_OUR_OWN)]


if __name__ == "__main__":
    names = [name for argument in sys.argv[2:] for name in argument.split(",") if name]
    sys.stdout.write("\n".join(requirements(Path(sys.argv[1]).read_text(), names)) + "\n")
