"""Numbers for people: three significant digits, a true minus sign, the unit of the metric, an interval in its scale."""

from __future__ import annotations

import math

SPACE, THIN = "\u00a0", "\u2009"
# What a number is rather than what it is counted in: not written behind it.
BARE = ("", "ratio", "fraction", "accuracy", "cosine", "correlation", "CKA", "share", "slope", "variance", "distance",
        "difference", "largest difference", "share of cells")  # fmt: skip
COUNTED = ("bytes", "kB", "MB", "GB", "rounds", "seconds", "seeds", "steps", "epochs", "entries", "samples", "nats")
SIZES = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def number(value: float | None, digits: int = 3) -> str:
    """A number: three significant digits, no exponent where it can be avoided, thousands apart."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if value == int(value) and size < 1e6:
        return fixed(value, 0)
    if 1e-3 <= size < 1e6:
        return fixed(value, max(0, digits - 1 - math.floor(math.log10(size))))
    return f"{value:.{digits - 1}e}".replace("-", "−")


def fixed(value: float, decimals: int) -> str:
    """A number with so many decimals; what rounds to zero has no sign."""
    text = f"{value:,.{decimals}f}"
    if not text.strip("-0.,"):
        text = text.lstrip("-")
    return text.replace("-", "−").replace(",", THIN)


def quantity(value: float | None, unit: str, difference: bool = False) -> str:
    """A value in the unit of its metric. ``accuracy`` is shown in percent, its differences in points."""
    if value is None:
        return "–"
    if unit == "accuracy" and math.isfinite(value):
        return signed(fixed(100 * value, 1), difference) + (" points" if difference else f"{SPACE}%")
    if unit == "bytes" and math.isfinite(value):
        name, size = scale(value)
        return f"{signed(number(value / size), difference)} {name}"
    return named(signed(number(value), difference), unit)


def span(low: float | None, high: float | None, unit: str, beside: float | None = None) -> str:
    """An interval in the scale of :func:`quantity`, that of the value ``beside`` which it stands; without its unit."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return "no interval (one seed)"
    if unit == "accuracy":
        return f"[{fixed(100 * low, 1)}, {fixed(100 * high, 1)}]"
    size = 1.0 if beside is None or unit != "bytes" else scale(beside)[1]
    return f"[{number(low / size)}, {number(high / size)}]"


def estimate(value: float, low: float, high: float, unit: str, difference: bool = False) -> str:
    """A value with its interval, both with as many decimals as the interval is wide: ``+2.1 points [0.4, 3.8]``."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return quantity(value, unit, difference)
    if unit == "accuracy":
        return f"{quantity(value, unit, difference)} {span(low, high, unit)}"
    unit, size = scale(value) if unit == "bytes" else (unit, 1.0)
    value, low, high = value / size, low / size, high / size
    if max(abs(value), abs(low), abs(high)) >= 1e6:
        return f"{named(signed(number(value), difference), unit)} [{number(low)}, {number(high)}]"
    n = decimals(value, low, high)
    return f"{named(signed(fixed(value, n), difference), unit)} [{fixed(low, n)}, {fixed(high, n)}]"


def decimals(value: float, low: float, high: float) -> int:
    """How many decimals show an interval: what rounding moves is at most a twelfth of its width.

    But two to four significant digits of the largest of the three numbers, and two of a value that is known so well.
    """

    def place(size: float, digits: int) -> int:
        return digits - 1 - math.floor(math.log10(size)) if size > 0 else 0

    largest, half = max(abs(value), abs(low), abs(high)), (high - low) / 2
    wanted = place(half / 3, 1) if half > 1e-9 * largest else place(largest, 3)
    wanted = max(wanted, place(largest, 2), min(place(abs(value), 2), place(half, 2)))
    return max(0, min(wanted, place(largest, 4)))


def signed(text: str, difference: bool) -> str:
    """The text of a number, with a plus where it is a difference above zero."""
    above = text[:1] != "−" and text.strip("0." + THIN) != ""
    return f"+{text}" if difference and above and text != "–" else text


def scale(value: float) -> tuple[str, float]:
    """The unit in which so many bytes are written, and its size in bytes."""
    return next(((name, size) for name, size in SIZES if abs(value) >= size), ("B", 1.0))


def named(text: str, unit: str) -> str:
    """A number and its unit, in the singular behind a 1."""
    if unit in BARE:
        return text
    if text.lstrip("+−") == "1" and unit in ("rounds", "seconds", "seeds", "steps", "epochs"):
        unit = unit[:-1]
    return f"{text} {unit}"
