"""What the tests of methods on a slim network share: four uneven clients with small pictures, in float64."""

from __future__ import annotations

from functools import partial

import torch
from federations import FLOAT

from fedlib.federation import Federation, Local
from fedlib.models.slim import SlimResNet

SIZES = (3, 9, 12, 16)  # with batches of 8: smaller than a batch, with a rest, and whole
slim = partial(SlimResNet, widths=(4, 8), blocks=2, channels=1, classes=3, group=2, height=4)


def pictures(seed=0):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(40, 1, 4, 6, generator=g, dtype=FLOAT), torch.randint(0, 3, (40,), generator=g)
    return x, y, list(torch.randperm(40, generator=g).split(list(SIZES)))


def federation(algorithm, *, model=slim, local=None, data=None, **options):
    x, y, split = data or pictures()
    settings = {"seed": 3, "dtype": FLOAT, "device": "cpu", "executor": "sequential"} | options
    return Federation(model, x, y, split, algorithm, local=local or Local(2, 8, 0.1, 0.5), **settings)
