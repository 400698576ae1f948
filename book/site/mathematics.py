"""Formulas, typeset when the book is built: a page shows them at once, from a file, on paper and without JavaScript.

MathJax (``book/vendor/mathjax``) runs in V8 inside this process and writes SVG. Glyphs are drawn once per page and
referred to by the formulas (`lighter.py` puts them there); MathML beside each formula is what a screen reader reads.
TeX that cannot be read is a warning, so it fails the build.
"""

from __future__ import annotations

import html
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

LOG = logging.getLogger(__name__)
MATHJAX = Path(__file__).parents[1] / "vendor" / "mathjax"
PARTS = ("startup.js", "core.js", "liteDOM.js", "tex-full.js", "svg.js", "tex-font.js")

BEGIN = """var MathJax = {
  startup: {typeset: false, input: ['tex'], output: 'svg', adaptor: 'liteDOM', ready() {}},
  svg: {fontCache: 'local'},
  tex: {tags: 'none', packages: {'[-]': ['noerrors', 'noundefined']}, formatError: (jax, error) => { throw error }},
};"""
READY = """MathJax.startup.getComponents();
MathJax.startup.makeMethods();
function typeset(tex, display) {
  try {
    const page = MathJax.startup.adaptor;
    return JSON.stringify({svg: page.outerHTML(MathJax.tex2svg(tex, {display})), mml: MathJax.tex2mml(tex, {display})});
  } catch (error) {
    return JSON.stringify({error: error.message});
  }
}"""

GLYPH = re.compile(r'<path id="MJX-\d+-TEX-([\w-]+)" d="([^"]*)"></path>')
# What MathJax notes for its own menu and its explorer, neither of which is here.
NOTES = re.compile(
    r' (?:data-mml-node|data-mjx-[\w-]+|data-c|data-semantic-[\w-]+|focusable|tabindex|xmlns:xlink|xmlns)="[^"]*"'
)

glyphs: dict[str, str] = {}  # outline of every glyph that some formula of this build needs, by name
engines: list[Any] = []


class TeXError(ValueError):
    """MathJax could not read a formula."""


def engine() -> Any:
    """MathJax, started with the first formula. It must be closed: V8's threads would keep the process alive."""
    if not engines:
        from py_mini_racer import MiniRacer

        started = MiniRacer()
        engines.append(started)
        started.eval(BEGIN)
        for name in PARTS:
            started.eval((MATHJAX / name).read_text(encoding="utf-8"))
        started.eval(READY)
    return engines[0]


def close(*_: Any) -> None:
    while engines:
        engines.pop().close()


@cache
def typeset(tex: str, display: bool = False) -> str:
    """A formula as HTML: SVG for the eye, MathML for the ear. Raises TeXError with MathJax's own words."""
    done = json.loads(engine().eval(f"typeset({json.dumps(tex)}, {json.dumps(display)})"))
    if "error" in done:
        raise TeXError(done["error"])
    drawing: str = done["svg"]
    glyphs.update(GLYPH.findall(drawing))
    drawing = re.sub(r"<defs>.*?</defs>", "", drawing, flags=re.DOTALL)
    drawing = NOTES.sub("", drawing).replace("></use>", "/>").replace("></rect>", "/>")
    drawing = re.sub(r'xlink:href="#MJX-\d+-TEX-', 'href="#glyph-', drawing).replace(' role="img"', "")
    drawing = drawing.replace("<svg ", '<svg aria-hidden="true" ', 1)
    heard = re.sub(r">\s+<", "><", re.sub(r' data-[\w-]+="[^"]*"', "", done["mml"])).strip()
    kind = "block" if display else "inline"
    heard = f'<mjx-assistive-mml unselectable="on" display="{kind}">{heard}</mjx-assistive-mml>'
    return drawing.replace("</mjx-container>", f"{heard}</mjx-container>")


def outlines(names: set[str]) -> str:
    """The hidden drawing that formulas refer to, with the glyphs of these names."""
    paths = "".join(f'<path id="glyph-{name}" d="{glyphs[name]}"/>' for name in sorted(names & set(glyphs)))
    return (
        f'<svg id="glyphs" aria-hidden="true" width="0" height="0" style="position:absolute"><defs>{paths}</defs></svg>'
    )


def _formula(tex: str, display: bool, node: nodes.Element) -> str:
    try:
        return typeset(tex, display)
    except TeXError as error:
        LOG.warning("TeX: %s, in %s", error, tex, location=node, type="book", subtype="tex")
        return f"<mjx-merror><code>{html.escape(tex)}</code></mjx-merror>"


def visit_math(self: Any, node: nodes.math) -> None:
    """A formula within a line."""
    self.body.append(self.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    self.body.append(_formula(node.astext(), False, node) + "</span>")
    raise nodes.SkipNode


def visit_displaymath(self: Any, node: nodes.math_block) -> None:
    """A formula on lines of its own, with its number if it has one."""
    self.body.append(self.starttag(node, "div", CLASS="math notranslate nohighlight"))
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append(_formula(display_tex(node.astext(), bool(node["nowrap"])), True, node) + "</div>\n")
    raise nodes.SkipNode


def display_tex(text: str, nowrap: bool) -> str:
    r"""TeX of a displayed equation: as Sphinx has it, lines broken by ``\\`` are split and paragraphs aligned."""
    if nowrap:
        return text
    parts = [rf"\begin{{split}}{p}\end{{split}}" if r"\\" in p else p for p in text.split("\n\n") if p.strip()]
    if len(parts) == 1:
        return parts[0]
    return r"\begin{align}\begin{aligned}" + r"\\".join(parts) + r"\end{aligned}\end{align}"


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("typeset", (visit_math, None), (visit_displaymath, None))
    app.connect("build-finished", close, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
