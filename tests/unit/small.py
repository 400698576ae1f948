"""A federation small enough for a test, as a study's setting."""

from functools import partial

import torch

from fedlib import study
from fedlib.federation import Local
from fedlib.models import MLP

FIELDS = {
    "data": "digits",
    "model": partial(MLP, 64, (8,)),
    "flat": True,
    "dtype": torch.float64,
    "samples": 200,
    "test": 100,
    "clients": 4,
    "rounds": 3,
    "last": 2,
    "seeds": 2,
    "split": study.Dirichlet(0.5, least=2),
    "local": Local(1, 20, 0.1),
}
