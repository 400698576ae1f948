"""Slips that `check` must report: each is planted under a chapter, whose smoke run then differs from its evidence."""

from __future__ import annotations

from chapters_of_faults import PlantedUnderChapters
from planting import Fault


class TestFedNTD(PlantedUnderChapters):
    """The chapter on which slips went unnoticed once."""

    def test_the_right_code_passes(self, copied):
        """Otherwise `check` would report anything. Of the other chapters `check` itself says so."""
        copied.add("fedntd")
        assert copied.problems("fedntd") == []

    faults = (
        Fault(
            "fedntd-true-class-stays",
            "losses.py",
            "(others >= target.unsqueeze(-1))",
            "(others > target.unsqueeze(-1))",
            "the class after the true one is taken out in its place",
            chapter="fedntd",
        ),
    )


class TestDrift(PlantedUnderChapters):
    """Other chapters on local training and the server's step; at quick also as another processor would see it."""

    faults = (
        Fault(
            "fedavg-rate-a-tenth-too-high",
            "federation.py",
            "rate = self.local.lr * ",
            "rate = 1.1 * self.local.lr * ",
            "local steps are longer by a tenth than asked for",
            chapter="fedavg",
            profile="quick",
        ),
        Fault(
            "fedopt-v-starts-at-tau-in-its-chapter",
            "algorithms/fedopt.py",
            "torch.full_like(fed.state[n], self.tau**2)",
            "torch.full_like(fed.state[n], self.tau)",
            "the second moment starts at tau instead of its square",
            chapter="fedopt",
        ),
        Fault(
            "moon-uniform-weights",
            "federation.py",
            'weights = weights if algorithm.weighting == "samples" else torch.ones_like(weights)',
            "weights = torch.ones_like(weights)",
            "clients count alike, whatever the method asks for",
            chapter="moon",
        ),
        Fault(
            "moon-previous-is-the-servers-in-its-chapter",
            "algorithms/moon.py",
            'return fed.memory.get("previous", {}).get(client, fed.state | fed.own.get(client, {}))',
            "return fed.state | fed.own.get(client, {})",
            "the received model stands in for the previous one, so that the term has no gradient",
            chapter="moon",
        ),
        Fault(
            "fedavg-one-download-a-round",
            "federation.py",
            "down = payload_bytes(sent) * len(clients)",
            "down = payload_bytes(sent)",
            "the ledger counts what is sent down once, not for each client",
            chapter="fedavg",
        ),
    )


class TestPersonal(PlantedUnderChapters):
    """Chapters on personal models, and on what travels."""

    faults = (
        Fault(
            "fedbn-own-state-not-restored",
            "federation.py",
            "received = {k: base | self.own.get(k, {}) for k in clients}",
            "received = {k: dict(base) for k in clients}",
            "a client starts every round without what it kept",
            chapter="fedbn",
        ),
        Fault(
            "fedper-heads-all-alike-in-its-chapter",
            "algorithms/fedper.py",
            'drawn_again(fed.net, fed.seed, "personal", k)',
            'drawn_again(fed.net, fed.seed, "personal")',
            "all clients draw the same head",
            chapter="fedper",
        ),
        Fault(
            "perfedavg-uphill-in-its-chapter",
            "algorithms/perfedavg.py",
            "moved(weights, slope(inner, weights)[1], -alpha)",
            "moved(weights, slope(inner, weights)[1], alpha)",
            "the step that a client trains for goes uphill",
            chapter="per-fedavg",
        ),
        Fault(
            "fedhn-forgets-private-classifiers-in-its-chapter",
            "algorithms/fedhn.py",
            "{n: t.clone() for n, t in state.items() if n not in emitted}",
            "{}",
            "private classifiers are trained and thrown away",
            chapter="pfedhn",
        ),
        Fault(
            "gradient-dropping-ties-are-sent",
            "compress.py",
            "keep = size > threshold(size, rate, sample)",
            "keep = size >= threshold(size, rate, sample)",
            "entries at the threshold are sent, too",
            chapter="gradient-dropping",
        ),
    )


class TestFusion(PlantedUnderChapters):
    """Chapters on servers that train."""

    faults = (
        Fault(
            "ccvr-population-covariance",
            "calibration.py",
            "spread.T @ spread / (len(own) - 1)",
            "spread.T @ spread / len(own)",
            "class covariances are those of a population",
            chapter="ccvr",
        ),
        Fault(
            "feddf-whole-cosine",
            "distill.py",
            "math.cos(math.pi * step / self.steps)",
            "math.cos(2 * math.pi * step / self.steps)",
            "the learning rate comes back up at the end",
            chapter="feddf",
        ),
        Fault(
            "fedgkt-server-starts-afresh-in-its-chapter",
            "algorithms/fedgkt.py",
            'state = clone(memory["body"])',
            "state = net.initial()",
            "the server forgets in each round what it has learnt",
            chapter="fedgkt",
        ),
        Fault(
            "fedgen-prior-of-clients-in-its-chapter",
            "algorithms/fedgen.py",
            "pooled = counts.sum(-2)",
            "pooled = (counts / counts.sum(-1, keepdim=True)).sum(-2)",
            "the label prior counts every client alike, whatever it holds",
            chapter="fedgen",
        ),
    )
