"""Bottleneck autoencoder."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class Autoencoder(nn.Module):
    """Fully connected autoencoder: inputs -> hidden... and back through the same widths.

    As in the code of Reddi et al. (2021): sigmoid everywhere but in the code, which is linear; weights from Glorot's
    normal distribution, biases zero. ``hidden`` ends with the code. Input [B, inputs] with values in [0, 1]; output
    [B, inputs] in (0, 1), or with ``features=True`` the code [B, hidden[-1]]. Their network for handwritten characters
    has hidden (1000, 500, 250, 30): 2,837,314 parameters for 28 x 28 pixels.
    """

    def __init__(self, inputs: int, hidden: Sequence[int] = (32, 8)):
        super().__init__()
        widths = [inputs, *hidden]
        self.encoder = nn.Sequential(*_layers(widths)[:-1])
        self.decoder = nn.Sequential(*_layers(widths[::-1]))

    def forward(self, x: Tensor, features: bool = False) -> Tensor:
        code = self.encoder(x)
        return code if features else self.decoder(code)


def _layers(widths: Sequence[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        linear = nn.Linear(a, b)
        nn.init.xavier_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.Sigmoid()]
    return layers
