"""What a machine without a network needs to run chapters: `python -m book.offline > offline.txt`, a file for pip.

The list is found, not kept: what fedlib and a run name in pyproject.toml (`dependencies`, and the extras `run` and
`privacy`), what those need in turn by the metadata of this environment, each in the version that requirements.txt pins.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from book import chapters
from book.errors import PressError, cannot

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
EXTRAS = ("run", "privacy")  # of pyproject.toml
THERE = ("torch",)  # what the other machine has by default


def packages(python: str = HERE, there: list[str] | tuple[str, ...] = THERE) -> dict[str, str]:
    """Versions by name of what a run needs on Linux under a Python such as "3.12", besides the packages ``there``.

    A package that is ``there`` has what it needs itself; what others need, too, is carried, as they may want a newer
    version of it. Raises PressError for what requirements.txt does not pin or `make setup` has not installed, and for
    a package ``there`` that no run needs.
    """
    system = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "extra": ""}
    target = {"python_version": python, "python_full_version": f"{python}.0", **system}
    pins = {canonicalize_name(pin.name): pin for pin in _pins() if pin.marker is None or pin.marker.evaluate(target)}
    present = {canonicalize_name(name) for name in there}
    # Pins for some Pythons only are not installed under the others, so that nothing here says who needs them.
    waiting = _named() + [pin for pin in pins.values() if pin.marker and "python_version" in str(pin.marker)]
    found, met = dict[str, str](), set[str]()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name in found or (wanted.marker and not wanted.marker.evaluate(target)):
            continue
        if name in present:
            met.add(name)
            continue
        if name not in pins:
            raise PressError(f"requirements.txt does not pin {name}, which a run needs under Python {python}; add it")
        found[name] = str(pins[name].specifier).removeprefix("==")
        waiting += _needs(pins[name])
    if strange := sorted(present - met):
        raise PressError(f"--has {strange[0]}: no run needs it; leave it out")
    return dict(sorted(found.items()))


def _needs(pin: Requirement) -> list[Requirement]:
    try:
        return [Requirement(text) for text in metadata.requires(pin.name) or []]
    except metadata.PackageNotFoundError:
        if pin.marker:  # not for this Python; what it needs is pinned beside it
            return []
        raise PressError(f"{pin.name} is not installed here, so that nothing says what it needs: make setup") from None


def _named() -> list[Requirement]:
    project = tomllib.loads(_read("pyproject.toml"))["project"]
    extras = (text for extra in EXTRAS for text in project["optional-dependencies"][extra])
    return [Requirement(text) for text in [*project["dependencies"], *extras]]


def _pins() -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in _read("requirements.txt").splitlines())
    try:
        return [Requirement(line) for line in lines if line]
    except InvalidRequirement as error:
        raise PressError(f"{chapters.ROOT / 'requirements.txt'}: {error}") from error


def _read(name: str) -> str:
    path = chapters.ROOT / name
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        cannot("read", path, error)


def main(arguments: list[str] | None = None) -> None:
    """Print the list, one pin a line."""
    parser = argparse.ArgumentParser(prog="python -m book.offline", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--python", default=HERE, help="Python of the other machine, such as 3.12 [default: %(default)s]"
    )
    parser.add_argument("--has", nargs="+", default=list(THERE), help="packages that it has [default: torch]")
    given = parser.parse_args(arguments)
    try:
        found = packages(given.python, given.has)
    except PressError as error:
        sys.exit(f"error: {error}")
    print(*(f"{name}=={version}" for name, version in found.items()), sep="\n")


if __name__ == "__main__":
    main()
