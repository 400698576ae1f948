"""Retrieval: how well features find other pictures of the same identity, ranked by cosine similarity.

A query is compared with every entry of a gallery; entries that show the query's identity are its matches. Where cameras
are given, matches that the query's own camera took are left out, as in Market-1501's protocol (Zheng et al. 2015): they
are too easy. Entries that are exactly as similar as a match stand before it, so that features which are all equal find
nothing by luck. Everything is computed in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedlib import require


def unit(name: str, features: Tensor) -> Tensor:
    """Features [N, D] over their norms: float64. Raises ValueError for another shape, N or D of 0; NotFinite for a NaN
    or infinity, and for features that are all zero, which point nowhere.
    """
    if not isinstance(features, Tensor) or features.ndim != 2 or features.numel() == 0:
        form = list(features.shape) if isinstance(features, Tensor) else repr(features)
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
) -> tuple[Tensor, Tensor]:
    """Whether the entry at each place of a query's ranking is a match, and whether it counts: bool [Q, G] each.

    The most similar entry stands first; what does not count stands at the end. ``query`` [Q, D] and ``gallery`` [G, D]
    are features, ids and cameras integers [Q] and [G]. Raises ValueError for shapes that do not fit, cameras of one
    side only, and a query without a match.
    """
    q, g = unit("query", query), unit("gallery", gallery).to(query.device)
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
    similarity = (q @ g.T).masked_fill(~counts, -torch.inf)
    first = same.int().argsort(dim=1, stable=True)  # no match first, so that among equals a match stands last
    order = first.gather(1, similarity.gather(1, first).argsort(dim=1, descending=True, stable=True))
    return (same & counts).gather(1, order), counts.gather(1, order)


def found_first(matches: Tensor) -> float:
    """Share of the queries whose ranking [Q, G] begins with a match: rank-1."""
    return float(matches[:, 0].double().mean())


def average_precision(matches: Tensor) -> float:
    """Mean over the queries of average precision: the mean, over the places of a query's matches, of the share of
    matches up to there. ``matches`` [Q, G] as :func:`ranked` gives them, which puts what does not count at the end.
    """
    places = torch.arange(1, matches.shape[1] + 1, device=matches.device, dtype=torch.float64)
    precision = matches.double().cumsum(1) / places
    return float(((precision * matches).sum(1) / matches.sum(1)).mean())


def scores(
    query: Tensor, query_ids: Tensor, gallery: Tensor, gallery_ids: Tensor, *cameras: Tensor
) -> dict[str, float]:
    """``rank1`` and ``map`` of one ranking: :func:`found_first` and :func:`average_precision`, each in [0, 1]."""
    matches, _ = ranked(query, query_ids, gallery, gallery_ids, *cameras)
    return {"rank1": found_first(matches), "map": average_precision(matches)}


def _integers(name: str, values: Tensor, count: int) -> None:
    good = isinstance(values, Tensor) and values.shape == (count,) and not values.is_floating_point()
    if not good or values.is_complex() or values.dtype == torch.bool:
        form = f"{values.dtype} {list(values.shape)}" if isinstance(values, Tensor) else repr(values)
        raise ValueError(f"{name} must be integers [{count}], one for each feature, got {form}")
