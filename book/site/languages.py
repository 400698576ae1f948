"""The language of Chinese text, so that a screen reader changes its voice and a browser its font."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

# sphinx-design writes a folded box as <details>, and has no option for its language.
BOX = re.compile(r"<details(?=[^>]*>\s*<summary[^>]*>\s*(?:<[^>]*>\s*)*中文)")

# Verdicts, and titles of chapters: several words without a Chinese character. One word is a name in any language.
ENGLISH = re.compile(
    r'<(a|span)\b(?=[^>]*>(?:<span[^>]*>)?[^<\u3000-\uffef]*[a-z] [^<\u3000-\uffef]*[a-z]<|[^>]*"verdict [^>]*>. [a-z])'
)
VERDICTS = {
    "holds": "成立",
    "smaller": "效果较小",
    "direction only": "方向正确",
    "no effect": "无效果",
    "opposite": "方向相反",
    "open": "未定",
    "no room": "没有余地",
    "not run": "未运行",
}
PARTS = {
    "Foundations": "基础",
    "What travels": "传输的内容",
    "Distillation": "蒸馏",
    "Fusing models on the server": "服务器端的模型融合",
    "Drift and forgetting on the client": "客户端的漂移与遗忘",
    "Personal models": "个性化模型",
    "Domains and medicine": "域与医学",
    "Beyond federation": "联邦之外",
}
TEXTS = {
    "en": {
        "tally": "Of {whole} primary claims: {parts}",
        "expect": "Of those that hold, expect {n} at most to be false; {kept} stand a correction over the whole book.",
        "others": "Of {n} other claims, {held} hold; {kept} of {identities} identities are kept.",
        "best": "Each verdict is that of the best evidence there is on its claim: {profiles}.",
        "differ": "On {n} claims a smaller profile came to something else.",
        "old": "{n} were measured with earlier code.",
        "earlier": "earlier code",
        "figure": "figure: the quick run",
        "unwritten": "{n} not yet written",
        "quick numbers": "These numbers are of the quick run, on small embedded data.",
        "larger differ": "On larger data the verdict differs:",
        "more differ": "On {n} more the verdicts differ; see ",
        "claims": "Claims",
        "stop": ".",
        "points": " points",
        "comma": ", ",
        "space": " ",
    },
    "zh": {
        "tally": "共 {whole} 条主要结论：{parts}",
        "expect": "判定为成立的结论中，预计至多有 {n} 条并不成立；就全书作多重检验校正之后，仍有 {kept} 条成立。",
        "others": "另有 {n} 条其他结论，其中 {held} 条成立；{identities} 条恒等式中有 {kept} 条得到满足。",
        "best": "每条判定依据该结论现有的最好证据：{profiles}。",
        "differ": "其中 {n} 条在较小的配置下判定不同。",
        "old": "{n} 条由较早的代码测得。",
        "earlier": "较早的代码",
        "figure": "图：quick 配置的运行",
        "unwritten": "{n} 篇尚未写成",
        "quick numbers": "本章英文摘要中的数字来自 quick 配置的运行，使用内嵌的小数据。",
        "larger differ": "较大的配置得出不同的判定：",
        "more differ": "另有 {n} 条判定不同，见",
        "claims": "结论一览",
        "stop": "。",
        "points": " 个百分点",
        "comma": "，",
        "space": "",
    },
}
FOLDED = "folded/zh"  # stands for the page where Chinese text is folded into an English one
CHINESE = re.compile(r"[\u3000-\u9fff\uff00-\uffef]")


def of(page: str) -> str:
    """The language of a page."""
    return "zh" if page.endswith("/zh") else "en"


def verdict(word: str, page: str) -> str:
    """A verdict in the language of a page."""
    return VERDICTS[word] if of(page) == "zh" else word


def part(name: str, page: str) -> str:
    """A part of the book in the language of a page."""
    return PARTS[name] if of(page) == "zh" else name


def say(what: str, page: str) -> str:
    """One of ``TEXTS`` in the language of a page."""
    return TEXTS[of(page)][what]


def folded(part: nodes.Element) -> list[nodes.container]:
    """The boxes within a page or a part of it whose text is Chinese."""
    boxes = [box for box in part.findall(nodes.container) if box.get("design_component") == "dropdown"]
    return [box for box in boxes if box.astext().startswith("中文")]


def join_lines(app: Sphinx, doctree: nodes.document) -> None:
    """A line break between two Chinese characters is no space. (The parser makes each break a text of its own.)"""
    for text in [text for text in doctree.findall(nodes.Text) if text == "\n"]:
        line = text.parent
        place = next(i for i, part in enumerate(line) if part is text)
        around = [part.astext() for part in (*line[max(place - 1, 0) : place], *line[place + 1 : place + 2])]
        if len(around) == 2 and CHINESE.fullmatch(around[0][-1:]) and CHINESE.fullmatch(around[1][:1]):
            del line[place]


def mark_chinese(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Set ``lang`` on every folded box whose title is 中文, and on the whole text of a Chinese page."""
    if "body" in context:
        context["body"] = BOX.sub('<details lang="zh"', context["body"])
        if of(page) == "zh":
            body = ENGLISH.sub(r'<\1 lang="en"', context["body"])
            context["body"] = f'<div lang="zh">{body}</div>'


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-read", join_lines)
    app.connect("html-page-context", mark_chinese)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
