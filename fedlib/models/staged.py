"""A residual network whose stages can be looked into: the feature maps that distillation between maps compares."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fedlib import require

from .resnet import _Block, _norm


def _convolution(inputs: int, outputs: int, place: int, norm: str) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride=2 if place else 1, padding=1, bias=False)
    return nn.Sequential(conv, _norm(norm, outputs), nn.ReLU())


class StagedResNet(nn.Module):
    """Residual network with a stage for each of ``widths``, ``blocks`` blocks deep; every stage but the first, which
    begins with a convolution, halves height and width. With ``blocks`` 0 a stage is one convolution.

    Input [B, channels, H, W]; logits [B, classes]. With ``maps=True`` also the output of every stage, after its ReLU:
    a list of [B, widths[i], H / 2^i, W / 2^i]; with ``features=True`` the pooled last map instead. Widths (64, 128,
    256, 512) and two blocks are the CIFAR-ResNet-18. Widths must rise: a block halves its map where it widens it.
    Raises ValueError otherwise.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        blocks: int = 1,
        channels: int = 3,
        classes: int = 10,
        norm: str = "batch",
    ):
        super().__init__()
        if not widths or sorted(set(widths)) != list(widths):
            raise ValueError(f"widths of the stages must rise, got {tuple(widths)}")
        require.whole("blocks", blocks)
        self.widths, self.classes = tuple(widths), classes
        self.stages = nn.ModuleList()
        for i, width in enumerate(widths):
            before = widths[i - 1] if i else width
            stage: list[nn.Module] = (
                [] if i and blocks else [_convolution(channels if not i else before, width, i, norm)]
            )
            stage += [_Block(before if j == 0 else width, width, norm) for j in range(blocks)]
            self.stages.append(nn.Sequential(*stage))
        self.head = nn.Linear(widths[-1], classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, features: bool = False, maps: bool = False) -> Tensor | tuple[Tensor, list[Tensor]]:
        h, seen = x, []
        for stage in self.stages:
            h = stage(h)
            seen.append(h)
        pooled = h.mean((2, 3))
        if features:
            return pooled
        logits = self.head(pooled)
        return (logits, seen) if maps else logits
