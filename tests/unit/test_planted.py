"""What planted faults (tests/faults) showed that no other test would notice: identities that name what each broke."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from federations import ALGORITHMS, FLOAT, Normed, everything, federation, public, same, small
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy, kl_div, log_softmax, softmax

from fedlib import checkpoint, models, partition, rng, stacking
from fedlib.algorithms import (
    CCVR,
    FedAvg,
    FedAvgM,
    FedBN,
    FedGen,
    FedMD,
    FedNTD,
    FedPer,
    FedRep,
    LGFedAvg,
    Moon,
    Scaffold,
    ccvr,
)
from fedlib.algorithms.fedgen import Teaching
from fedlib.batched import train_stacked
from fedlib.calibration import Calibration, Moments, sample
from fedlib.data import digits
from fedlib.data.augment import by_row
from fedlib.data.dataset import draw
from fedlib.executors import Context, sequential
from fedlib.federation import Local, together
from fedlib.models.net import Net
from fedlib.sources import impressions
from fedlib.sources.generator import Adversarial, MLPGenerator
from fedlib.sources.server import Ensemble, SourcedFedDF
from fedlib.swa import SWA, SWAGTeachers


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT)


# --- CCVR --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "model"),
    [
        (lambda: FedBN(weighting="uniform"), Normed),  # another weighting, and a set-up of its own
        (lambda: LGFedAvg(("head.*", "body.*.weight")), Normed),
        (lambda: Moon(1.0, 0.7), small),  # keeps a model, and looks at it
        (lambda: Scaffold(0.9), small),  # sends and receives more than weights
    ],
    ids=["FedBN", "LGFedAvg", "Moon", "Scaffold"],
)
def test_before_its_extra_round_ccvr_does_in_each_hook_what_its_base_does(base, model):
    sizes = (4, 7, 8, 13, 20, 6)
    plain, wrapped = (federation(a, model=model, sizes=sizes) for a in (base(), CCVR(base(), Calibration())))
    plain.run(4)
    wrapped.run(4)
    same(wrapped.state, plain.state)
    assert wrapped.own.keys() == plain.own.keys()
    for k, kept in plain.own.items():
        same(wrapped.own[k], kept)
    assert wrapped.ledger == plain.ledger


def test_every_calibration_draws_virtual_features_of_its_own(monkeypatch):
    drawn = []

    def watched(*given):
        drawn.append(ccvr_sample(*given))
        return drawn[-1]

    ccvr_sample = ccvr.sample
    monkeypatch.setattr(ccvr, "sample", watched)
    fed = federation(CCVR(how=Calibration(samples=20, steps=1)))
    fed.run(2)
    for number in (2, 2, 3):
        fed.algorithm.calibrate(fed, number)
    (first, _), (again, _), (other, _) = drawn
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# --- FedAvg, FedBN ------------------------------------------------------------------------------------


def test_what_a_client_keeps_is_no_view_of_all_clients():
    """Executors that compute clients together hold their states in one piece of memory; to keep a view keeps it all."""
    fed = federation(FedPer(), executor="batched")
    fed.run(1)
    kept = [t for k in fed.sample(0) for t in fed.own[k].values()]
    assert kept
    assert all(t.untyped_storage().nbytes() == t.numel() * t.element_size() for t in kept)


def test_fedbn_adds_to_what_the_federation_keeps_local():
    fed = federation(FedBN("affine"), model=Normed, sizes=(4, 7, 8, 13, 20, 6), buffers="local")
    assert set(fed.personal) == {n for n in fed.state if n.startswith("body.1.")}


# --- the round loop -----------------------------------------------------------------------------------


def test_the_loss_of_a_round_is_the_mean_over_its_clients():
    """Steps of no length leave every batch's loss what it was at the start."""
    fed = federation(local=Local(3, 10**6, 1e-15), participation=0.6)
    fed.run(1)
    each = [cross_entropy(fed.net.predict(fed.state, fed.x[fed.split[k]]), fed.y[fed.split[k]]) for k in fed.sample(0)]
    assert fed.history[0]["loss"] == pytest.approx(float(torch.stack(each).mean()), abs=1e-12)


@pytest.mark.parametrize("executor", ["sequential", "batched"])
def test_side_by_side_each_federation_has_the_rate_that_its_own_decay_leaves(executor):
    method, rates = FedAvg(), (1.0, 0.5)
    alone, beside = (
        [federation(method, local=Local(1, 8, 0.2, lr_decay=decay), executor=executor) for decay in rates]
        for _ in range(2)
    )
    for fed in alone:
        fed.run(3)
    together(beside, 3)
    for one, other in zip(beside, alone, strict=True):
        same(one.state, other.state, 1e-10)
    assert float((alone[0].state["head.weight"] - alone[1].state["head.weight"]).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["FedAvgM", "FedPer", "Scaffold", "FedGen"])
def test_a_restored_federation_has_all_that_was_kept(name, tmp_path):
    fed, again = federation(ALGORITHMS[name]()), federation(ALGORITHMS[name]())
    fed.run(2)
    checkpoint.save(fed, tmp_path / "kept")
    checkpoint.restore(again, tmp_path / "kept")
    same(everything(again), everything(fed))
    assert (again.ledger, again.history, again.round) == (fed.ledger, fed.history, 2)


def test_a_round_that_broke_off_leaves_nothing_in_the_servers_memory(tmp_path):
    def breaks(fed, seen):
        if seen.number == 2:
            raise InterruptedError
        return {}

    whole, broken = federation(FedAvgM(0.9)), federation(FedAvgM(0.9), observers=[breaks])
    whole.run(2)
    with pytest.raises(InterruptedError):
        checkpoint.play(broken, 5, tmp_path / "kept")
    same(everything(broken), everything(whole))
    assert broken.ledger == whole.ledger


def test_the_adversarial_generator_goes_on_from_round_to_round():
    source = Adversarial(partial(MLPGenerator, (5,), 4, 6), latent=4, batches=2, student_steps=1, batch_size=6)
    fed = federation(SourcedFedDF(source))
    seen = [source.network(fed)[1]]
    for _ in range(2):
        fed.run(1)
        seen.append(source.network(fed)[1])
    for before, after in pairwise(seen):
        assert min(float((after[n] - before[n]).abs().max()) for n in after) > 1e-4


def noisy(x, generator):
    return x + 0.3 * torch.randn(x.shape, generator=generator, dtype=x.dtype)


@pytest.mark.parametrize(
    ("name", "model", "augment"),
    [
        ("FedAvg", small, None),
        ("FedAvg", Normed, None),
        ("FedAvg", small, noisy),
        ("personal", small, None),  # each client has received another model
        ("FedMD, kl", small, None),
    ],
)
def test_training_together_is_training_alone_unchecked(name, model, augment):
    """Without the trial that comes before it elsewhere, which would refuse what is wrong and hide where it is."""
    sizes = (4, 7, 8, 13, 20, 6)  # no batch of one sample, which has no variance
    local = Local(2, 8, 0.1, momentum=0.9, augment=augment)
    one, all_ = (
        federation(ALGORITHMS[name](), model=model, sizes=sizes, local=local, executor=e, participation=1.0)
        for e in (sequential, train_stacked)
    )
    one.run(3)
    all_.run(3)
    same(everything(all_), everything(one), 1e-10)


@pytest.mark.parametrize(
    "norm",
    [nn.LayerNorm(6, eps=0.5), nn.GroupNorm(2, 6, eps=0.5), nn.BatchNorm1d(6, eps=0.5)],
    ids=lambda norm: type(norm).__name__,
)
def test_stacked_layers_have_the_epsilon_of_their_own(norm):
    net = Net(nn.Sequential(nn.Linear(5, 6), norm, nn.Linear(6, 3)), dtype=FLOAT)
    states = [{n: t + 0.1 * i for n, t in net.initial().items()} for i in range(2)]
    x = numbers(7, 2, 5)
    found = stacking.stacked(net)(stacking.take(states), x.unsqueeze(2)).squeeze(2)
    for k, state in enumerate(states):
        torch.testing.assert_close(found[:, k], net(state, x[:, k]), rtol=1e-12, atol=1e-12)


# --- draws --------------------------------------------------------------------------------------------


def test_keys_do_not_run_into_one_another():
    assert rng.key("a", "b") != rng.key("astr:b")


def test_every_phase_of_a_round_shuffles_anew():
    orders = []

    def watched(net, tasks, *rest):
        orders.append({t.client: t.order for t in tasks})
        return sequential(net, tasks, *rest)

    fed = federation(FedRep(base_epochs=1), executor=watched)
    fed.run(1)
    head, base = orders
    assert any(not torch.equal(head[k], base[k]) for k in head)


@pytest.mark.parametrize("mark", [by_row, lambda change: change])
def test_every_batch_of_every_round_is_changed_by_draws_of_its_own(mark):
    seen, batches = [], []

    @mark
    def watched(x, source):
        seen.extend(source.keys.tolist() if isinstance(source, rng.Rows) else [source.initial_seed()])
        batches.append(len(x) if isinstance(source, rng.Rows) else 1)
        return x

    fed = federation(local=Local(2, 8, 0.1, augment=watched), participation=1.0)
    fed.run(3)
    assert len(batches) == 3 * 2 * sum(-(-len(rows) // 8) for rows in fed.split)
    assert len(seen) == sum(batches)
    assert len(set(seen)) == len(seen)


def test_virtual_features_of_each_class_have_noise_of_their_own():
    same_spread = Moments(torch.ones(2, dtype=FLOAT), numbers(2, 3), torch.eye(3, dtype=FLOAT).expand(2, 3, 3))
    z, y = sample(same_spread, [4, 4], 0, "virtual")
    first, second = (z[y == c] - same_spread.mean[c] for c in range(2))
    assert float((first - second).abs().max()) > 0.1


def test_swags_teachers_are_drawn_anew_in_every_round():
    fed, teachers = federation(), SWAGTeachers(samples=1, clients=False)
    uploads = [{n: t + i for n, t in fed.state.items()} for i in range(3)]
    (first,), (again,) = teachers(fed, uploads), teachers(fed, uploads)
    fed.round = 1
    (other,) = teachers(fed, uploads)
    same(first, again)
    assert not torch.equal(first["head.weight"], other["head.weight"])


@pytest.mark.parametrize("teachers", [1, 2])
def test_nothing_flows_into_the_teachers_of_an_ensemble(teachers):
    net, x = Net(small(), dtype=FLOAT), numbers(7, 5).requires_grad_()
    states = [{n: t.requires_grad_() for n, t in net.initial().items()} for _ in range(teachers)]
    ensemble = Ensemble(net, states, x[:1].detach())
    assert not ensemble(x.detach()).requires_grad
    assert float(torch.autograd.grad(ensemble(x).square().sum(), x)[0].abs().max()) > 0


def test_what_is_left_over_goes_to_the_largest_remainders():
    shares = torch.tensor([[0.46, 0.34, 0.2], [0.14, 0.57, 0.29]])
    assert impressions.allocate(10, shares).tolist() == [[5, 3, 2], [1, 6, 3]]


def test_clients_get_any_samples_of_a_class_not_the_first():
    y = torch.arange(400) % 2
    split = partition.dirichlet(y, 2, 1.0, rng.stream(0, "split"))
    first = (split[0][y[split[0]] == 0]).tolist()
    assert 20 < len(first) < 180, "both clients hold some of the class"
    assert first != list(range(0, 2 * len(first), 2))


@pytest.mark.parametrize("seed", range(5))
def test_classes_have_equally_many_owners(seed):
    y = torch.arange(600) % 10
    split = partition.classes_per_client(y, 12, 3, rng.stream(seed, "split"))
    owners = (partition.label_counts(y, split, 10) > 0).sum(0)
    assert set(owners.tolist()) <= {3, 4}  # 12 clients with 3 of 10 classes: 3.6 on average
    assert int(owners.sum()) == 36


def test_the_test_part_of_the_digits_is_spread_over_each_class():
    chosen = digits.split(np.repeat([0, 1], 100), 40).nonzero()[0]
    assert chosen.tolist() == list(range(2, 200, 5))


def test_a_balanced_subset_is_in_shuffled_order():
    labels = torch.arange(300) % 3
    index = draw(labels, 90, 3, rng.stream(0, "subset"), balanced=True)
    assert labels[index].bincount().tolist() == [30, 30, 30]
    assert index.tolist() != sorted(index.tolist())
    assert len(set(labels[index[:30]].tolist())) == 3, "classes are mixed"


def test_test_samples_follow_the_labels_held():
    y = torch.arange(100) % 2  # 50 of each: a client that holds 3 to 1 can have 66, in shares of 49.5 and 16.5
    (rows,) = partition.matching(y, torch.tensor([[30, 10]]), rng.stream(0, "test"))
    assert sorted(y[rows].bincount().tolist()) in ([16, 50], [17, 49])


def test_swa_takes_its_first_snapshot_at_the_first_step():
    net, x, teacher = Net(rng.build(small, 0, "init"), dtype=FLOAT), numbers(20, 5), numbers(20, 3, seed=1)

    def student(steps, every):
        how = SWA(steps, every, partial(torch.optim.SGD, lr=0.1))
        return how(net, net.initial(), x, teacher, rng.stream(0, "distil"))

    same(student(5, 5), student(1, 0))
    mean = {n: sum(student(n_, 0)[n] for n_ in (1, 4, 7)) / 3 for n in net.parameters}
    same(student(9, 3), mean, 1e-12)


def test_the_mean_of_swas_snapshots_gets_statistics_of_its_own():
    net = Net(rng.build(Normed, 0, "init"), dtype=FLOAT)
    x, teacher, draw = numbers(20, 5), numbers(20, 3, seed=1), rng.stream(0, "distil")
    found = SWA(steps=6, every=2, optimiser=partial(torch.optim.SGD, lr=1.0))(net, net.initial(), x, teacher, draw)
    h = x @ found["body.0.weight"].T + found["body.0.bias"]
    torch.testing.assert_close(found["body.1.running_mean"], h.mean(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found["body.1.running_var"], h.var(0), rtol=1e-12, atol=1e-12)


# --- FedMD, FedGen, FedNTD, MOON ---------------------------------------------------------------------


def test_the_consensus_of_fedmd_is_that_of_the_last_round():
    uploads = []
    fed = federation(FedMD(public()), observers=[lambda fed, seen: uploads.append(seen.uploads) or {}])
    for _ in range(3):
        fed.run(1)
        mean = torch.stack([u["logits"] for u in uploads[-1]]).mean(0)
        torch.testing.assert_close(fed.memory["consensus"], mean, rtol=1e-12, atol=1e-12)


def test_fedmds_clients_go_on_from_all_of_their_own_model():
    left = {}

    def watch(fed, seen):
        for k, start, end in zip(seen.clients, seen.received, seen.states, strict=True):
            same(start, left.get(k, fed.state))
            left[k] = end
        return {}

    fed = federation(FedMD(public()), observers=[watch])
    fed.run(4)
    assert len(left) == 6
    assert max(float((left[0][n] - fed.state[n]).abs().max()) for n in fed.state if n.endswith("bias")) > 1e-3


def test_generated_features_are_a_clients_own_in_a_round():
    teaching = Teaching(steps=2, batch_size=6, noise_size=4, hidden=8)
    fed = federation(FedGen(1.0, 1.0, teaching=teaching, draws=12))
    fed.run(1)

    def drawn(client, round_):
        fed.round = round_
        return fed.algorithm.context(fed, client)

    for name in ("z", "anchors"):
        assert torch.equal(drawn(0, 1)[name], drawn(0, 1)[name])
        assert not torch.equal(drawn(0, 1)[name], drawn(1, 1)[name])
        assert not torch.equal(drawn(0, 1)[name], drawn(0, 2)[name])


def test_fedgens_clients_send_their_own_label_counts():
    seen = []
    fed = federation(FedGen(1.0, teaching=Teaching(steps=1, noise_size=4, hidden=8)))
    fed.observers.append(lambda fed, what: seen.append(what) or {})
    fed.run(1)
    for k, upload in zip(seen[0].clients, seen[0].uploads, strict=True):
        assert upload["labels"].tolist() == [int((fed.y[fed.split[k]] == c).sum()) for c in range(3)]


@pytest.mark.parametrize(("weight", "extra"), [(10.0, 0.0), (0.0, 2.0)])
def test_each_of_fedgens_terms_has_its_weight_and_fades(weight, extra):
    net, x, y = Net(models.MLP(6, (8, 7), 4), dtype=FLOAT), numbers(9, 6), torch.arange(9) % 4
    own = {"z": numbers(20, 7).relu(), "y": torch.arange(20) % 4, "anchors": numbers(12, 7, seed=1).relu()}
    plain = FedAvg().objective(net, net.initial(), x, y, Context({}))

    def term(factor, round_):
        method = FedGen(factor * weight, factor * extra)
        return float(method.objective(net, net.initial(), x, y, Context({}, own, round_)) - plain)

    assert term(1, 1) > 0
    assert term(3, 1) == pytest.approx(3 * term(1, 1), rel=1e-10)
    assert term(1, 10) == pytest.approx(0.98**9 * term(1, 1), rel=1e-10)


def test_fedntd_distils_at_its_temperature():
    logits, teacher, y = numbers(5, 4), numbers(5, 4, seed=1), torch.tensor([0, 3, 1, 2, 0])
    others = torch.ones(5, 4, dtype=torch.bool).scatter(1, y[:, None], False)
    student, target = (t[others].view(5, 3) / 2.5 for t in (logits, teacher))
    expected = 2.5**2 * kl_div(log_softmax(student, 1), softmax(target, 1), reduction="batchmean")
    assert float(FedNTD(1.0, 2.5).distance(logits, teacher, y)) == pytest.approx(float(expected), rel=1e-12)


def test_moon_contrasts_at_its_temperature():
    z, global_, previous = (numbers(5, 4, seed=s) for s in range(3))
    attract, repel = (cosine_similarity(z, other) / 0.2 for other in (global_, previous))
    expected = -(attract.exp() / (attract.exp() + repel.exp())).log().mean()
    assert float(Moon(1.0, 0.2).contrast(z, global_, previous)) == pytest.approx(float(expected), rel=1e-12)


def test_every_seed_changes_images_in_its_own_way():
    def drawn(seed):
        seen = []

        def watched(x, source):
            seen.append(torch.rand(1, generator=source).item() if isinstance(source, torch.Generator) else 0)
            return x

        federation(local=Local(1, 8, 0.1, augment=watched), participation=1.0, seed=seed).run(1)
        return seen

    assert drawn(0) == drawn(0)
    assert not set(drawn(0)) & set(drawn(1))
