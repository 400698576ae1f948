"""Peers live in environments of their own under `_build/benchmarks/env`, made with pip from pinned versions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.errors import BenchmarkError, Skipped

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build" / "benchmarks"
TORCH = ("torch==2.13.0", "numpy==2.4.6")  # as in requirements.txt
PACKAGES = {
    "flower": (*TORCH, "flwr[simulation]==1.41.0", "ray==2.55.1"),
    "fedlab": (*TORCH, "fedlab==1.3.0", "torchvision==0.28.0"),
    "blazefl": (*TORCH, "blazefl==3.0.0", "tqdm==4.70.1"),
    "pfllib": (*TORCH, "scikit-learn==1.9.1", "h5py==3.16.0", "matplotlib==3.11.2"),  # what a checkout imports
}
#: The Python that an environment needs, where this one may be too old; the free-threaded build comes first.
PYTHON = {"blazefl": "3.14"}


def interpreter(environment: str) -> str:
    """The Python of an environment; this one's for the empty name."""
    if not environment:
        return sys.executable
    return str(BUILD / "env" / environment / "bin" / "python")


def ready(environment: str) -> bool:
    """Whether it is there, with the packages that this version wants."""
    stamp = BUILD / "env" / environment / ".installed"
    return not environment or (stamp.exists() and stamp.read_text() == _wanted(environment))


def install(environment: str, given: Mapping[str, str] | None = None) -> None:
    """Make the environment unless it is ready; ``given`` may name the Python for it, such as ``python314``.

    Raises Skipped where the Python that it needs is missing, BenchmarkError, with the last lines said, when it fails.
    """
    if ready(environment):
        return
    made_with = _python(environment, given or {})
    folder, packages = BUILD / "env" / environment, PACKAGES[environment]
    print(f"setting up {environment} in {folder} (once, by the network): {' '.join(packages)}", flush=True)
    _call("venv", environment, [made_with, "-m", "venv", "--clear", str(folder)])
    pip = [interpreter(environment), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages]
    _call("pip", environment, pip)
    (folder / ".installed").write_text(_wanted(environment))


def _python(environment: str, given: Mapping[str, str]) -> str:
    """The interpreter that makes the environment."""
    version = PYTHON.get(environment)
    if version is None or f"{sys.version_info.major}.{sys.version_info.minor}" == version:
        return sys.executable
    option = f"python{version.replace('.', '')}"
    found = given.get(option) or shutil.which(f"python{version}t") or shutil.which(f"python{version}")
    if not found:
        raise Skipped(f"needs Python {version}, and no python{version} is on the PATH: --{option} PATH")
    return found


def _call(what: str, environment: str, call: list[str]) -> None:
    try:
        done = subprocess.run(call, capture_output=True, text=True)
    except OSError as error:
        raise BenchmarkError(f"{call[0]} cannot be run: {error.strerror}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).splitlines()[-5:]
        raise BenchmarkError(f"{what} could not set up {environment}:\n" + "\n".join(said))


def _wanted(environment: str) -> str:
    return "\n".join(PACKAGES[environment])
