"""Copies of a network abreast: each has weights of its own, and a layer is computed for all of them in one product.

The same as :class:`fedlib.festa.Stacked`, in another way: layers with weights have a stacked form
(:mod:`fedlib.stacking`), which for small networks costs a fraction of what ``vmap`` does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedlib import rng, stacking
from fedlib.festa import Stacked
from fedlib.models.net import Net


class Abreast(Stacked):
    """Modules of one form: inputs [R, B, ...] give outputs [R, B, ...], row r by module r.

    Raises ValueError for none, for modules with buffers, and for layers that have no stacked form.
    """

    def __init__(self, modules: Sequence[nn.Module]):
        super().__init__(modules)
        first = next(modules[0].parameters())
        self._form = (stacking.StackedNet(Net(modules[0], first.device, first.dtype)),)

    def forward(self, x: Tensor, every: int = 1) -> Tensor:
        """Outputs [R, B, ...] of inputs [R, B, ...]; of every third module only with ``every`` 3, and so on."""
        weights = stacking.Stack({n: w[::every] for n, w in zip(self.names, self.effective(), strict=True)})
        return self._form[0](weights, x.transpose(0, 1).unsqueeze(2), train=True).squeeze(2).transpose(0, 1)

    def effective(self) -> list[Tensor]:
        """The weights [R, ...] that layers compute with, in the order of ``names``."""
        return list(self.weights)

    def frozen(self) -> Abreast:
        """The same networks with a copy of their weights, which nothing trains."""
        twin = copy.copy(self)
        twin._parameters, twin._modules = dict(self._parameters), dict(self._modules)
        twin.weights = nn.ParameterList(nn.Parameter(w.detach().clone(), requires_grad=False) for w in self.weights)
        return twin


class Spectral(Abreast):
    """The same with matrices divided by their largest singular value (Miyato et al. 2018): no layer of a discriminator
    stretches a difference. A convolution counts as a matrix [outputs, inputs x places].

    The value is found by the power method, one step whenever the networks answer while they are trained; its vector
    begins with that of the first answer, after some more steps.
    """

    BEGIN = 10  # steps of the power method before the first answer

    def __init__(self, modules: Sequence[nn.Module]):
        super().__init__(modules)
        self._right: dict[str, Tensor] = {}

    def effective(self) -> list[Tensor]:
        """Weights, matrices among them normalised."""
        return [w / self._norm(n, w) if w.ndim > 2 else w for n, w in zip(self.names, self.weights, strict=True)]

    def _norm(self, name: str, w: Tensor) -> Tensor:
        m, steps = w.flatten(2), 1
        with torch.no_grad():
            if name not in self._right:
                start = torch.linspace(0, 3, m.shape[2], dtype=m.dtype, device=m.device).cos()
                self._right[name], steps = start.expand(len(m), -1)[..., None], self.BEGIN
            right = self._right[name]
            for _ in range(steps):
                left = F.normalize(m @ right, dim=1)
                right = F.normalize(m.mT @ left, dim=1)
            self._right[name] = right
        return (left * (m @ right)).sum(1).view(-1, *[1] * (w.ndim - 1))


def abreast(
    kind: type[Abreast],
    make: Callable[[], nn.Module],
    seeds: Sequence[int],
    copies: int,
    key: str,
    **where: Any,
) -> Any:
    """``copies`` modules a seed, those of a seed alike, with first weights from the seed and the key; ``where``: their
    dtype and device.
    """
    made = [rng.build(make, s, key).to(**where) for s in seeds]
    return kind([copy.deepcopy(one) for one in made for _ in range(copies)])
