"""The GPU's entry of the file of results: its form, its tables, and the rates that targets ask for."""

from __future__ import annotations

import math
from typing import Any

HEADS = {"difference": "largest difference", "ms": "ms", "mb": "MB"}
LAST = ("passed", "steps", "note")


def check(entry: dict[str, Any]) -> None:
    """Raises KeyError, TypeError or AttributeError where the entry has another form than `parts.play` gives it."""
    for key in ("cpu", "cores", "memory_gb", "system", "date", "commit", "dirty"):
        entry["machine"][key]
    " ".join(entry["versions"].values())
    float(entry["seconds"])
    for part in entry["parts"].values():
        part["title"] + part["status"]
        int(part["left"])
        for row in part["rows"]:
            row.items()


def heads(rows: list[dict[str, Any]]) -> list[str]:
    """Columns of a table, in the order in which rows name them; remarks stand last."""
    named = dict.fromkeys(key for row in rows for key in row)
    return [*(key for key in named if key not in LAST), *(key for key in LAST if key in named)]


def lines(part: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of a part's table; one that says so where nothing was tried."""
    return part["rows"] or [{"note": "nothing was tried"}]


def cell(key: str, value: Any) -> str:
    """One cell in words."""
    if key == "passed":
        return {True: "yes", False: "no", None: ""}[value]
    if value is None or value == "":
        return ""
    if key in ("difference", "allowed"):
        return f"{value:.1e}"
    if key == "ms":
        return f"{value:.3f}" if value < 100 else f"{value:.0f}"
    return f"{value:.0f}" if key == "mb" else str(value)


def title(name: str, part: dict[str, Any]) -> str:
    """The caption of a part's table."""
    left = f", {part['left']} not tried" if part["left"] else ""
    return f"GPU, {name}: {part['title']} ({part['status']}{left})"


def about(entry: dict[str, Any]) -> str:
    """Machine, versions, commit."""
    m = entry["machine"]
    software = ", ".join(f"{n} {v}" for n, v in sorted(entry["versions"].items()))
    where = m.get("gpu") or f"{m['cpu']} (a rehearsal, in tiny sizes)"
    changed = " with local changes" if m["dirty"] else ""
    return f"{where}. {software}. {entry['seconds']:.0f} s. {m['date']}, commit {m['commit']}{changed}."


def rate(entry: dict[str, Any] | None, network: str, ways: tuple[str, ...], precisions: tuple[str, ...]) -> float:
    """The least milliseconds of a client's step on a GPU, one seed and few clients without augmentation; NaN where it
    was not measured there.
    """
    if not entry or entry["device"] != "cuda" or "rates" not in entry["parts"]:
        return math.nan
    rows = [row for row in entry["parts"]["rates"]["rows"] if row["network"] == network and row["seeds"] == 1]
    few = min((row["clients"] for row in rows), default=0)
    found = [
        row["ms"]
        for row in rows
        if row["way"] in ways
        and row["precision"] in precisions
        and row["clients"] == few
        and row["crop and flip"] == "no"
        and "ms" in row
    ]
    return min(found, default=math.nan)
