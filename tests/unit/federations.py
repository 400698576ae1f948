"""What the tests of the executors share: small uneven federations in float64, and comparisons of all they leave."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from fedlib.algorithms import (
    CCVR,
    Ditto,
    FedAvg,
    FedAvgM,
    FedBN,
    FedDF,
    FedGen,
    FedHN,
    FedKD,
    FedLSD,
    FedMD,
    FedNTD,
    FedOpt,
    FedPAV,
    FedPer,
    FedProx,
    FedRep,
    LGFedAvg,
    LocalOnly,
    Moon,
    PerFedAvg,
    Scaffold,
)
from fedlib.algorithms.fedgen import Teaching
from fedlib.algorithms.fedgkt import FedGKT, Serving
from fedlib.calibration import Calibration
from fedlib.distill import Distillation
from fedlib.executors import per_sample
from fedlib.featuredistil import FeatureDistillation
from fedlib.federation import Federation, Local
from fedlib.losses import kd, proximal
from fedlib.models import MLP, Pair, Twin

FLOAT = torch.float64
UNEVEN = (3, 7, 8, 13, 20, 4)  # with batches of 8: smaller than a batch, one batch, one with a rest
NORMABLE = (4, 7, 8, 13, 20, 6)  # the same without a batch of one sample, which has no variance


class Normed(nn.Module):
    """A network with BatchNorm: floating-point statistics and an integer counter."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x, features=False):
        h = self.body(x)
        return h if features else self.head(h)


def small():
    return MLP(5, (6,), 3)


class Personal(FedProx):
    """Clients keep their heads; the proximal term then has another anchor for each."""

    personal = ("head.*",)


class Pulled(FedAvg):
    """Each client is pulled to a point of its own, and taught by the model that it received."""

    @per_sample
    def objective(self, net, state, x, y, context):
        teacher = kd(net(state, x, train=True), net(context.received, x), 2.0)
        return super().objective(net, state, x, y, context) + teacher + proximal(net.weights(state), context.own, 0.4)

    def context(self, fed, client):
        return {n: torch.full_like(fed.state[n], 0.1 * client - 0.2) for n in fed.net.parameters}


class Paired(FedKD):
    """FedKD, for which :func:`federation` makes a pair out of two of the network that is asked for."""


BODY = partial(MLP, 6, (5,), 3)  # reads the features of the networks above


class Twinned(Ditto):
    """Ditto, for which :func:`federation` makes two of the network that is asked for."""


def public():
    return torch.randn(12, 5, generator=torch.Generator().manual_seed(9), dtype=FLOAT)


ALGORITHMS = {
    "CCVR": lambda: CCVR(FedProx(0.3), Calibration(samples=20, steps=5), rounds=2),
    "Ditto": lambda: Twinned(0.3),
    "FedAvg": FedAvg,
    "FedProx": lambda: FedProx(0.3),
    "FedAvgM": lambda: FedAvgM(0.9, 0.7),
    "FedBN": FedBN,
    "FedDF": lambda: FedDF(public(), Distillation(steps=3, batch_size=6)),
    "FedMD, kl": lambda: FedMD(public(), digest_epochs=2),
    "FedMD, mae": lambda: FedMD(public(), digest="mae"),
    "FedGen": lambda: FedGen(1.0, 0.5, teaching=Teaching(steps=3, batch_size=6, noise_size=4, hidden=8), draws=12),
    "FedGKT": lambda: FedGKT(BODY, 0.7, 0.8, 2.0, Serving(2, 16, 0.01)),
    "FedHN": lambda: FedHN(("head.*",), 0.03, 0.1, width=7, depth=2),
    "FedKD": lambda: Paired(0.8, rounds=2),
    "FedLSD": lambda: FedLSD(0.5, 2.0),
    "FedNTD": lambda: FedNTD(1.0, 1.5),
    "FedOpt": lambda: FedOpt("yogi", 0.05),
    "Moon": lambda: Moon(1.0, 0.7),
    "PerFedAvg, fo": lambda: PerFedAvg(0.2, "fo"),
    "PerFedAvg, hf": lambda: PerFedAvg(0.2, delta=1e-5),
    "PerFedAvg, exact": lambda: PerFedAvg(0.2, "exact"),
    "Scaffold": lambda: Scaffold(0.9),
    "FedPAV": FedPAV,
    "FedPAV, cosine": lambda: FedPAV("cosine"),
    "FedPAV, taught": lambda: FedPAV(public=public(), distillation=FeatureDistillation(1.0, batch_size=6)),
    "FedPer": FedPer,
    "FedRep": FedRep,
    "LGFedAvg": LGFedAvg,
    "LocalOnly": LocalOnly,
    "personal": lambda: Personal(0.3),
    "own": Pulled,
}


def samples(sizes=UNEVEN, shape=(5,), seed=5):
    g = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    x = torch.randn(n, *shape, generator=g, dtype=FLOAT)
    y = (x.flatten(1)[:, :3] + 0.5 * torch.randn(n, 3, generator=g, dtype=FLOAT)).argmax(1)
    return x, y, list(torch.randperm(n, generator=g).split(list(sizes)))


def federation(algorithm=None, *, model=small, sizes=UNEVEN, shape=(5,), data=None, local=None, **options):
    x, y, split = data or samples(sizes, shape)
    settings = {"participation": 0.6, "seed": 3, "dtype": FLOAT, "device": "cpu", "executor": "sequential"} | options
    local = local or Local(epochs=2, batch_size=8, lr=0.1)
    model = partial(Pair, model, model) if isinstance(algorithm, Paired) else model
    model = partial(Twin, model) if isinstance(algorithm, Twinned) else model
    return Federation(model, x, y, split, algorithm or FedAvg(), local=local, **settings)


def tensors(value, name):
    """Tensors with their paths, however deeply dictionaries hold them."""
    if not isinstance(value, dict):
        yield name, value
        return
    for key, inner in value.items():
        yield from tensors(inner, f"{name}/{key}")


def everything(fed):
    """All that rounds leave: the server's model and memory, what clients keep, losses."""
    kept = {f"{k}/{n}": t for k, own in fed.own.items() for n, t in own.items()}
    memory = dict(tensors(fed.memory, "memory"))
    losses = torch.tensor([row["loss"] for row in fed.history], dtype=FLOAT)
    return fed.state | kept | memory | {"losses": losses}


def same(a, b, tolerance=0.0):
    """Bit for bit, or to a tolerance."""
    assert a.keys() == b.keys()
    for n in a:
        assert a[n].dtype == b[n].dtype
        torch.testing.assert_close(a[n], b[n], rtol=tolerance, atol=tolerance, msg=lambda m, n=n: f"{n}: {m}")


def distance(a, b):
    return max(float((a[n] - b[n]).abs().max()) for n in b)
