"""About how long a client's step takes on one core of a CPU, alone and in a stack of clients.

The choice of an executor rests on it, so it is a rule and not a race: the same setting gives the same estimate on every
machine. The constants are a least-squares fit, relative and without negative terms, to steps of nine networks (two to
five linear layers, five convolutional networks on 8 x 8 to 32 x 32, one on sequences) with batches of 8 to 64 and
stacks of 1 to 20, on a server's core with 512-bit registers. The fit is right to 6 % alone and 10 % in a stack (root
mean square); on another machine all constants change by about one factor, which no comparison sees.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fedlib.models.net import Net


@dataclass(frozen=True)
class Work:
    """What one sample asks of a network's forward pass.

    ``layers`` and ``convolutions`` that are called; ``products``: multiply-adds of linear layers and convolutions, and
    those of convolutions in ``awkward`` shapes, with channels that fill no register: a grouped one is slow there.
    ``outputs``: numbers that all layers put out; ``parameters`` of the network.
    """

    layers: int = 0
    convolutions: int = 0
    products: int = 0
    awkward: int = 0
    outputs: int = 0
    parameters: int = 0


# Seconds: a step, a layer, a convolution; then by batch: a product, an awkward one, an output; a parameter.
ALONE = (0.036e-3, 0.0126e-3, 0.146e-3, 0.027e-9, 0.0, 2.32e-9, 0.70e-9)
STACKED = (0.175e-3, 0.0151e-3, 0.165e-3, 0.040e-9, 0.109e-9, 1.78e-9, 0.86e-9)

# With several threads: each begins a round, waits for Python's lock at each layer, and shares the memory.
START, LOCKED_STEP, LOCKED_LAYER, SHARED = 0.5e-3, 0.1e-3, 0.045e-3, 1.1


def work(net: Net, x: Tensor) -> Work:
    """What a sample, given as x [1, ...], asks of the network; found once for each shape."""
    key = ("work", x.shape[1:])
    if key not in net.notes:
        counts: Counter[str] = Counter()

        def count(layer: nn.Module, _: object, out: Tensor) -> None:
            products = 0
            if isinstance(layer, nn.modules.conv._ConvNd):
                counts["convolutions"] += 1
                products = out[0].numel() * layer.weight[0].numel()
                inputs, outputs = (n // layer.groups for n in (layer.in_channels, layer.out_channels))
                counts["awkward"] += products * (outputs % 8 != 0 or (inputs > 3 and inputs % 8 != 0))
            elif isinstance(layer, nn.Linear):
                products = out[0].numel() * layer.in_features
            counts["layers"] += 1
            counts["products"] += products
            counts["outputs"] += out[0].numel() if isinstance(out, Tensor) else 0

        module = copy.deepcopy(net.module).eval()
        for layer in module.modules():
            if not list(layer.children()):
                layer.register_forward_hook(count)
        with torch.no_grad():
            module(x)
        parameters = sum(p.numel() for p in module.parameters())
        net.notes[key] = Work(**counts, parameters=parameters)
    return net.notes[key]


def alone(what: Work, samples: float) -> float:
    """Seconds of one client's step on a batch of so many samples."""
    step, layer, convolution, product, _, output, parameter = ALONE
    fixed = step + layer * what.layers + convolution * what.convolutions + parameter * what.parameters
    return fixed + samples * (product * what.products + output * what.outputs)


def stacked(what: Work, clients: float, samples: float) -> float:
    """Seconds of one step of so many clients together, each on a batch of so many samples."""
    step, layer, convolution, product, awkward, output, parameter = STACKED
    each = product * what.products + awkward * what.awkward + output * what.outputs
    fixed = step + layer * what.layers + convolution * what.convolutions
    return fixed + clients * (samples * each + parameter * what.parameters)


def one_by_one(what: Work, tasks: Sequence[Sequence[int]]) -> float:
    """Seconds of local work of clients whose batches have these sizes."""
    steps, samples = sum(map(len, tasks)), sum(map(sum, tasks))
    return steps * alone(what, 0) + samples * (alone(what, 1) - alone(what, 0))


def together(what: Work, tasks: Sequence[Sequence[int]]) -> float:
    """Seconds of the same work in one stack: batches padded to the largest, clients that have finished left out."""
    clients, widths = _steps(tasks)
    base, client, sample = (stacked(what, *given) for given in ((0, 0), (1, 0), (1, 1)))
    return float((base + clients * (client - base + widths * (sample - client))).sum())


def waste(tasks: Sequence[Sequence[int]]) -> float:
    """Samples that a stack computes, padding included, for each real one."""
    clients, widths = _steps(tasks)
    return float(clients @ widths) / sum(map(sum, tasks))


def _steps(tasks: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Clients at work and samples of their largest batch, step by step."""
    sizes = np.zeros((len(tasks), max(map(len, tasks))), dtype=np.int64)
    for k, own in enumerate(tasks):
        sizes[k, : len(own)] = own
    return (sizes > 0).sum(0), sizes.max(0)


def in_threads(what: Work, seconds: float, steps: int) -> float:
    """Seconds of a thread's share beside other threads: so many ``seconds`` and Python ``steps`` if it were alone."""
    return START + SHARED * seconds + steps * (LOCKED_STEP + LOCKED_LAYER * what.layers)
