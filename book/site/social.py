"""The picture that a link to a page shows elsewhere: title, summary and, for a chapter, what came of its claims."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.environment import BuildEnvironment

from book.site import best, elements, press

FOLDER = "_static/social"
BOOK = "book"  # the picture of every page that is no chapter
SIZE = (12.0, 6.3)  # inches, at 100 dots an inch: what networks ask for
COLOURS = {
    "holds": "#1a7f37",
    "smaller": "#54aeff",
    "direction only": "#0969da",
    "no effect": "#8250df",
    "opposite": "#cf222e",
    "open": "#bf8700",
    "no room": "#57606a",
    "not run": "#8c959f",
}


def address(config: Config, name: str) -> str:
    return f"{config.html_baseurl}{FOLDER}/{name}.png"


def configure(app: Sphinx, config: Config) -> None:
    if "ogp_image" in config:
        config.ogp_image = config.ogp_image or address(config, BOOK)
        config.ogp_image_alt = config.ogp_image_alt or config.html_title


def announce(app: Sphinx, env: BuildEnvironment) -> None:
    """Tell the social tags of every chapter where its picture lies, and what it says."""
    for document in env.found_docs:
        if slug := press.slug_of(document):
            card = press.card(slug)
            env.metadata[document]["og:image"] = address(app.config, slug)
            env.metadata[document]["og:image:alt"] = ". ".join(filter(None, [card.title, said(slug)]))


def said(slug: str) -> str:
    """The verdicts on the best evidence in words; "" where there are no claims."""
    found = press.best_of(slug)
    counts = ", ".join(f"{n}: {verdict}" for verdict, n in best.counts(found).items())
    return f"Of {len(found)} claims {counts} ({measured_at(found)})" if found else ""


def measured_at(found: list[press.Best]) -> str:
    """Where the verdicts come from, in a few words."""
    return f"best evidence: {best.profiles(found) or 'none'}"


def draw(path: Path, above: str, title: str, text: str, found: list[press.Best]) -> None:
    """One picture. The bar at the bottom has a length for every verdict, and its sign, number and word below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=100, facecolor="white")
    figure.set_layout_engine("none")
    figure.text(0.06, 0.88, above, fontsize=21, color="#57606a", va="top")
    figure.text(0.06, 0.78, fill(title, 36), fontsize=39, color="#24292f", weight="bold", va="top", linespacing=1.15)
    figure.text(0.06, 0.44, fill(text, 74), fontsize=21, color="#24292f", va="top", linespacing=1.3)
    place, whole, counts = 0.06, len(found), best.counts(found)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")
    if not whole:
        axes.barh(0.1, 0.88, 0.03, left=0.06, color="#0072B2")
    else:
        figure.text(0.06, 0.2, f"{whole} claims, {measured_at(found)}", fontsize=17, color="#57606a")
    words = 0.06
    for verdict, number in counts.items():
        axes.barh(0.15, 0.88 * number / whole, 0.04, left=place, color=COLOURS[verdict])
        word = f"{elements.SIGNS[verdict]} {number} {verdict}"
        figure.text(words, 0.065, word, fontsize=19, color=COLOURS[verdict], weight="bold")
        place, words = place + 0.88 * number / whole, words + 0.035 + 0.0118 * len(word)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def write(app: Sphinx, error: Exception | None) -> None:
    """The pictures of the book and of every chapter."""
    if error is not None or app.builder.format != "html":
        return
    folder, book = Path(app.outdir) / FOLDER, app.config.html_title
    what = "Papers on federated learning and distillation as chapters that run; every claim measured, with a verdict."
    draw(folder / f"{BOOK}.png", "An executable book", book, what, press.best_of(*press.slugs(), kinds=("primary",)))
    for slug in press.slugs():
        card = press.card(slug)
        draw(folder / f"{slug}.png", book, card.title, card.summary, press.best_of(slug))


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("config-inited", configure, priority=400)
    app.connect("env-updated", announce)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
