"""FedMD: what travels, what stays, and what the digest does."""

import pytest
import torch
import torch.nn.functional as F

from fedlib import losses, partition
from fedlib.algorithms import FedMD
from fedlib.executors import Context
from fedlib.federation import Federation, Local
from fedlib.models import MLP
from fedlib.models.net import clone

F64 = torch.float64
G = torch.Generator().manual_seed(3)
Y = torch.arange(120) % 4
X = torch.randn(120, 6, generator=G, dtype=F64) + 2 * F.one_hot(Y, 6).double()
U = torch.randn(40, 6, generator=G, dtype=F64)


def federation(algorithm=None, participation=0.5, epochs=2, executor="sequential"):
    split = partition.dirichlet(Y, 4, 0.5, torch.Generator().manual_seed(0), min_size=4)
    seen = []
    fed = Federation(
        lambda: MLP(6, (8,), 4), X, Y, split, algorithm or FedMD(U, 3), local=Local(epochs, 10, 0.1),
        participation=participation, seed=5, device="cpu", dtype=F64, executor=executor,
        observers=[lambda fed, r: seen.append(r) or {}],
    )  # fmt: skip
    return fed, seen


def largest(a, b):
    return max(float((a[n] - b[n]).abs().max()) for n in a)


def test_only_logits_travel():
    """[U, C] numbers each way; in the first round there is no consensus to send."""
    fed, seen = federation()
    fed.run(3)
    one = len(U) * 4 * 8  # float64
    assert fed.ledger.up == [2 * one] * 3
    assert fed.ledger.down == [0, 2 * one, 2 * one]
    assert all(set(u) == {"logits"} and u["logits"].shape == (40, 4) for r in seen for u in r.uploads)
    assert fed.shared(fed.state) == {}


def test_bytes_do_not_depend_on_the_model():
    wide = Federation(
        lambda: MLP(6, (200, 200), 4), X, Y, [torch.arange(120)], FedMD(U), local=Local(0), device="cpu", dtype=F64
    )
    wide.run(1)
    assert wide.ledger.up == [len(U) * 4 * 8]


def test_consensus_is_the_mean():
    """Uniform over the round's clients, whatever their sizes; and it is what their models say after the round."""
    fed, seen = federation(participation=1.0)
    assert len({len(part) for part in fed.split}) > 1
    fed.run(1)
    said = torch.stack([fed.net(state, U) for state in seen[0].states]).detach()
    torch.testing.assert_close(fed.memory["consensus"], said.mean(0), atol=1e-12, rtol=0)


def test_personal_models_stay():
    """Clients keep what they learnt; the server keeps the common start; who is not sampled does not change."""
    fed, seen = federation()
    start = clone(fed.state)
    fed.run(4)
    assert largest(fed.state, start) == 0
    last = {}
    for r in seen:
        last |= dict(zip(r.clients, r.states, strict=True))
    assert set(fed.own) == set(last)
    assert all(largest(fed.own[k], last[k]) == 0 for k in last)
    one, other = list(fed.own)[:2]
    assert largest(fed.own[one], fed.own[other]) > 1e-3


@pytest.mark.parametrize("digest", ["kl", "mae"])
def test_digest_moves_towards_the_consensus(digest):
    """Without private training (E = 0) the models come closer to what was agreed."""
    fed, seen = federation(FedMD(U, 5, digest), participation=1.0)
    fed.run(1)
    agreed, before = fed.memory["consensus"].clone(), seen[0].states
    fed.local = Local(0, 10, 0.1 if digest == "kl" else 0.02)
    fed.run(1)
    measure = losses.kd if digest == "kl" else F.l1_loss
    gaps = [[float(measure(fed.net(s, U), agreed)) for s in states] for states in (before, seen[1].states)]
    assert all(after < 0.9 * earlier for earlier, after in zip(*gaps, strict=True))


def test_digest_comes_before_revisit():
    fed, _ = federation()
    assert len(fed.algorithm.phases(fed)) == 1
    fed.run(1)
    digest, revisit = fed.algorithm.phases(fed)
    assert digest.x is fed.algorithm.public
    assert digest.epochs == 3
    assert revisit.x is fed.x
    assert revisit.epochs == 2


@pytest.mark.parametrize(("digest", "loss"), [("kl", losses.kd), ("mae", F.l1_loss)])
def test_the_digest_losses(digest, loss):
    fed, _ = federation(FedMD(U, 1, digest))
    target = torch.randn(40, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    state = fed.net.initial()
    ours = fed.algorithm.imitate(fed.net, state, U, target, Context(state))
    assert float(ours) == pytest.approx(float(loss(fed.net(state, U), target)), rel=1e-12)


def test_without_digest_clients_train_alone():
    """digest_epochs = 0: each model is what local training alone would give, untouched by the others."""
    fed, _ = federation(FedMD(U, 0), participation=1.0)
    fed.run(3)
    alone, _ = federation(FedMD(U[:1], 0), participation=1.0)
    alone.run(3)
    assert all(largest(fed.own[k], alone.own[k]) == 0 for k in fed.own)


def test_executors_agree():
    runs = [federation(executor=e)[0] for e in ("sequential", "batched")]
    for fed in runs:
        fed.run(3)
    assert max(largest(runs[0].own[k], runs[1].own[k]) for k in runs[0].own) < 1e-10


def test_an_unknown_digest_is_an_error():
    with pytest.raises(ValueError, match="'kl' or 'mae'"):
        FedMD(U, digest="mse")


def test_one_algorithm_serves_federations_that_prepare_in_their_own_way():
    """The first to be made used to turn the public inputs into its own, for all."""
    raw = ((X + 4) * 25).clamp(0, 255).to(torch.uint8)
    public, split = ((U + 4) * 25).clamp(0, 255).to(torch.uint8), [torch.arange(60), torch.arange(60, 120)]

    def make(algorithm, scale):
        return Federation(
            lambda: MLP(6, (8,), 4), raw, Y, split, algorithm, local=Local(1, 10, 0.1), device="cpu", dtype=F64,
            prepare=lambda x: x.to(F64) / scale,
        )  # fmt: skip

    shared = FedMD(public, 2)
    ours, alone = [make(shared, s) for s in (25, 250)], [make(FedMD(public, 2), s) for s in (25, 250)]
    for a, b in zip(ours, alone, strict=True):
        a.run(2)
        b.run(2)
        assert torch.equal(a.memory["consensus"], b.memory["consensus"])
        assert largest(a.own[0], b.own[0]) == 0
    assert largest(ours[0].own[0], ours[1].own[0]) > 1e-3
