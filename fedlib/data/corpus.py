"""Texts as they are written, for networks that first learn to read: SST-2 and AG News."""

from __future__ import annotations

import hashlib
import os

from fedlib import require

from . import bagofwords, loading, packs
from .registry import DataCorrupt, DataUnavailable

SST2 = {
    "train": "920e317b2c52e12cd22db1da2c6708312bd7dc4f3712b9bbf1b50ee6c2c792ba",
    "dev": "92353770071a2a889f75d000a38a9e541ea8f0a5499e50f040b17917a5cbf66f",
    "test": "54a9c12c77e402fc14d6a66a506f24d999f596b0176eb777c972cccc2f9cc4b0",
}
"""The three files and their checksums."""
FEELINGS = ("negative", "positive")
Text = tuple[str, int]  # a text and the number of its class


def sst2(part: str, root: str | os.PathLike[str] | None = None) -> list[Text]:
    """Phrases of film reviews, negative (0) or positive (1) (Socher and others 2013): ``train`` 60,614, ``dev`` 6,735,
    ``test`` 872 whole sentences, the dev set of GLUE.

    Reads ``text/sst2/{part}.tsv`` (a line of names; then text, tabulator, class) in $FEDLIB_DATA or fedlib's cache.
    Training phrases that stand in the test part as well are left out. Raises
    ValueError for another part, DataUnavailable when a file is not there, DataCorrupt when it is another.
    """
    texts = _phrases(require.one_of("part", part, SST2), root)
    if part != "test":
        held_out = {text for text, _ in _phrases("test", root)}
        texts = [row for row in texts if row[0] not in held_out]
    loading._used["sst2"] = hashlib.sha256("".join(SST2.values()).encode()).hexdigest()
    return texts


def ag_news(part: str, root: str | os.PathLike[str] | None = None) -> list[Text]:
    """Descriptions of news of four classes, in the order of :data:`bagofwords.NEWS`; files, parts and errors are those
    of :func:`bagofwords.ag_news`, and ``dev`` is without its few texts that stand in ``test`` as well.
    """
    texts = bagofwords._texts(require.one_of("part", part, bagofwords.AG_NEWS), root)
    if part == "dev":
        held_out = {text for text, _ in bagofwords._texts("test", root)}
        texts = [row for row in texts if row[0] not in held_out]
    loading._used["ag_news"] = hashlib.sha256("".join(bagofwords.AG_NEWS.values()).encode()).hexdigest()
    return [(text, bagofwords.NEWS.index(kind)) for text, kind in texts]


def _phrases(part: str, root: str | os.PathLike[str] | None) -> list[Text]:
    paths = [folder / "text" / "sst2" / f"{part}.tsv" for folder in packs.folders(root)]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        looked = "\n".join(f"  {p}" for p in paths)
        raise DataUnavailable(
            f"SST-2 has no automatic download and its {part} part was not found; looked for\n{looked}\n"
            "Put train.tsv, dev.tsv and test.tsv (a line of names; a text, a tabulator and 0 or 1 a line) there."
        )
    content = path.read_bytes()
    if (sha := hashlib.sha256(content).hexdigest()) != SST2[part]:
        raise DataCorrupt(f"{path} has sha256\n  {sha}\nexpected\n  {SST2[part]}\nIt was left as it is.")
    rows = [line.rsplit("\t", 1) for line in content.decode("utf-8").splitlines()[1:] if line.strip()]
    return [(text.strip(), int(label)) for text, label in rows]
