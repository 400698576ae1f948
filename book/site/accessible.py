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


def mend(text: str) -> str:
    """A page's HTML with those faults put right."""
    for wrong, right in MENDED:
        text = wrong.sub(right, text)
    return text
