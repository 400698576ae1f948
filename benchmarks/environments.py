"""Peers live in environments of their own under `_build/benchmarks/env`, made with pip from pinned versions."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.errors import BenchmarkError

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "_build" / "benchmarks"
TORCH = ("torch==2.13.0", "numpy==2.4.6")  # as in requirements.txt
PACKAGES = {
    "flower": (*TORCH, "flwr[simulation]==1.41.0", "ray==2.55.1"),
    "fedlab": (*TORCH, "fedlab==1.3.0", "torchvision==0.28.0"),
    "pfllib": (*TORCH, "scikit-learn==1.9.1", "h5py==3.16.0", "matplotlib==3.11.2"),  # what a checkout imports
}


def interpreter(environment: str) -> str:
    """The Python of an environment; this one's for the empty name."""
    if not environment:
        return sys.executable
    return str(BUILD / "env" / environment / "bin" / "python")


def ready(environment: str) -> bool:
    """Whether it is there, with the packages that this version wants."""
    stamp = BUILD / "env" / environment / ".installed"
    return not environment or (stamp.exists() and stamp.read_text() == _wanted(environment))


def install(environment: str) -> None:
    """Make the environment unless it is ready. Raises BenchmarkError, with pip's last lines, when pip fails."""
    if ready(environment):
        return
    folder, packages = BUILD / "env" / environment, PACKAGES[environment]
    print(f"setting up {environment} in {folder} (once, by the network): {' '.join(packages)}", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    call = [interpreter(environment), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode:
        raise BenchmarkError(f"pip could not set up {environment}:\n" + "\n".join(done.stderr.splitlines()[-5:]))
    (folder / ".installed").write_text(_wanted(environment))


def _wanted(environment: str) -> str:
    return "\n".join(PACKAGES[environment])
