"""Pages lighter than the theme makes them, with nothing lost: below 1.5 MB each, all they load counted.

When a build is finished: icons become drawings in the page, in place of a script of 1.5 MB and two fonts; glyphs of
formulas are put into the page; images get their size and wait until they come into view; figures are stored with a
palette; rules of style that no page uses are left out; the index of the search is loaded by the page of results alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import tinycss2
from PIL import Image
from sphinx.application import Sphinx

from book.site import accessible, mathematics

ICON = re.compile(r'<(?:i|span) class="([^"]*\bfa-[^"]*)"([^>]*)></(?:i|span)>')
OUTLINE = re.compile(
    r'(?:"([\w-]+)"|\b([a-z]\w*)):\[(\d+),(\d+),\[([^\]]*)\],"[0-9a-f]+","(M[^"]*)"\]'  # name, width, height, aliases
)
GLYPH = re.compile(r"#glyph-([\w-]+)")
IMAGE = re.compile(r"<img\b[^>]*>")
SIZE = re.compile(r'style="width: (\d+)px; height: (\d+)px;"')
ICON_TEXT = re.compile('"[^"\n]*[\ue000-\uf8ff][^"\n]*"')  # a letter of an icon font: without the font, an empty box
STYLES = re.compile(r"fa-(?:solid|regular|brands|lg|fw|sm|xs|xl)$")


def finish(app: Sphinx, exception: Exception | None) -> None:
    """Work on the files of a build that went well."""
    if exception is not None or app.builder.name != "html":
        return
    out = Path(app.outdir)
    icons = outlines_of_icons(out / "_static" / "scripts" / "fontawesome.js")
    for page in pages(out):
        page.write_text(lighten(page.read_text(encoding="utf-8"), page, icons), encoding="utf-8")
    for name in ("fontawesome.js", "fontawesome.js.map"):
        (out / "_static" / "scripts" / name).unlink(missing_ok=True)
    for path in (out / "_images").glob("*.png"):
        with_palette(path)
    known = words(out)
    for path in (out / "_static").rglob("*.css"):
        path.write_text(used_rules(path.read_text(encoding="utf-8"), known), encoding="utf-8")


def pages(out: Path) -> Iterator[Path]:
    return (p for p in sorted(out.rglob("*.html")) if p.relative_to(out).parts[0] not in ("_static", "_sources"))


def lighten(text: str, page: Path, icons: dict[str, str]) -> str:
    """A page's HTML, with what it needs of icons and glyphs inside, and without what it does not use."""
    text = accessible.mend(ICON.sub(lambda match: icon(match, icons), text))
    text = re.sub(r'\s*<script[^>]*src="[^"]*fontawesome\.js[^"]*"></script>', "", text)
    if page.name != "search.html" and "search_as_you_type = false" in text:
        text = re.sub(
            r'\s*<script[^>]*src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"></script>', "", text
        )
    if 'id="glyphs"' not in text and (names := set(GLYPH.findall(text + previews(text, page)))):
        text = re.sub(r"<body\b[^>]*>", lambda m: m.group() + mathematics.outlines(names), text, count=1)
    return IMAGE.sub(lambda match: sized(match.group(), page), text)


def previews(text: str, page: Path) -> str:
    """The script of a page's previews (sphinx-tippy), whose formulas need their glyphs here, too."""
    scripts = re.findall(r'src="([^"?]*/tippy/[^"?]*\.js)', text)
    found = [page.parent / unquote(script) for script in scripts]
    return "".join(path.read_text(encoding="utf-8") for path in found if path.is_file())


def icon(match: re.Match[str], icons: dict[str, str]) -> str:
    """An icon as a drawing; one that the theme's script does not know stays as it is."""
    names = [name.removeprefix("fa-") for name in match[1].split() if name.startswith("fa-") and not STYLES.match(name)]
    drawing = next((icons[name] for name in names if name in icons), None)
    if drawing is None:
        return match.group()
    return f'<svg class="svg-inline--fa {match[1]}"{match[2]} aria-hidden="true" fill="currentColor" {drawing}</svg>'


def outlines_of_icons(script: Path) -> dict[str, str]:
    """Icons by name, from the theme's script: where a name is drawn twice, the last drawing is the solid one."""
    found: dict[str, str] = {}
    for match in OUTLINE.finditer(script.read_text(encoding="utf-8") if script.exists() else ""):
        drawing = f'viewBox="0 0 {match[3]} {match[4]}"><path d="{match[6]}"/>'
        aliases = re.findall(r'"([\w-]+)"', match[5])
        found.update(dict.fromkeys([match[1] or match[2], *aliases], drawing))
    return found


def sized(tag: str, page: Path) -> str:
    """An image with the size that it will have, so that nothing jumps, and loaded when it comes near."""
    if " width=" not in tag:
        source = re.search(r'\bsrc="([^"]*)"', tag)
        path = (page.parent / unquote(source[1])) if source else page
        if asked := SIZE.search(tag):
            size: tuple[Any, Any] | None = (asked[1], asked[2])
        elif path.suffix in (".png", ".jpg", ".jpeg", ".gif", ".webp") and path.is_file():
            with Image.open(path) as image:
                size = image.size
        else:
            size = None
        if size:
            tag = tag.replace("<img", f'<img width="{size[0]}" height="{size[1]}"', 1)
            tag = SIZE.sub("", tag)
    if " loading=" not in tag:
        tag = tag.replace("<img", '<img loading="lazy" decoding="async"', 1)
    return tag


def with_palette(path: Path) -> None:
    """Store a drawing of few colours with a palette, where that is smaller: a third of the bytes, no visible change."""
    before = path.stat().st_size
    with Image.open(path) as image:
        if image.mode not in ("RGB", "RGBA"):
            return
        opaque = image.mode == "RGB" or image.getchannel("A").getextrema()[0] == 255
        flat = image.convert("RGB") if opaque else image
        method = Image.Quantize.MEDIANCUT if opaque else Image.Quantize.FASTOCTREE
        small = flat.quantize(256, method=method, dither=Image.Dither.NONE)
    aside = path.with_suffix(".small")
    small.save(aside, format="PNG", optimize=True)
    if aside.stat().st_size < before:
        aside.replace(path)
    else:
        aside.unlink()


def words(out: Path) -> set[str]:
    """Every name that some page or script could use as a class."""
    known: set[str] = set()
    for path in pages(out):
        for classes in re.findall(r'class="([^"]*)"', path.read_text(encoding="utf-8")):
            known.update(classes.split())
    for path in (out / "_static").rglob("*.js"):
        known.update(re.findall(r"[\w-]+", path.read_text(encoding="utf-8", errors="replace")))
    return known


def used_rules(style: str, known: set[str]) -> str:
    """A style sheet without the rules whose classes stand on no page and in no script, and without icon fonts and what
    is written in them.
    """
    kept = []
    for rule in tinycss2.parse_stylesheet(style, skip_comments=True, skip_whitespace=True):
        if rule.type == "qualified-rule":
            selectors = [s for s in split(tinycss2.serialize(rule.prelude)) if classes(s) <= known]
            if selectors:
                content = ICON_TEXT.sub("none", tinycss2.serialize(rule.content).strip())
                kept.append(f"{','.join(selectors)}{{{content}}}")
        elif rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports") and rule.content is not None:
            if inner := used_rules(tinycss2.serialize(rule.content), known):
                kept.append(f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{inner}}}")
        elif not (rule.type == "at-rule" and rule.lower_at_keyword == "font-face"):
            kept.append(rule.serialize())
    return "\n".join(kept)


def split(selectors: str) -> list[str]:
    """The selectors of a list; commas within brackets do not count."""
    return [part.strip() for part in re.split(r",(?![^(\[]*[)\]])", selectors)]


def classes(selector: str) -> set[str]:
    """Classes without which the selector matches nothing."""
    needed = re.sub(r":(?:not|is|where|has)\((?:[^()]|\([^()]*\))*\)|\[[^\]]*\]", "", selector)
    return {name.replace("\\", "") for name in re.findall(r"\.((?:[\w-]|\\.)+)", needed)}


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", finish, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
