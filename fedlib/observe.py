"""Observers: what to look at after a round. Each is called with (federation, round) and returns columns of the
history.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedlib import metrics, require
from fedlib.federation import Federation, Observer, Round
from fedlib.partition import label_counts


def every(k: int, observer: Observer) -> Observer:
    """The observer in rounds k, 2k, 3k, ... only; evaluation is often what costs most."""
    require.whole("k", k, 1)
    return lambda fed, seen: observer(fed, seen) if (seen.number + 1) % k == 0 else {}


def server_accuracy(x: Tensor, y: Tensor, by_class: bool = False) -> Observer:
    """``accuracy`` of the server's model on (x, y), and ``class_accuracy`` (a list) if wanted."""

    def observe(fed: Federation, seen: Round) -> dict:
        logits, target = fed.net.predict(fed.state, fed.input(x)), y.to(fed.device)
        row: dict = {"accuracy": metrics.accuracy(logits, target)}
        if by_class:
            row["class_accuracy"] = metrics.class_accuracy(logits, target).tolist()
        return row

    return observe


def client_accuracy(x: Tensor, y: Tensor) -> Observer:
    """``client_accuracy``: mean accuracy on (x, y) of the sampled clients' models after local work, and
    ``ensemble_accuracy``: that of their averaged logits.
    """

    def observe(fed: Federation, seen: Round) -> dict:
        target = y.to(fed.device)
        logits = fed.net.predict_all(seen.states, fed.input(x))
        mean = sum(metrics.accuracy(z, target) for z in logits) / len(logits)
        return {"client_accuracy": mean, "ensemble_accuracy": metrics.accuracy(logits.mean(0), target)}

    return observe


def local_accuracies(x: Tensor, y: Tensor) -> Observer:
    """``in_local`` and ``out_local``: mean over the sampled clients' models after local work (balanced test set)."""

    def observe(fed: Federation, seen: Round) -> dict:
        target = y.to(fed.device)
        logits = fed.net.predict_all(seen.states, fed.input(x))
        counts = label_counts(fed.y, [fed.split[k] for k in seen.clients], logits.shape[-1]).double()
        pairs = [
            metrics.local_accuracies(metrics.class_accuracy(z, target), share)
            for z, share in zip(logits, counts / counts.sum(1, keepdim=True), strict=True)
        ]
        inside, outside = torch.tensor(pairs, dtype=torch.float64).mean(0).tolist()
        return {"in_local": inside, "out_local": outside}

    return observe


def update_alignment() -> Observer:
    """``alignment``: mean pairwise cosine of the sampled clients' updates (state after local work minus state
    received); no column in a round with a single client, or with one that did not move.
    """

    def observe(fed: Federation, seen: Round) -> dict:
        if len(seen.clients) < 2:
            return {}
        pairs = zip(seen.states, seen.received, strict=True)
        updates = [{n: s[n] - r[n] for n in fed.net.parameters} for s, r in pairs]
        if any(not any(bool(t.any()) for t in u.values()) for u in updates):
            return {}
        return {"alignment": metrics.mean_pairwise_cosine(updates)}

    return observe
