"""Retrieval: how well features find other pictures of the same identity, ranked by cosine similarity.

A query is compared with every entry of a gallery; entries that show the query's identity are its matches. Where cameras
are given, matches that the query's own camera took are left out, as in Market-1501's protocol (Zheng et al. 2015): they
are too easy. Entries that are exactly as similar as a match stand before it, so that features which are all equal find
nothing by luck. Everything is computed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from fedlib import require

if TYPE_CHECKING:
    from fedlib.federation import Federation, Observer, Round


def unit(name: str, features: Tensor) -> Tensor:
    """Features [N, D] over their norms: float64. Raises ValueError for another shape, N or D of 0; NotFinite for a NaN
    or infinity, and for features that are all zero, which point nowhere.
    """
    if not isinstance(features, Tensor) or features.ndim != 2 or features.numel() == 0 or features.is_complex():
        form = f"{list(features.shape)}, {features.dtype}" if isinstance(features, Tensor) else repr(features)
        raise ValueError(f"{name} must be features [N, D] with N, D >= 1, got {form}")
    require.finite(name, features)
    wide = features.double()
    norms = wide.norm(dim=1, keepdim=True)
    if zero := int((norms == 0).sum()):
        raise require.NotFinite(
            f"{name}: {zero} of {len(wide)} features are zero and point nowhere: have they collapsed?"
        )
    return wide / norms


def ranked(
    query: Tensor,
    query_ids: Tensor,
    gallery: Tensor,
    gallery_ids: Tensor,
    query_cameras: Tensor | None = None,
    gallery_cameras: Tensor | None = None,
) -> Tensor:
    """Whether the entry at each place of a query's ranking is a match that counts: bool [Q, G].

    The most similar entry stands first; what does not count stands at the end. ``query`` [Q, D] and ``gallery`` [G, D]
    are features, ids and cameras integers [Q] and [G]. Raises ValueError for shapes that do not fit, cameras of one
    side only, and a query without a match.
    """
    q = unit("query", query)
    g = q if gallery is query else unit("gallery", gallery).to(q.device)
    if q.shape[1] != g.shape[1]:
        raise ValueError(f"query and gallery need features of one width, got {q.shape[1]} and {g.shape[1]}")
    for name, values, count in (("query_ids", query_ids, len(q)), ("gallery_ids", gallery_ids, len(g))):
        _integers(name, values, count)
    same = query_ids.to(q.device)[:, None] == gallery_ids.to(q.device)
    counts = torch.ones_like(same)
    if query_cameras is not None and gallery_cameras is not None:
        _integers("query_cameras", query_cameras, len(q))
        _integers("gallery_cameras", gallery_cameras, len(g))
        counts = ~(same & (query_cameras.to(q.device)[:, None] == gallery_cameras.to(q.device)))
    elif query_cameras is not None or gallery_cameras is not None:
        raise ValueError("cameras of queries and of the gallery belong together: give both, or neither")
    if alone := (~(same & counts).any(1)).nonzero().flatten().tolist():
        raise ValueError(
            f"every query needs a match in the gallery{' of another camera' * (query_cameras is not None)}; "
            f"without one: query {', '.join(map(str, alone[:5]))}{', ...' * (len(alone) > 5)}"
        )
    matches, similarity = same & counts, q @ g.T
    behind = torch.nextafter(similarity, similarity.new_tensor(-torch.inf))  # among equals a match stands last
    similarity = torch.where(matches, behind, similarity).masked_fill(~counts, -torch.inf)
    return matches.gather(1, similarity.argsort(1, descending=True))


def found_first(matches: Tensor) -> float:
    """Share of the queries whose ranking [Q, G] begins with a match: rank-1. Raises ValueError for no ranking."""
    _rankings(matches)
    return float(matches[:, 0].double().mean())


def average_precision(matches: Tensor) -> float:
    """Mean over the queries of average precision: the mean, over the places of a query's matches, of the share of
    matches up to there. ``matches`` [Q, G] as :func:`ranked` gives them, which puts what does not count at the end.
    Raises ValueError for no ranking.
    """
    _rankings(matches)
    places = torch.arange(1, matches.shape[1] + 1, device=matches.device, dtype=torch.float64)
    precision = matches.double().cumsum(1) / places
    return float(((precision * matches).sum(1) / matches.sum(1)).mean())


def scores(
    query: Tensor, query_ids: Tensor, gallery: Tensor, gallery_ids: Tensor, *cameras: Tensor
) -> dict[str, float]:
    """``rank1`` and ``map`` of one ranking: :func:`found_first` and :func:`average_precision`, each in [0, 1]."""
    matches = ranked(query, query_ids, gallery, gallery_ids, *cameras)
    return {"rank1": found_first(matches), "map": average_precision(matches)}


class Tests(NamedTuple):
    """Pictures x [N, ...] with their ids and cameras [N], of which client k's test set has the rows ``rows[k]``. In it
    every picture is a query, and all are its gallery.
    """

    x: Tensor
    ids: Tensor
    cameras: Tensor
    rows: Sequence[Tensor]


def by_server(tests: Tests) -> Observer:
    """For a federation: columns ``rank1`` and ``map`` of the server's model, means over the clients' test sets, and
    ``rank1_clients``, a list. The network gives features where it is asked for ``features=True``.
    """

    def observe(fed: Federation, seen: Round) -> dict[str, Any]:
        features = fed.net.predict(fed.state, fed.input(tests.x), features=True)
        return _columns("", [features[rows] for rows in tests.rows], tests)

    return observe


def by_clients(tests: Tests) -> Observer:
    """The same of the models that this round's local work left, each on its own client's test set: ``own_rank1``,
    ``own_map``, ``own_rank1_clients``. One client that holds everything is looked at on all of them.
    """

    def observe(fed: Federation, seen: Round) -> dict[str, Any]:
        alone = fed.clients == 1
        pairs = [(seen.states[0], rows) for rows in tests.rows] if alone else []
        pairs = pairs or [(s, tests.rows[k]) for k, s in zip(seen.clients, seen.states, strict=True)]
        x = fed.input(tests.x)
        features = [fed.net.predict(state, x[rows], features=True) for state, rows in pairs]
        rows = [own for _, own in pairs]
        return _columns("own_", features, tests._replace(rows=rows))

    return observe


def _columns(name: str, features: Sequence[Tensor], tests: Tests) -> dict[str, Any]:
    found = []
    for h, rows in zip(features, tests.rows, strict=True):
        ids, cameras = tests.ids[rows], tests.cameras[rows]
        found.append(scores(h.cpu(), ids, h.cpu(), ids, cameras, cameras))
    means = {f"{name}{m}": sum(one[m] for one in found) / len(found) for m in ("rank1", "map")}
    return means | {f"{name}rank1_clients": [one["rank1"] for one in found]}


def _rankings(matches: Tensor) -> None:
    if matches.ndim != 2 or matches.dtype != torch.bool or matches.numel() == 0 or not bool(matches.any(1).all()):
        form = f"{matches.dtype} {list(matches.shape)}"
        raise ValueError(f"matches must be rankings, bool [Q, G] with Q >= 1, and a match in each, got {form}")


def _integers(name: str, values: Tensor, count: int) -> None:
    good = isinstance(values, Tensor) and values.shape == (count,) and not values.is_floating_point()
    if not good or values.is_complex() or values.dtype == torch.bool:
        form = f"{values.dtype} {list(values.shape)}" if isinstance(values, Tensor) else repr(values)
        raise ValueError(f"{name} must be integers [{count}], one for each feature, got {form}")
