"""Which pages must be read again, and which chapters may not be published: asked on every build.

Sphinx warns about a page only when it reads it. That is too late here: a chapter goes stale without its own text
changing, and a second build would pass in silence. So staleness is judged on every build, before anything is read.
"""

from __future__ import annotations

from typing import Any

from docutils.parsers.rst import DirectiveError
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from book.site import press

LOG = logging.getLogger(__name__)


def begin(app: Sphinx) -> None:
    """Ask the press afresh; a malformed card or evidence stops the build with its own message, not a traceback."""
    press.forget_states()
    try:
        press.check_files()
    except press.PressError as error:
        raise ExtensionError(str(error)) from error


def outdated(app: Sphinx, env: Any, added: set[str], changed: set[str], removed: set[str]) -> list[str]:
    """Pages to read again because a run, a card or evidence changed; a warning for every chapter that is not fresh."""
    before: dict[str, str] = getattr(env, "book_signatures", {})
    now = {page: press.signature(slug) for page in env.found_docs if (slug := press.slug_of(page))}
    for page in sorted(now):
        warn(page)
    again = {page for page in now if now[page] != before.get(page)} | getattr(env, "book_broken", set())
    if now != before:
        again |= getattr(env, "book_drawn", set())
    env.book_signatures = now
    return sorted(again & env.found_docs)


def warn(page: str) -> None:
    """Say so when a chapter's outputs are not those of its present code; with `-W` this refuses to publish it."""
    slug = press.slug_of(page)
    state = press.state(slug) if slug else None
    if state and state.kind != "fresh":
        detail = f" ({state.detail})" if state.detail else ""
        text = f"{page}: {state.words}{detail}; to mend it: make run P={slug}"
        if press.drafting():
            LOG.info("draft: %s", text)
        else:
            LOG.warning("%s", text, location=page, type="book", subtype=state.kind)


class BookDirective(SphinxDirective):
    """A directive that is drawn again when it must be."""

    def draws_press(self) -> None:
        """Note that this page shows evidence of other chapters, and changes when any of it does."""
        note(self.env, "book_drawn")

    def error(self, message: str) -> DirectiveError:
        """An error at this place; the page is read, and complained of, again by the next build."""
        note(self.env, "book_broken")
        return super().error(message)


def note(env: Any, where: str) -> None:
    """Put the page that is being read into one of the sets of pages that are read again."""
    if not hasattr(env, where):
        setattr(env, where, set())
    getattr(env, where).add(env.docname)


def forget(app: Sphinx, env: BuildEnvironment, page: str) -> None:
    for where in ("book_drawn", "book_broken"):
        getattr(env, where, set()).discard(page)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", begin)
    app.connect("env-get-outdated", outdated)
    app.connect("env-purge-doc", forget)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
