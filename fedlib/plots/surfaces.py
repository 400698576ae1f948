"""Pictures: the decision map of a classifier on the plane, and sheets of sample images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASS_COLOURS = ("#0072B2", "#D55E00", "#009E73")
CLASS_MARKERS = ("o", "^", "s")


def decision_map(
    ax: Axes,
    fn: Callable[[Tensor], Tensor],
    xlim: tuple[float, float] = (-3, 3),
    ylim: tuple[float, float] = (-3, 3),
    points: tuple[Tensor, Tensor] | None = None,
    *,
    steps: int = 160,
    title: str = "",
    dtype: torch.dtype = torch.float32,
) -> Axes:
    """Colours the plane by a three-class classifier: each place mixes the class colours by their probabilities.

    fn: maps points [N, 2] to logits [N, 3]. points: (positions [M, 2], labels [M]) drawn on top; a label of
    -1 marks an unlabelled point. Raises ValueError when fn does not return three columns.
    """
    from matplotlib.colors import to_rgb

    x, y = (torch.linspace(*lim, steps, dtype=dtype) for lim in (xlim, ylim))
    places = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).view(-1, 2)
    with torch.no_grad():
        logits = fn(places).detach().double().cpu()
    if logits.shape != (steps * steps, 3):
        raise ValueError(
            f"decision_map: fn returned {tuple(logits.shape)} for [{steps * steps}, 2]; expected 3 columns."
        )
    # Half-way to white: points and their edges stay visible on the surest places.
    palette = torch.tensor([to_rgb(c) for c in CLASS_COLOURS], dtype=torch.float64) * 0.6 + 0.4
    colours = (logits.softmax(1) @ palette).view(steps, steps, 3).clamp(0, 1).numpy()
    ax.imshow(colours, origin="lower", extent=(*xlim, *ylim), interpolation="bilinear", aspect="equal")
    winner = logits.argmax(1).view(steps, steps).numpy()
    ax.contour(x.numpy(), y.numpy(), winner, levels=[0.5, 1.5], colors="white", linewidths=0.9)
    if points is not None:
        where, labels = points[0].cpu(), points[1].cpu()
        for c, (colour, marker) in enumerate(zip(CLASS_COLOURS, CLASS_MARKERS, strict=True)):
            chosen = where[labels == c]
            ax.scatter(
                chosen[:, 0], chosen[:, 1], s=16, c=colour, marker=marker, edgecolors="white", linewidths=0.6, zorder=3
            )
        free = where[labels < 0]
        ax.scatter(free[:, 0], free[:, 1], s=9, c=look.INK, marker="x", linewidths=0.7, zorder=3)
    ax.set(xlim=xlim, ylim=ylim, xticks=[], yticks=[], title=title)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return ax


def samples(x: Tensor, *, columns: int = 10, titles: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """A sheet of sample images [N, C, H, W] (C 1 or 3), row by row; contrast is stretched over the whole sheet.

    titles: one word under each image.
    """
    if x.dim() != 4 or x.shape[1] not in (1, 3) or not len(x):
        raise ValueError(f"samples: x is {tuple(x.shape)}; expected [N, C, H, W] with one or three channels.")
    count, _, height, width = x.shape
    rows = math.ceil(count / columns)
    axes = ax if ax is not None else look.figure(height=look.WIDTH / columns * rows * (1.25 if titles else 1.0))[1]
    low, high = float(x.min()), float(x.max())
    pixels = ((x.detach().float().cpu() - low) / ((high - low) or 1.0)).permute(0, 2, 3, 1).expand(-1, -1, -1, 3)
    across, down = 1.1, 1.4 if titles else 1.1
    for i, picture in enumerate(pixels.numpy()):
        left, top = (i % columns) * across, (i // columns) * down
        axes.imshow(picture, extent=(left, left + 1, top + height / width, top), interpolation="nearest")
        if titles:
            axes.text(left + 0.5, top + height / width + 0.05, titles[i], ha="center", va="top", fontsize=8.5)
    axes.set(xlim=(0, min(count, columns) * across - 0.1), ylim=(rows * down - 0.05, 0), aspect="equal")
    axes.axis("off")
    return axes
