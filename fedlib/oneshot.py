"""One round of distilled data: what a server makes of the parts that clients sent, and how many bytes travelled."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedlib import metrics
from fedlib.ledger import payload_bytes
from fedlib.models.net import Net, State
from fedlib.prescribed import Distilled, Steps, follow, one_after_another

SEED = 8  # bytes of a random seed, from which a client makes first weights


def accuracy(net: Net, state: State, x: Tensor, y: Tensor) -> float:
    """Accuracy on samples x [n, ...] of classes y [n]; that of chance, for weights whose logits are not finite."""
    logits = net.predict(state, x)
    return metrics.accuracy(logits, y) if logits.isfinite().all() else 1 / logits.shape[1]


def course(net: Net, start: State, parts: Sequence[Distilled], x: Tensor, y: Tensor) -> tuple[list[float], State]:
    """Accuracies after each step of a server that follows the parts one after another, and the weights at its end."""
    steps, path, state = one_after_another(parts), [], start
    for i in range(len(steps.rates)):
        state = follow(net, state, Steps(*(part[i : i + 1] for part in steps)))
        path.append(accuracy(net, state, x, y))
    return path, state


def judged(net: Net, start: State, other: State, parts: Sequence[Distilled], x: Tensor, y: Tensor) -> dict[str, float]:
    """Accuracies on x and y of networks that follow the clients' parts.

    ``accuracy``: all of them from ``start``, client by client; ``alternating-``: step by step in turn; ``fresh-``: from
    ``other`` weights, those of a thief; ``own-``, ``own-fresh-``: one client's part alone, mean over clients;
    ``averaged-``: the mean of the networks that follow one part each. ``diverged`` is 1 where the server's weights are
    not finite: its accuracy is that of chance then.
    """

    def after(first: State, steps: Steps) -> float:
        return accuracy(net, follow(net, first, steps), x, y)

    together, each = one_after_another(parts), [part.prescription() for part in parts]
    reached, alone = follow(net, start, together), [follow(net, start, steps) for steps in each]
    mean = {n: torch.stack([weights[n] for weights in alone]).mean(0) for n in start}
    return {
        "accuracy": accuracy(net, reached, x, y),
        "alternating-accuracy": after(start, one_after_another(parts, alternating=True)),
        "fresh-accuracy": after(other, together),
        "averaged-accuracy": accuracy(net, mean, x, y),
        "own-accuracy": sum(accuracy(net, weights, x, y) for weights in alone) / len(parts),
        "own-fresh-accuracy": sum(after(other, steps) for steps in each) / len(parts),
        "diverged": float(not all(w.isfinite().all() for w in reached.values())),
    }


def round_bytes(parts: Sequence[Distilled], model: State, serial: bool) -> int:
    """Bytes of a round, both directions: every client's part up, and down a seed; or, ``serial``, a seed for the first
    client and for each further one the ``model`` at which the others have arrived.
    """
    up = sum(payload_bytes(part.payload()) for part in parts)
    return up + SEED + (len(parts) - 1) * (payload_bytes(model) if serial else SEED)
