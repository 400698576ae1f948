"""The table of contents: which pages the book has, and whether each of them is there."""

from __future__ import annotations

from book import cards, chapters
from book.errors import PressError


def pages() -> list[str]:
    """Every page in the order of ``_toc.yml``. Raises PressError when that has another form."""
    path = chapters.ROOT / "_toc.yml"
    toc = cards.read_yaml(path)
    try:
        return [str(toc["root"]), *(str(chapter["file"]) for part in toc["parts"] for chapter in part["chapters"])]
    except (KeyError, TypeError) as error:
        raise PressError(
            f"{path}: expected root, and parts with chapters that each name a file, got {error}"
        ) from error


def problems() -> list[str]:
    """Pages that nobody could find, and entries without a page, each with what to do. A draft may stay outside."""
    if not (chapters.ROOT / "_toc.yml").exists():
        return []
    named, found = pages(), []
    for page in named:
        if not (chapters.ROOT / f"{page}.md").is_file():
            found.append(f"_toc.yml: there is no {page}.md: write it, or take `- file: {page}` out")
    for slug in chapters.slugs():
        try:
            card = cards.load(slug)
        except PressError:
            continue  # a broken card is reported by whoever needs it
        page = chapters.chapter_path(slug).relative_to(chapters.ROOT).with_suffix("").as_posix()
        if page not in named and not card.draft:
            where = f"under {card.part!r}" if card.part else "to a part"
            found.append(f"{page}.md is not in _toc.yml: add `- file: {page}` {where}")
    for path in sorted((chapters.ROOT / "book" / "pages").glob("*.md")):
        page = path.relative_to(chapters.ROOT).with_suffix("").as_posix()
        if page not in named:
            found.append(f"{page}.md is not in _toc.yml: add `- file: {page}` to a part, or delete the page")
    return found
