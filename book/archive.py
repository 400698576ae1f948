"""The built website as one archive: unpack it, open `index.html`; no server and no network is needed."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from book import files, website
from book.errors import PressError

FOLDER = "fedlib-book"  # what the archive unpacks to
LEFT_OUT = (".map", ".buildinfo", ".nojekyll")
DATE = (1980, 1, 1, 0, 0, 0)  # the same site gives the same archive, byte for byte


def write(target: Path, site: Path | None = None) -> Path:
    """Pack the website into ``target``. Raises PressError where no website is built."""
    site = site or website.require().parent
    if not (site / "index.html").exists():
        raise PressError(f"{site / 'index.html'} is missing; build the website first: python -m book build")
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(p for p in site.rglob("*") if p.is_file() and not p.name.endswith(LEFT_OUT)):
            entry = zipfile.ZipInfo(f"{FOLDER}/{path.relative_to(site).as_posix()}", DATE)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            packed.writestr(entry, files.read(path))
    files.write(target, whole.getvalue())
    return target
