"""Where tensors live: one place decides, and says what it decided."""

import hashlib
import platform
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
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
    """What decides the last bits of a result here: the card; or the processor's make, family and model, the widest
    instructions that torch uses on it, and a checksum of small computations (:func:`bits`). Two machines that say the
    same should give the same bits.
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
    return " ".join(word for word in (device.type, platform.machine(), make, capability, bits()) if word)


@lru_cache(maxsize=1)
def bits() -> str:
    """Checksum of what small computations come to here, to the last bit: products, convolutions and their gradients,
    sums, functions and factors, by torch and by NumPy on the host. Libraries choose instructions by processor, version
    and environment; whatever they chose shows here. Takes some milliseconds.
    """
    source, total = torch.Generator().manual_seed(0), hashlib.sha256()

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=source)

    def add(*results: torch.Tensor) -> None:
        for result in results:
            total.update(result.detach().contiguous().numpy().tobytes())

    for dtype in (torch.float32, torch.float64):
        a, b, w = (draw(*shape).to(dtype) for shape in ((37, 67), (67, 45), (8, 3, 3, 3)))
        image = draw(5, 3, 12, 12).to(dtype)
        leaves = [t.requires_grad_() for t in (a, b, w)]
        maps = torch.nn.functional.conv2d(image, w, padding=1)
        out = torch.log_softmax(a @ b, -1).exp().square().sum() + torch.tanh(maps).mean()
        add(a @ b, maps, out, *torch.autograd.grad(out, leaves))
        add(torch.bmm(draw(4, 20, 30).to(dtype), draw(4, 30, 10).to(dtype)), draw(999).to(dtype).sum().reshape(1))
        add(*torch.linalg.eigh(a.detach() @ a.detach().T))
        total.update(np.sort(a.detach().numpy() @ b.detach().numpy(), axis=None).tobytes())
    return total.hexdigest()[:8]


def synchronise(device: torch.device) -> None:
    """Wait for queued work, so that a clock read afterwards is honest."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
