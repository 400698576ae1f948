"""`new`: a chapter that runs, has every section, and waits to be filled in."""

from __future__ import annotations

import re
from pathlib import Path
from string import Template

import yaml

from book import cards, chapters, files
from book.errors import PressError

NEXT = """next:
  1. fill in papers/{slug}/paper.yml: citation, authors, venue, claims (a card without claims is a draft)
  2. add the citation to book/references.bib, and the chapter to _toc.yml under its part
  3. write papers/{slug}/chapter.md, and try it: python -m book run {slug} --profile smoke
  4. when it is right: run, accept and check it at smoke and quick"""

_CHAPTER = Template('''---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
    format_version: 0.13
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# $title

```{card}
```

## In short

To be written: the question, the answer, and how it held up here, in one paragraph; its words, such as {term}`client`,
linked to the glossary.

```{dropdown} 中文
待写：用一段话说明问题、答案与复现结果。
```

```{code-cell} ipython3
:tags: [parameters]

profile = "quick"
seed = 0
seeds: int | None = None  # None: as many as the profile says
device = "auto"
samples: int | None = None  # None: as many as the profile says
```

```{code-cell} ipython3
from fedlib import evidence

PROFILES = {
    "smoke": {"seeds": 1, "samples": 100},
    "quick": {"seeds": 3, "samples": 1000},
    "real": {"seeds": 3, "samples": 10000},
    "full": {"seeds": 3, "samples": 100000},
}
setting = PROFILES[profile]
n_seeds, n_samples = seeds or setting["seeds"], samples or setting["samples"]
run = evidence.Run(profile, seeds=range(seed, seed + n_seeds))
```

## What the note asks

To be written: the questions and objections of the note, each turned into something measurable.

## Method

To be written: every equation with its number, and under it the code that is that equation. This draft estimates the
area of the unit disc by drawing $$n$$ points $$(x_i, y_i)$$ from the square around it,

$$$$
\\frac{4}{n} \\sum_{i=1}^{n} \\mathbf{1}\\left[x_i^2 + y_i^2 \\le 1\\right].
$$$$ ($slug-estimate)

```{equation} $slug-estimate
:cell: estimate
```

```{code-cell} ipython3
import random


def estimate(seed: int, samples: int) -> float:
    """Area of the unit disc from uniform points in the square around it."""
    draw = random.Random(seed)
    return 4 * sum(draw.uniform(-1, 1) ** 2 + draw.uniform(-1, 1) ** 2 <= 1 for _ in range(samples)) / samples
```

## Experiment

To be written: setting, baselines with the same budget, controls, figures.

```{code-cell} ipython3
for s in run.seeds:
    run.record("area", s, run.once(f"area/{s}", lambda s=s: estimate(s, n_samples)))
```

```{code-cell} ipython3
:tags: [nbval-check-output]

print(run.table(digits=2))
```

## Claims

```{claims}
```

## On real data, and at the paper's scale

```{evidence} real
```

```{evidence} full
```

## Deviations

To be written: what differs from the paper and why, and what the authors' code does that the paper does not say.

## Try it

```bash
make run P=$slug ARGS="-p samples=10"
make run P=$slug ARGS="--seeds 10"
make run P=$slug ARGS="--profile real"
```

```{admonition} Exercise
How many points does one more correct digit cost?
```

```{dropdown} Answer
The error falls with the square root of the number of points: a hundred times as many.
```

## References

To be written: the paper, and related chapters.

```{bibliography}
:filter: docname in docnames
```

```{code-cell} ipython3
run.glue("$slug-area", f"{run.interval('area').mean:.2f}")
run.publish()
```
''')


def create(slug: str) -> list[Path]:
    """Write chapter.md and paper.yml of a new chapter and return their paths.

    What the register of entries knows about the slug is filled in. Raises PressError for a slug of another form, or
    when the chapter is there already.
    """
    if not re.fullmatch(cards.SLUG.strip("^$"), slug):
        raise PressError(f"{slug!r} cannot be a slug: small letters, digits and hyphens, as in per-fedavg")
    paths = [chapters.chapter_path(slug), chapters.card_path(slug)]
    if there := [p for p in paths if p.exists()]:
        raise PressError(f"{there[0]} is there already; `new` never overwrites")
    card = _card(slug)
    text = _CHAPTER.substitute(slug=slug, title=card["title"])
    for path, content in zip(paths, (text, _as_yaml(card)), strict=True):
        files.write(path, content)
    cards.load(slug)  # what was written passes its own schema
    return paths


def _card(slug: str) -> dict[str, object]:
    entry = None
    if (chapters.ROOT / "book" / "entries.yml").exists():
        entry = next((e for e in cards.entries() if e.slug == slug), None)
    needs = {"memory_mb": 300, "data": []}
    seconds = {"smoke": 5, "quick": 10, "real": 20, "full": 60}
    return {
        "slug": slug,
        "entry": entry.number if entry else None,
        "title": entry.heading if entry else slug.replace("-", " ").capitalize(),
        "summary": f"Draft of the chapter {slug}.",
        "noted": [entry.noted] if entry else [],
        "part": entry.part if entry else cards.PARTS[0],
        "tags": [],
        "citation": slug,
        "authors": "to be filled in",
        "venue": "to be filled in",
        "links": {"paper": None, "code": None},
        "builds_on": [],
        "profiles": {name: {"seconds": s, **needs} for name, s in seconds.items()},
        "claims": [],
    }


def _as_yaml(card: dict[str, object]) -> str:
    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:
            return True

    return yaml.dump(card, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)
