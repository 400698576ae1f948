"""The thin residual networks for 32x32 images (He et al. 2016, section 4.2): 6n+2 layers, widths 16, 32, 64."""

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import relu


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(max(1, channels // 8), channels)
    if kind == "layer":
        return nn.GroupNorm(1, channels)
    raise ValueError(f"norm must be 'batch', 'group' (groups of 8 channels) or 'layer', got {kind!r}")


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, norm: str):
        super().__init__()
        stride = 1 if inputs == outputs else 2
        conv = partial(nn.Conv2d, kernel_size=3, padding=1, bias=False)
        self.conv1, self.norm1 = conv(inputs, outputs, stride=stride), _norm(norm, outputs)
        self.conv2, self.norm2 = conv(outputs, outputs), _norm(norm, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)
            self.shortcut = nn.Sequential(projection, _norm(norm, outputs))

    def forward(self, x: Tensor) -> Tensor:
        h = relu(self.norm1(self.conv1(x)))
        return relu(self.norm2(self.conv2(h)) + self.shortcut(x))


class ResNet(nn.Module):
    """Residual network of 6n+2 layers with 1x1 projections where the width changes. ``norm`` is ``"batch"``,
    ``"group"`` (GroupNorm, groups of 8 channels) or ``"layer"`` (one group: over all channels and places of a sample).

    Input [B, channels, H, W]; logits [B, classes], or with ``features=True`` the pooled activations [B, 64].
    """

    def __init__(self, n: int = 1, channels: int = 3, classes: int = 10, norm: str = "batch"):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1, bias=False), _norm(norm, 16), nn.ReLU())
        blocks, width = [], 16
        for out in (16, 32, 64):
            for _ in range(n):
                blocks.append(_Block(width, out, norm))
                width = out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(64, classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor, features: bool = False) -> Tensor:
        h = self.blocks(self.stem(x)).mean((2, 3))
        return h if features else self.head(h)


class ResNet8(ResNet):
    """n = 1: 78,042 parameters for ten classes of colour images, the network of FedDF's CIFAR-10 experiments."""

    def __init__(self, channels: int = 3, classes: int = 10, norm: str = "batch"):
        super().__init__(1, channels, classes, norm)
