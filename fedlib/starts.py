"""Starts other than random weights: a network that was trained on photos of other things before anything is federated,
as ImageNet comes before much of practice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from torch import Tensor, nn
from torch.nn import functional as F

from fedlib import require
from fedlib.data import augment, load
from fedlib.training import Objective, Trainer, Training


@lru_cache
def trained(photos: str, model: Callable[[], nn.Module], pool: int = 1, count: int = 10000) -> dict[str, Tensor]:
    """Weights of ``model`` after four epochs on the classes of the first ``count`` training photos of a set, mirrored
    at random, ``pool`` pixels a side made one: all but those of its output layer ``head``, which knows these classes.

    One start for all seeds. Its head needs at least as many rows as there are classes. Raises ValueError for numbers
    that cannot work.
    """
    some = slice(require.whole("count", count, 1))
    own = load(photos, raw=True)
    x = F.avg_pool2d(own.prepare(own.x_train[some]), require.whole("pool", pool, 1))
    how = Training(4, lr=0.05, weight_decay=5e-4, augment=augment.horizontal_flip)
    trainer = Trainer(model, x, own.y_train[some], Objective(), how)
    trainer.run()
    return {n: t.detach() for n, t in trainer.network.state_dict().items() if not n.startswith("head.")}
