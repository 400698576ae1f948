"""Ray, only where it is asked for: its import, and the cluster that is there or else one of this machine alone."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

# Nobody is told that Ray is used here. Who asks for no GPU has the environment's variables left alone, which is what
# later versions of Ray do by themselves; the press and the actors keep off GPUs on their own.
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_STARTS = 3
_OWN_STORE = 128 * 2**20  # bytes of shared memory on a cluster of our own; what does not fit goes to disk


def connect() -> tuple[ModuleType, bool]:
    """The module ray, connected to a cluster, and whether this call made the connection (who did, ends it).

    That is the cluster that ``RAY_ADDRESS`` names, or one that runs on this machine, or a new one (with ``local`` as
    the address: always a new one), which has the cores that this process may use and ends with it. Raises ImportError
    without Ray and ConnectionError when ``RAY_ADDRESS`` does not answer; both messages say what to do.
    """
    try:
        import ray
    except ImportError:
        raise ImportError('Ray is not installed: pip install ray, or pip install "fedlib[ray]"') from None
    if ray.is_initialized():
        return ray, False
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    named = os.environ.get("RAY_ADDRESS", "")
    _answers(named)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        if named != "local":
            try:
                ray.init(address=named or "auto", **quiet)
                return ray, True
            except ConnectionError as error:
                if named not in ("", "auto"):
                    text = f"the Ray cluster at RAY_ADDRESS={named} did not take us in: {error}"
                    raise ConnectionError(text) from error
        own: dict[str, Any] = {"num_cpus": _cores(), "include_dashboard": False, "object_store_memory": _OWN_STORE}
        patient(lambda: ray.init(address="local", **own, **quiet), ray.shutdown)
    return ray, True


def patient(start: Callable[[], T], clear: Callable[[], Any]) -> T:
    """``start()``, again if need be: Ray gives its processes half a minute to start, which a busy machine exceeds."""
    for _ in range(_STARTS - 1):
        try:
            return start()
        except Exception as error:  # Ray raises nothing more special
            if "timed out during startup" not in str(error):
                raise
            clear()
    return start()


def _answers(address: str) -> None:
    """Knock at the door of a cluster first: Ray itself takes minutes to notice that nobody is there."""
    place = urlsplit(address if "://" in address else f"//{address}")
    if place.hostname is None or place.port is None:  # "", "auto" and "local"
        return
    try:
        socket.create_connection((place.hostname, place.port), timeout=10).close()
    except OSError as error:
        raise ConnectionError(
            f"no Ray cluster answers at RAY_ADDRESS={address} ({error}); start it (ray start --head), or unset "
            "RAY_ADDRESS for a cluster of this machine alone"
        ) from error


def _cores() -> int:
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
