"""`drift`: how far numbers move on other processors, measured on this one.

A processor decides which instructions a library takes, and so in which order sums are made. The libraries can be told
to do without the wider instructions of this processor: what they compute then is what an older one would. Each chapter
is run so in a copy of the tree, seed by seed beside its reference, and the largest moves are kept in
``evidence/drift-<profile>.json``. `check` needs them on another machine than the reference's, and nowhere else.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from book import cards, chapters, files, jobs, judging, records, reference, schema
from book.errors import PressError

# The widest instructions first; what torch, oneDNN and MKL each call them.
NARROWER = {
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "SSE": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}
_COPIED = ("fedlib", "papers", "book", "requirements.txt")

Drift = dict[str, Any]


def path(slug: str, profile: str) -> Path:
    """Where the measured moves of a chapter are committed."""
    return chapters.evidence_path(slug, f"drift-{profile}")


def committed(slug: str, profile: str) -> Drift | None:
    """The measured moves, None when there are none. Raises PressError when the file was edited."""
    content = files.read_json(path(slug, profile))
    if content is None:
        return None
    remedy = f"restore it from git, or measure again: python -m book drift {slug} --profile {profile}"
    schema.require(schema.Drift, content, path(slug, profile), remedy)
    if (content["slug"], content["profile"]) != (slug, profile) or content["digest"] != records.digest(content):
        raise PressError(f"{path(slug, profile)} was edited or copied; {remedy}")
    return content


def fits(measured: Drift, was: reference.Evidence) -> bool:
    """Whether these are the moves of this very reference, and not of an earlier one."""
    facts = was["provenance"]
    about = measured["hash"], measured["reference"], set(measured["metrics"])
    return about == (facts["hash"], facts["processor"], set(was["metrics"]))


def measure(slugs: list[str], profile: str, at_once: int) -> dict[str, Drift]:
    """Run the chapters with each narrower set of instructions, and write how far their references moved.

    Raises PressError when a chapter has no reference, or none that was measured on this machine, or fails.
    """
    found: dict[str, list[reference.Evidence]] = {slug: [] for slug in slugs}
    for slug in slugs:
        was, fresh = reference.committed(slug, profile), reference.run_evidence(slug, profile)
        if not was or not fresh or not reference.same_machine(was, fresh):
            call = f"python -m book run {slug} --profile {profile}"
            text = "its reference must be of this machine, and its last run fresh"
            raise PressError(f"{slug}, {profile}: {text}: {call}, then accept, then measure")
    for name, told in NARROWER.items():
        for slug, evidence in _run(slugs, profile, at_once, told).items():
            was = reference.committed(slug, profile)
            assert was is not None
            if evidence["provenance"]["processor"] == was["provenance"]["processor"]:
                raise PressError(f"{slug}, {profile}: this processor cannot be told to do without {name}")
            found[slug].append(evidence)
    return {slug: _write(slug, profile, runs) for slug, runs in found.items()}


def _run(slugs: list[str], profile: str, at_once: int, told: dict[str, str]) -> dict[str, reference.Evidence]:
    """Evidence of the chapters, run in a copy of the tree with other variables in the environment."""
    with tempfile.TemporaryDirectory(prefix="fedbook-drift-") as folder:
        for name in _COPIED:
            source, target = chapters.ROOT / name, Path(folder) / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "evidence"))
            elif source.exists():
                shutil.copy(source, target)
        env = {k: v for k, v in os.environ.items() if k not in jobs.UNWANTED}
        call = [sys.executable, "-m", "book", "run", *slugs, "--profile", profile, "--jobs", str(at_once)]
        search = os.pathsep.join(p for p in (str(Path(__file__).parents[1]), env.get("PYTHONPATH", "")) if p)
        env |= told | {"FEDBOOK_ROOT": folder, "PYTHONPATH": search}
        done = subprocess.run(call, env=env, cwd=folder, capture_output=True, text=True, errors="replace")
        if done.returncode != 0:
            raise PressError(f"with {told} a chapter did not run:\n{(done.stdout + done.stderr)[-2000:]}")
        made = {}
        for slug in slugs:
            base = Path(folder) / "_build" / "executed" / slug
            record = json.loads((base / f"{profile}.json").read_text(encoding="utf-8"))
            published = records.published(json.loads((base / f"{profile}.ipynb").read_text(encoding="utf-8")))
            assert published is not None
            made[slug] = reference.build(cards.load(slug), record, published)
        return made


def _write(slug: str, profile: str, runs: list[reference.Evidence]) -> Drift:
    was = reference.committed(slug, profile)
    assert was is not None
    made = moves(was, runs)
    made |= {"digest": records.digest(made)}
    files.write(path(slug, profile), reference.layout(made))
    return made


def moves(was: reference.Evidence, runs: list[reference.Evidence]) -> Drift:
    """Largest move of each metric at any seed in any of the runs, and the claims whose verdicts differ."""
    largest = {
        name: max(
            abs(run["metrics"][name]["values"][seed] - value) for run in runs for seed, value in m["values"].items()
        )
        for name, m in was["metrics"].items()
    }
    seen = {
        claim: sorted({run["claims"][claim]["verdict"] for run in runs} - {kept["verdict"]})
        for claim, kept in was["claims"].items()
    }
    return {
        "slug": was["slug"],
        "profile": was["profile"],
        "reference": was["provenance"]["processor"],
        "processors": [run["provenance"]["processor"] for run in runs],
        "hash": was["provenance"]["hash"],
        "metrics": {name: judging.rounded(most) for name, most in largest.items()},
        "claims": {claim: verdicts for claim, verdicts in seen.items() if verdicts},
    }
