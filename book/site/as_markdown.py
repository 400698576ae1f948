"""What directives draw, as plain Markdown: card, ledger and evidence in a notebook, from the nodes of the website."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from docutils import nodes
from docutils.nodes import Node
from sphinx import addnodes

from book.cards import Card
from book.site import card as cards, elements, evidence, ledger, press

LEFT_OUT = ("Tags", "Related")  # of the card: for whoever browses the website
SPECIAL = re.compile(r"[*<$`\\]")


def of(drawn: Iterable[Node], site: str) -> str:
    """Blocks as Markdown; ``site``: where pages of the book stand, with a slash at its end."""
    return "\n\n".join(text for node in drawn if (text := _block(node, site)))


def card(slug: str, title: str, site: str) -> str:
    """The card as a short table, with a link to the chapter's page; ``title``: of the paper, "" where there is none."""
    about: Card = press.card(slug)
    rows = [row for row in cards.rows(about, slug, press.document_of(slug), title) if row[0] not in LEFT_OUT]
    rows.append(("Website", elements.link("this chapter, with previews and all runs", f"{site}{page(slug)}")))
    lines = [(f"**{name}**", _cell(elements.pieces(content), site)) for name, content in rows]
    return _table(("About", "this chapter"), lines)


def claims(slug: str, site: str) -> str:
    """The ledger of a chapter's claims, with verdicts at each profile."""
    if not press.card(slug).claims:
        return "This chapter makes no claims yet."
    return of([ledger.ledger(slug), *ledger.earlier(slug), *ledger.explanations(slug)], site)


def measured(slug: str, profile: str, wanted: str, site: str) -> str:
    """The metrics of a profile that match the patterns ``wanted``. Raises ValueError where none does."""
    return of(evidence.shown(slug, profile, wanted), site)


def page(slug: str) -> str:
    """Address of a chapter's page from the root of the site."""
    return f"{press.document_of(slug)}.html"


def _block(node: Node, site: str) -> str:
    if isinstance(node, nodes.table):
        rows = [[_cell(entry.children, site) for entry in row.children] for row in node.findall(nodes.row)]
        return _table(rows[0], rows[1:])
    if isinstance(node, nodes.literal_block):
        return f"```{node.get('language', '')}\n{node.astext()}\n```"
    if isinstance(node, nodes.bullet_list):
        return "\n".join(f"- {_cell(item.children, site)}" for item in node.children)
    return _inline(node.children, site)


def _cell(content: Sequence[Node], site: str) -> str:
    """Nodes within one line."""
    return _inline(content, site).replace("\n", " ").replace("|", "\\|").strip()


def _inline(content: Sequence[Node], site: str) -> str:
    return "".join(_one(node, site) for node in content)


def _one(node: Node, site: str) -> str:
    classes = node.get("classes", []) if isinstance(node, nodes.Element) else []
    if isinstance(node, nodes.Text):
        return SPECIAL.sub(r"\\\g<0>", node.astext())
    if "narrow-label" in classes:  # the name of its column, for a phone
        return ""
    inner = _inline(node.children, site)
    if isinstance(node, nodes.literal):
        return f"`{node.astext()}`"
    if isinstance(node, addnodes.pending_xref):
        return f"[{inner}]({site}{node['reftarget'].strip('/')}.html)"
    if isinstance(node, nodes.reference):
        return f"[{inner}]({node['refuri']})"
    if isinstance(node, nodes.emphasis | nodes.strong):
        return f"*{inner}*" if isinstance(node, nodes.emphasis) else f"**{inner}**"
    if "stack" in classes:
        return "<br>".join(line for child in node.children if (line := _one(child, site)))
    if "profile" in classes:
        return f"*{inner}:* "
    return f"({inner})" if "label" in classes else inner


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
