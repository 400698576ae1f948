"""The built website, a server for it on this machine, and a headless Chromium that has seen every page once."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import looks
import pytest

from book import chapters

SITE = chapters.ROOT / "_build" / "html"
NOT_BUILT = "the website is not built: make book, or python -m book build --draft"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
# Short addresses, and the root, only forward to a page: test_machines.py looks where to.
FORWARDS = 'http-equiv="refresh"'
# 404.html is served by the host from any address, so its links start at the host's root and lead nowhere here.
ELSEWHERE = {"404.html"}
# Chapters have one template and one style sheet: what these decide is looked at on every fifth.
_CHAPTERS = [f"papers/{slug}/chapter.html" for slug in chapters.slugs()]
ONE_OF_MANY = set(_CHAPTERS) - set(_CHAPTERS[::5])
WIDTHS = (390, 820, 1440)  # a phone, a tablet, a desktop
# Pages of source differ in their text only: two stand for all in a browser, test_library.py reads every one.
SOURCES, SAMPLES = {"fedlib", "tests"}, {"fedlib/federation.html", "tests/unit/test_feddf.html"}


def html_pages() -> list[str]:
    """Every page of the site that is there to be read, as an address from its root."""
    pages = (p.relative_to(SITE) for p in SITE.rglob("*.html"))
    left_out = {"_static", "_sources", *SOURCES}
    kept = (p for p in pages if str(p) in SAMPLES or (p.name not in ELSEWHERE and p.parts[0] not in left_out))
    return sorted(str(p) for p in kept if FORWARDS not in (SITE / p).read_text(encoding="utf-8"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per page; a single one, to be skipped or to fail, where there is no site."""
    if "page" in metafunc.fixturenames:
        metafunc.parametrize("page", html_pages() or [""])


@pytest.fixture(scope="session")
def site() -> Path:
    """Root of the built site. Skips without one; in CI, where it must be there, fails."""
    if not (SITE / "index.html").is_file():
        if os.environ.get("CI"):
            pytest.fail(NOT_BUILT)
        pytest.skip(NOT_BUILT)
    return SITE


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A file server that does not log."""

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """Where the site is served; the port is whatever is free."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's Chromium, or whichever is on the path."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("Chromium is not installed: apt-get install chromium")
        pytest.skip("Chromium is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@dataclass
class Visit:
    """What happened, and what stood there, when a page was loaded."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)  # bytes of all that it loaded, uncompressed, by address
    images: list[dict[str, Any]] = field(default_factory=list)  # as they wait, before any is asked for
    seen: dict[str, Any] = field(default_factory=dict)
    phone: dict[str, Any] = field(default_factory=dict)
    layout: dict[int, list[str]] = field(default_factory=dict)  # what is wrong at each width
    code: dict[int, dict[str, Any]] = field(default_factory=dict)  # listings at each width, with every fold open
    boxes: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def visit(address: str, browser: Any) -> Callable[[str], Visit]:
    """Load a page and look at it, once per session: on a desktop, then at each of ``WIDTHS``."""

    @functools.cache
    def look(page: str) -> Visit:
        found, loaded = Visit(), []
        tab = browser.new_page(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
        tab.on("console", lambda m: found.errors.append(m.text) if m.type == "error" else None)
        tab.on("pageerror", lambda e: found.errors.append(str(e)))
        tab.on("request", lambda r: found.requests.append(r.url))
        tab.on("requestfailed", lambda r: found.failed.append(r.url))
        tab.on("requestfinished", lambda r: loaded.append(r))
        tab.on("response", lambda r: found.failed.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        tab.goto(address + page, wait_until="load")
        found.images = tab.evaluate(looks.IMAGES)
        tab.evaluate(looks.LOAD_IMAGES)
        tab.wait_for_load_state("networkidle")
        for request in loaded:
            if request.url.startswith("http"):
                found.sizes[request.url.removeprefix(address)] = request.sizes()["responseBodySize"]
        found.seen = tab.evaluate(looks.LOOK)
        for width in WIDTHS:
            tab.set_viewport_size({"width": width, "height": 900})
            found.layout[width] = tab.evaluate(looks.LAYOUT)
            found.phone = found.phone or tab.evaluate(looks.STICKS_OUT)
        for width in reversed(WIDTHS):
            tab.set_viewport_size({"width": width, "height": 900})
            found.code[width] = tab.evaluate(looks.CUT)
        found.boxes = tab.evaluate(looks.BOXES)
        tab.close()
        return found

    return look
