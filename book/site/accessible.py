"""What the theme and its extensions get wrong for people who listen to a page or steer it by voice."""

from __future__ import annotations

import re

# What is wrong, and what stands there instead.
MENDED = (
    # A name that differs from the words on the button: saying them would press nothing (WCAG 2.5.3).
    (re.compile(r'(<button class="[^"]*search-button-field[^>]*?)\s+aria-label="[^"]*"'), r"\1"),
    (re.compile(r'<summary aria-label="Toggle hidden content">'), "<summary>"),
    # A list whose children are not list items.
    (re.compile(r'<div role="list" class="citation-list">'), '<div class="citation-list">'),
)


# A link around a formula: its drawing is hidden from those who listen, and MathML alone does not name a link.
SYMBOL = re.compile(r'<a class="symbol ([^>]*)>(?=(?:(?!</a>).)*?<math[^>]*>(.*?)</math>)', re.DOTALL)


def mend(text: str) -> str:
    """A page's HTML with those faults put right."""
    text = SYMBOL.sub(lambda found: f'<a class="symbol {found[1]} aria-label="symbol {_letters(found[2])}">', text)
    for wrong, right in MENDED:
        text = wrong.sub(right, text)
    return text


def _letters(mathml: str) -> str:
    """What a formula's MathML consists of, one after the other."""
    return " ".join(re.sub(r"<[^>]+>", " ", mathml).split()).replace('"', "&quot;")
