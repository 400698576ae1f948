"""A convolutional network with a normalisation after every layer."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

NORMS = ("batch", "group", "none")
GROUP = 8  # channels of a group


class NormedCNN(nn.Module):
    """Convolutions and fully connected layers, each followed by a normalisation and ReLU; 2x2 pooling after the first
    two convolutions; a linear head.

    Input [B, channels, size, size]; logits [B, classes], or with ``features=True`` the input of the head. ``norm`` is
    ``"batch"``, ``"group"`` (groups of 8 channels) or ``"none"``. With ``widths`` (64, 64, 128), ``hidden`` (2048,
    512), kernel 5 and colour images of 28 pixels it is the network for digits of Li et al. (2021, FedBN), with
    14,219,210 parameters. Raises ValueError for another ``norm``.
    """

    def __init__(
        self,
        channels: int = 1,
        size: int = 8,
        widths: Sequence[int] = (16, 32),
        hidden: Sequence[int] = (64,),
        classes: int = 10,
        kernel: int = 3,
        norm: str = "batch",
    ):
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
        body: list[nn.Module] = []
        for i, (a, b) in enumerate(pairwise([channels, *widths])):
            body += [nn.Conv2d(a, b, kernel, padding=kernel // 2), _norm(norm, b, nn.BatchNorm2d), nn.ReLU()]
            body += [nn.MaxPool2d(2)] if i < 2 else []
        places = (size // 2 ** min(2, len(widths))) ** 2
        body.append(nn.Flatten())
        for a, b in pairwise([widths[-1] * places, *hidden]):
            body += [nn.Linear(a, b), _norm(norm, b, nn.BatchNorm1d), nn.ReLU()]
        self.body = nn.Sequential(*(layer for layer in body if not isinstance(layer, nn.Identity)))
        self.head = nn.Linear(hidden[-1] if hidden else widths[-1] * places, classes)

    def forward(self, x: Tensor, features: bool = False) -> Tensor:
        h = self.body(x)
        return h if features else self.head(h)


def _norm(kind: str, width: int, batch: type[nn.Module]) -> nn.Module:
    if kind == "batch":
        return batch(width)
    return nn.GroupNorm(max(1, width // GROUP), width) if kind == "group" else nn.Identity()
