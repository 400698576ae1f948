"""A network cut in two: a small one for the edge, and the large rest of it for a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from fedlib import require
from fedlib.models.resnet import _Block, _norm


class Edge(nn.Module):
    """What a device of little power trains: an ``extractor``, one convolution with its normalisation and ReLU, and a
    small classifier upon its maps, which ends in a linear ``head``: the maps at half the size as they are or, where
    ``hidden`` is given, one more convolution to so many maps at half the size, and their means over places.

    Input [B, channels, size, size]; logits [B, classes], or with ``features=True`` the extractor's maps [B, width,
    size, size], as large as the image: what FedGKT sends. ``norm`` as in :class:`~fedlib.models.ResNet`. Raises
    ValueError for widths, sizes or a number of classes that are no whole numbers from 1 on (``size``: from 2 on).
    """

    def __init__(
        self,
        channels: int = 1,
        size: int = 8,
        width: int = 8,
        hidden: int | None = None,
        classes: int = 10,
        norm: str = "batch",
    ):
        super().__init__()
        for name, value in {"channels": channels, "width": width, "classes": classes}.items():
            require.whole(name, value, 1)
        half = require.whole("size", size, 2) // 2
        self.extractor, self.pools = _layer(channels, width, 1, norm), hidden is not None
        if hidden is None:
            self.classifier = nn.Sequential(nn.AvgPool2d(2), nn.Flatten())
            self.head = nn.Linear(width * half * half, classes)
        else:
            self.classifier = _layer(width, require.whole("hidden", hidden, 1), 2, norm)
            self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor, features: bool = False) -> Tensor:
        h = self.extractor(x)
        if features:
            return h
        h = self.classifier(h)
        return self.head(h.mean((2, 3)) if self.pools else h)


class Body(nn.Module):
    """The server's part: residual blocks, one for each of ``widths`` and ``more`` behind it; a block halves the
    maps where it changes their number; the mean over places; a linear ``head``.

    Input the maps [B, width, H, W] of an extractor; logits [B, classes], or with ``features=True`` the input of the
    head. Raises ValueError without any width, and for widths, blocks or classes that are no whole numbers from 1 on
    (``more``: from 0 on).
    """

    def __init__(
        self,
        width: int = 8,
        widths: Sequence[int] = (24, 48),
        more: int = 0,
        classes: int = 10,
        norm: str = "batch",
    ):
        super().__init__()
        if not isinstance(widths, Sequence) or not widths:
            raise ValueError(f"widths: the server's part needs one residual block at least, got {widths!r}")
        require.whole("more", more)
        require.whole("classes", classes, 1)
        for i, value in enumerate(widths):
            require.whole(f"widths[{i}]", value, 1)
        blocks, before = [], require.whole("width", width, 1)
        for after in widths:
            blocks += [_Block(before if i == 0 else after, after, norm) for i in range(1 + more)]
            before = after
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, classes)

    def forward(self, h: Tensor, features: bool = False) -> Tensor:
        pooled = self.blocks(h).mean((2, 3))
        return pooled if features else self.head(pooled)


class Whole(nn.Module):
    """The extractor of ``edge()`` and ``body()`` in one: the network that FedGKT deploys, and that FedAvg would have to
    train on every device. Answers as the body does for the extractor's maps. Raises ValueError for an edge without one.
    """

    def __init__(self, edge: Callable[[], Edge], body: Callable[[], nn.Module]):
        super().__init__()
        both = edge(), body()
        if not hasattr(both[0], "extractor"):
            raise ValueError(
                f"edge must make a network with an extractor, such as an Edge; got {type(both[0]).__name__}"
            )
        self.extractor, self.body = both[0].extractor, both[1]

    def forward(self, x: Tensor, features: bool = False) -> Tensor:
        h = self.extractor(x)
        return self.body(h, features=True) if features else self.body(h)


def _layer(inputs: int, outputs: int, stride: int, norm: str) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, _norm(norm, outputs), nn.ReLU())
