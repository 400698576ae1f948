"""Pictures that move: a row of images over time as an animated PNG, which every browser plays without a script."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedlib import require
from fedlib.plots import look

if TYPE_CHECKING:
    from torch import Tensor

RATE = 100  # pixels per inch: as many as the page shows


def film(pictures: Tensor, *, seconds: float = 2.4, plays: int = 2, titles: Sequence[str] = ()) -> bytes:
    """Images [T, N, 3, H, W] in [0, 1], N of them beside each other, as an animated PNG; ``titles`` stand above.

    It plays ``plays`` times and then stands still on its last moment; what moves for more than five seconds would need
    a switch. All moments share one palette. Raises ValueError for other shapes, and for what would move longer.
    """
    if pictures.ndim != 5 or pictures.shape[2] != 3 or len(pictures) < 2:
        raise ValueError(f"pictures: expected [T, N, 3, H, W] of two moments at least, got {list(pictures.shape)}")
    require.whole("plays", plays, 1)
    require.real("seconds", seconds, above=0, most=5 / plays)
    from PIL import Image

    drawn = [Image.open(io.BytesIO(_moment(row, titles))).convert("RGB") for row in pictures.detach().float().cpu()]
    wide, tall = drawn[0].size
    every = Image.new("RGB", (wide, tall * len(drawn)))
    for i, one in enumerate(drawn):
        every.paste(one, (0, i * tall))
    every = every.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    first, *rest = (every.crop((0, i * tall, wide, (i + 1) * tall)) for i in range(len(drawn)))
    buffer = io.BytesIO()
    duration = round(1000 * seconds / len(drawn))
    first.save(buffer, "PNG", save_all=True, append_images=rest, duration=duration, loop=plays)
    return buffer.getvalue()


def show(content: bytes, alt: str) -> None:
    """Displays an animated PNG in a notebook with its alternative text; nothing happens outside of one.

    An empty alternative text raises ValueError.
    """
    if not alt.strip():
        raise ValueError("A film needs an alternative text: what it shows, for those who do not see it.")
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
    try:
        from IPython import get_ipython
    except ImportError:
        return
    if get_ipython() is not None:
        from IPython.display import display

        size = {"alt": alt, "width": width, "height": height}
        display({"image/png": base64.b64encode(content).decode(), "text/plain": alt}, raw=True,
                metadata={"image/png": size})  # fmt: skip


def _moment(row: Tensor, titles: Sequence[str]) -> bytes:
    """One moment, as PNG."""
    from matplotlib import pyplot

    deep = look.WIDTH / len(row) * row.shape[-2] / row.shape[-1] + (0.3 if titles else 0.05)
    fig, axes = look.figure(1, len(row), height=deep, squeeze=False)
    for i, (ax, picture) in enumerate(zip(axes[0], row, strict=True)):
        ax.imshow(picture.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
        ax.axis("off")
        if titles:
            ax.set_title(titles[i], fontsize=10)
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=RATE, metadata={"Software": None})
    pyplot.close(fig)
    return buffer.getvalue()
