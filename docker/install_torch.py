"""Install torch into the environment of this interpreter: `python install_torch.py DEVICE [PIP ARGUMENT…]`.

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


def pinned_torch(constraints: str) -> str:
    """Return the requirement of torch in the text of constraints.txt. A range would take whatever build is newest."""
    return next(line for line in constraints.splitlines() if line.startswith("torch=="))


def install(device: str, requirement: str) -> None:
    """Install a requirement of torch, built for a device. Raises `CalledProcessError` if no build can be had."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    if device != "cuda":
        subprocess.run([*pip, _UV], check=True)
        # An index that does not answer is not worth minutes; a download that has begun may take as long as it needs.
        patience = {"UV_HTTP_CONNECT_TIMEOUT": "10", "UV_HTTP_RETRIES": "1"}
        uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable]
        if subprocess.run([*uv, f"--torch-backend={device}", requirement], env=os.environ | patience).returncode == 0:
            return
        sys.stderr.write(
            "torch's own index cannot be used (see above). Installing the build of PyPI instead, which on Linux is the "
            "one for CUDA: 2.6 GB to download.\n"
        )
    subprocess.run([*pip, requirement], check=True)


def main(arguments: list[str]) -> None:
    """Do what the command line says. Raises `SystemExit` with pip's status, or saying what DEVICE may be."""
    if not arguments or arguments[0] not in _DEVICES:
        raise SystemExit(f"the first argument is one of {', '.join(_DEVICES)}; given: {' '.join(arguments) or 'none'}")
    try:
        if arguments[1:]:
            subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *arguments[1:]], check=True)
        else:
            constraints = Path(__file__).parent.parent / "constraints.txt"
            install(arguments[0], pinned_torch(constraints.read_text()))
    except subprocess.CalledProcessError as error:
        raise SystemExit(error.returncode) from error


if __name__ == "__main__":
    main(sys.argv[1:])
