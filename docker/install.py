"""Install into the environment of this interpreter: `python install.py torch DEVICE`, `python install.py packages ARGUMENT…`.

uv installs, which is some ten times as fast as pip here; where it fails, pip does, with the same arguments. An index that
pip is configured with is uv's too.

On Linux the torch of PyPI is built for CUDA and brings 2.6 GB of libraries. torch's own index has a build without them,
a tenth of the size. uv knows where, and which build a machine can use: DEVICE is `auto` (what this machine has), `cpu`
or `cuda` (the build of PyPI, for an image is built where no GPU is). Where the index cannot be reached, the build of
PyPI is installed instead. With further arguments, pip installs those and nothing is chosen.
"""

import os
import subprocess
import sys
from pathlib import Path

_UV = "uv==0.13.9"
_DEVICES = ("auto", "cpu", "cuda")
_PIP = [sys.executable, "-m", "pip", "install", "--quiet"]
_USE = f"the arguments are `torch DEVICE`, where DEVICE is one of {', '.join(_DEVICES)}, or `packages` and pip's own"


def install(*arguments: str) -> None:
    """Install by uv, or else by pip. Raises `CalledProcessError` if neither can."""
    if not _installed_by_uv(*arguments):
        sys.stderr.write("uv cannot install this (see above): pip does, which takes some minutes longer.\n")
        subprocess.run([*_PIP, *arguments], check=True)


def install_torch(device: str, requirement: str) -> None:
    """Install a requirement of torch, built for a device. Raises `CalledProcessError` if no build can be had."""
    if device != "cuda":
        if _installed_by_uv(f"--torch-backend={device}", requirement):
            return
        sys.stderr.write(
            "torch's own index cannot be used (see above). Installing the build of PyPI instead, which on Linux is the "
            "one for CUDA: 2.6 GB to download.\n"
        )
    install(requirement)


def pinned_torch(constraints: str) -> str:
    """Return the requirement of torch in the text of constraints.txt. A range would take whatever build is newest."""
    return next(line for line in constraints.splitlines() if line.startswith("torch=="))


def _installed_by_uv(*arguments: str) -> bool:
    if subprocess.run([*_PIP, _UV]).returncode:
        return False
    # An index that does not answer is not worth minutes; a download that has begun may take as long as it needs.
    settings = {"UV_HTTP_CONNECT_TIMEOUT": "10", "UV_HTTP_RETRIES": "1"}
    if index := _index_of_pip():
        settings["UV_DEFAULT_INDEX"] = index
    uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable]
    return subprocess.run([*uv, *arguments], env=settings | os.environ).returncode == 0


def _index_of_pip() -> str:
    """Return the index that pip is configured with, or nothing if it is PyPI."""
    if index := os.environ.get("PIP_INDEX_URL"):
        return index
    asked = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    # Without such a setting pip fails, and says so.
    return subprocess.run(asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.strip()


def main(arguments: list[str]) -> None:
    """Do what the command line says. Raises `SystemExit` with pip's status, or saying what the arguments may be."""
    try:
        match arguments:
            case ["torch", device] if device in _DEVICES:
                constraints = Path(__file__).parent.parent / "constraints.txt"
                install_torch(device, pinned_torch(constraints.read_text()))
            case ["torch", device, *requirements] if device in _DEVICES:
                subprocess.run([*_PIP, *requirements], check=True)
            case ["packages", *requirements] if requirements:
                install(*requirements)
            case _:
                raise SystemExit(f"{_USE}; given: {' '.join(arguments) or 'none'}")
    except subprocess.CalledProcessError as error:
        raise SystemExit(error.returncode) from error


if __name__ == "__main__":
    main(sys.argv[1:])
