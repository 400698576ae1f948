"""A conditional generator of latent features (Zhu, Hong and Zhou 2021, released code's default for MNIST)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot


class Generator(nn.Module):
    """z = G(noise, y): a hidden layer with BatchNorm and ReLU, then a linear one; 19,744 parameters by default.

    Input [B, noise + classes], as :func:`labelled` makes it; output [B, features]. ``positive`` puts a ReLU at the end,
    for networks whose features come out of one: what is generated must look like what the predictor is fed.
    """

    def __init__(
        self, classes: int = 10, features: int = 32, noise: int = 32, hidden: int = 256, positive: bool = False
    ):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(noise + classes, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, features),
            nn.ReLU() if positive else nn.Identity(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def labelled(noise: Tensor, y: Tensor, classes: int) -> Tensor:
    """Noise [..., E] with the one-hot labels of y [...] behind it: [..., E + classes]."""
    return torch.cat([noise, one_hot(y, classes).to(noise)], -1)
