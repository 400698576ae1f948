"""Where tensors live: one place decides, and says what it decided."""

import platform
from contextlib import suppress
from pathlib import Path

import torch

_last: list[torch.device] = []


def pick(device: str | torch.device = "auto") -> torch.device:
    """The device to compute on: the one named, or for ``"auto"`` cuda, then mps, then cpu.

    Raises ValueError when the named device is unknown or not there.
    """
    if isinstance(device, str) and device == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        chosen = torch.device(name)
    else:
        try:
            chosen = torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"device {device!r} is unknown; use auto, cpu, cuda, cuda:0 or mps") from error
        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not there.get(chosen.type, False):
            raise ValueError(f"device {device!r} is not available here; use auto or cpu")
    _last[:] = [chosen]
    return chosen


def describe() -> str:
    """The device that was picked last (cpu when none was), in words, with threads or card name."""
    device = _last[0] if _last else torch.device("cpu")
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def processor() -> str:
    """What decides the last bits of a result here: the card; or the processor's make, family and model, and the widest
    instructions that torch uses on it. Two machines that say the same give the same bits.
    """
    device = _last[0] if _last else torch.device("cpu")
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    facts = {}
    with suppress(OSError):  # only Linux says it in words
        lines = (line.partition(":") for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines())
        facts = {name.strip(): value.strip() for name, _, value in lines}
    make = "/".join(facts[n] for n in ("vendor_id", "cpu family", "model") if n in facts) or platform.processor()
    capability = torch.backends.cpu.get_cpu_capability()
    return " ".join(word for word in (device.type, platform.machine(), make, capability) if word)


def synchronise(device: torch.device) -> None:
    """Wait for queued work, so that a clock read afterwards is honest."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
