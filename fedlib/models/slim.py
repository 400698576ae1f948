"""A residual network that can be run at reduced width: the first channels of every layer are a network, too.

Slimmable networks (Yu et al. 2019) share weights between widths: the narrow network's weights are the leading corner of
the wide one's. GradAug trains narrow networks along (Yang, Zhu and Chen 2020), FedAlign the narrow last stage (Mendieta
et al. 2022).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.functional import relu

from fedlib import require

PARTS = ("whole", "before", "last")


class Block(nn.Module):
    """relu(branch(x) + shortcut(x)): two convolutions and a shortcut, the identity or a projection. The branch ends in
    the normalisation ``norm2``: with its scale and shift times c the block is relu(c branch(x) + shortcut(x)).
    """

    def __init__(self, inputs: int, outputs: int, group: int, kernel: tuple[int, int]):
        super().__init__()
        step = 1 if inputs == outputs else 2
        self.conv1, self.norm1 = _convolution(inputs, outputs, kernel, step), _norm(outputs, group)
        self.conv2, self.norm2 = _convolution(outputs, outputs, kernel), _norm(outputs, group)
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            stride = tuple(step if k > 1 else 1 for k in kernel)
            project = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)  # type: ignore[arg-type]
            self.shortcut = nn.Sequential(project, _norm(outputs, group))

    def forward(self, x: Tensor) -> Tensor:
        h = relu(self.norm1(self.conv1(x)))
        return relu(self.norm2(self.conv2(h)) + self.shortcut(x))


class SlimResNet(nn.Module):
    """Residual network with a stage of ``blocks`` blocks for each of ``widths``; the first begins with a convolution,
    the others halve the map.

    Input [B, channels, H, W]; logits [B, classes], or with ``features=True`` the pooled last map [B, widths[-1]]. With
    ``part="before"`` it is the map that enters the last stage [B, widths[-2], H', W']; with ``part="last"`` the last
    stage takes such a map and gives its own [B, widths[-1], H'', W'']. ``width`` runs with the first share of every
    layer's channels, and the picture's and the classes whole: logits [B, classes]; the last stage then takes the first
    channels of its map. Nothing of it stays behind: the next call is wide again.

    Normalisation is over groups of ``group`` channels at every width, so a narrow pass normalises the same groups; a
    width has whole groups in every stage, and is never rounded to one that has. (BatchNorm would need statistics of its
    own for every width.) ``kernel`` (1, 3) is for lines [B, channels, 1, W]. With ``height`` the network looks at the
    first so many rows of its input: below them may stand notes (:mod:`fedlib.data.margin`). Raises ValueError for
    widths that do not rise, and for sizes and shares that cannot work.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        blocks: int = 1,
        channels: int = 3,
        classes: int = 10,
        group: int = 4,
        kernel: int | tuple[int, int] = 3,
        height: int | None = None,
    ):
        super().__init__()
        kernels = (kernel, kernel) if isinstance(kernel, int) else kernel
        _check(widths, blocks, channels, classes, group, kernels, height)
        self.widths, self.group, self.height = tuple(widths), group, height
        self.stem = _convolution(channels, widths[0], kernels)
        self.norm = _norm(widths[0], group)
        self.stages = nn.ModuleList()
        before = widths[0]
        for width in widths:
            stage = [Block(before if i == 0 else width, width, group, kernels) for i in range(blocks)]
            self.stages.append(nn.Sequential(*stage))
            before = width
        self.head = nn.Linear(widths[-1], classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    @property
    def branches(self) -> list[str]:
        """Names of the normalisations that end the blocks' branches, from the first block to the last."""
        return [f"{n}.norm2" for n, block in self.named_modules() if isinstance(block, Block)]

    def narrow(self, channels: int, width: float) -> int:
        """How many of so many channels a width keeps. Raises ValueError where that is not a whole number of groups."""
        kept = channels * require.real("width", width, above=0, most=1)
        if abs(kept - round(kept)) > 1e-6 or round(kept) % self.group:
            raise ValueError(
                f"width {width:g} keeps {kept:g} of {channels} channels; expected whole groups of {self.group}"
            )
        return round(kept)

    def forward(self, x: Tensor, features: bool = False, width: float = 1.0, part: str = "whole") -> Tensor:
        if part == "last":
            with self._at(width, self.stages[-1]):
                return self.stages[-1](x)
        with self._at(width, self):
            h = relu(self.norm(self.stem(x if self.height is None else x[..., : self.height, :])))
            for stage in self.stages[:-1]:
                h = stage(h)
            if require.one_of("part", part, PARTS) == "before":
                return h
            pooled = self.stages[-1](h).mean((2, 3))
            return pooled if features else self.head(pooled)

    @contextmanager
    def _at(self, width: float, part: nn.Module) -> Iterator[None]:
        """The layers of a part with the corners of their weights, for as long as the context lasts. What lies before
        the last dimensions, such as a stack of clients, stays.
        """
        if width == 1.0:
            yield
            return
        wide = [(layer, dict(layer._parameters), getattr(layer, "num_groups", 0)) for layer in _leaves(part)]
        try:
            for layer, weights, _ in wide:
                if isinstance(layer, nn.GroupNorm):
                    layer.num_groups = self.narrow(layer.num_channels, width) // self.group
                layer._parameters |= {n: self._corner(layer, w, width) for n, w in weights.items() if w is not None}  # type: ignore[misc]
            yield
        finally:
            for layer, weights, groups in wide:
                layer._parameters.update(weights)
                if groups:
                    layer.num_groups = groups  # type: ignore[assignment]

    def _corner(self, layer: nn.Module, w: Tensor, width: float) -> Tensor:
        if isinstance(layer, nn.Conv2d):
            inputs = w.shape[-3] if layer is self.stem else self.narrow(w.shape[-3], width)
            return w.narrow(-4, 0, self.narrow(w.shape[-4], width)).narrow(-3, 0, inputs)
        if layer is self.head:
            return w.narrow(-1, 0, self.narrow(w.shape[-1], width)) if w is layer.weight else w
        return w.narrow(-1, 0, self.narrow(w.shape[-1], width))


def _leaves(part: nn.Module) -> Iterable[nn.Module]:
    return [m for m in part.modules() if isinstance(m, nn.Conv2d | nn.GroupNorm | nn.Linear)]


def _convolution(inputs: int, outputs: int, kernel: tuple[int, int], step: int = 1) -> nn.Conv2d:
    stride, padding = tuple(step if k > 1 else 1 for k in kernel), tuple(k // 2 for k in kernel)
    return nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)  # type: ignore[arg-type]


def _norm(channels: int, group: int) -> nn.GroupNorm:
    return nn.GroupNorm(channels // group, channels)


def _check(
    widths: Sequence[int],
    blocks: int,
    channels: int,
    classes: int,
    group: int,
    kernel: tuple[int, int],
    height: int | None,
) -> None:
    require.whole("group", group, 1)
    if len(widths) < 2 or sorted(set(widths)) != list(widths):
        raise ValueError(f"widths: expected two stages at least, each wider than the one before; got {tuple(widths)}")
    for i, width in enumerate(widths):
        if require.whole(f"widths[{i}]", width, 1) % group:
            raise ValueError(f"widths[{i}] = {width}: expected whole groups of {group} channels")
    for name, value in {"blocks": blocks, "channels": channels, "classes": classes}.items():
        require.whole(name, value, 1)
    if len(kernel) != 2 or any(require.whole("kernel", k, 1) % 2 == 0 for k in kernel):
        raise ValueError(f"kernel: expected odd sizes, of rows and of columns; got {kernel}")
    if height is not None:
        require.whole("height", height, 1)
