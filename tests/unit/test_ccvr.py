"""CCVR: pooled moments are exact for any partition, the copied mistakes are not, and only the head is calibrated."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from fedlib import checkpoint, metrics, rng
from fedlib.algorithms import CCVR, FedAvg, FedAvgM, FedDF, FedMD, FedProx
from fedlib.calibration import Calibration, Moments, class_moments, fit_head, pool, root, sample
from fedlib.distill import Distillation
from fedlib.federation import Federation, Local
from fedlib.ledger import payload_bytes
from fedlib.models import MLP

F64 = torch.float64
CLASSES, DIMS = 4, 5
QUICK = Calibration(samples=20, steps=15, batch_size=16, lr=0.1)
LAW = settings(deadline=None, max_examples=30)


def features(n=60, d=DIMS, seed=0, shift=0.0):
    """Correlated features with a mean and a covariance for each class, and labels that leave the last class rare."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, CLASSES - 1, (n,), generator=g)
    y[: n // 12] = CLASSES - 1
    mixing = torch.randn(CLASSES, d, d, generator=g, dtype=F64)
    z = torch.einsum("nd,nde->ne", torch.randn(n, d, generator=g, dtype=F64), mixing[y])
    return z + torch.randn(CLASSES, d, generator=g, dtype=F64)[y] + shift, y


def parts_of(z, y, owner):
    """Moments of each client; ``owner`` [N] says whose each sample is."""
    return [class_moments(z[owner == k], y[owner == k], CLASSES) for k in range(int(owner.max()) + 1)]


def pooled_truth(z, y):
    """What torch says of all samples together: count, mean and covariance by class."""
    count = torch.bincount(y, minlength=CLASSES).to(F64)
    mean, covariance = (
        torch.zeros(CLASSES, z.shape[1], dtype=F64),
        torch.zeros(CLASSES, z.shape[1], z.shape[1], dtype=F64),
    )
    for c in range(CLASSES):
        own = z[y == c]
        if len(own):
            mean[c] = own.mean(0)
        if len(own) > 1:
            covariance[c] = torch.cov(own.T)
    return Moments(count, mean, covariance)


def gap(a, b):
    return max(float((getattr(a, n) - getattr(b, n)).abs().max()) for n in ("count", "mean", "covariance"))


def paper(parts, uniform=False):
    """Equations 3 and 4 as they are printed; ``uniform`` averages the clients' means without their counts."""
    count = sum(p.count for p in parts)
    weight = [p.count / count for p in parts]
    mean = sum(
        (torch.full_like(w, 1 / len(parts)) if uniform else w)[:, None] * p.mean
        for w, p in zip(weight, parts, strict=True)
    )
    outer = lambda m: m[:, :, None] * m[:, None, :]  # noqa: E731
    column = lambda v: v[:, None, None]  # noqa: E731
    within = sum(column((p.count - 1) / (count - 1)) * p.covariance for p in parts)
    between = sum(column(p.count / (count - 1)) * outer(p.mean) for p in parts)
    return Moments(count, mean, within + between - column(count / (count - 1)) * outer(mean))


# --- moments ------------------------------------------------------------------------------------------


@LAW
@given(st.integers(1, 80), st.integers(1, 12), st.floats(0.02, 5), st.integers(0, 10_000))
def test_pooled_moments_are_those_of_the_pooled_features(n, clients, alpha, seed):
    """For any partition: skewed ones leave clients without, or with a single, sample of a class."""
    z, y = features(n, seed=seed)
    g = torch.Generator().manual_seed(seed + 1)
    taste = torch.rand(CLASSES, clients, generator=g).pow(1 / alpha) + 1e-9
    owner = torch.multinomial(taste[y], 1, generator=g).squeeze(1)
    assert gap(pool(parts_of(z, y, owner)), pooled_truth(z, y)) < 1e-10


@pytest.mark.parametrize("holding", [[0], [1], [0, 1], [1, 1], [1, 0, 5], [1, 1, 1, 30], [2, 1, 0, 0, 7]])
def test_pooling_with_clients_of_no_or_one_sample(holding):
    z = features(sum(holding) + 1, seed=3)[0][: sum(holding)]
    y = torch.zeros(len(z), dtype=torch.int64)
    owner = torch.repeat_interleave(torch.arange(len(holding)), torch.tensor(holding))
    parts = [class_moments(z[owner == k], y[owner == k], CLASSES) for k in range(len(holding))]
    found = pool(parts)
    assert all(bool(t.isfinite().all()) for t in vars(found).values())
    assert gap(found, pooled_truth(z, y)) < 1e-12


def test_one_client_with_everything_has_the_same_moments():
    z, y = features()
    alone = class_moments(z, y, CLASSES)
    assert gap(pool([alone]), alone) < 1e-14
    assert gap(alone, pooled_truth(z, y)) < 1e-12


def test_pooling_is_associative_and_ignores_order():
    z, y = features(90)
    a, b, c = parts_of(z, y, torch.arange(90) % 3)
    assert gap(pool([a, pool([b, c])]), pool([c, a, b])) < 1e-12


def test_the_formula_as_printed_is_the_same_number():
    z, y = features(200)
    parts = parts_of(z, y, torch.arange(200) % 3)
    assert all(float(p.count.min()) > 1 for p in parts)
    assert gap(pool(parts), paper(parts)) < 1e-12


def test_far_from_the_origin_the_printed_formula_cancels_and_ours_does_not():
    z, y = features(200, shift=1e6)
    parts = parts_of(z, y, torch.arange(200) % 3)
    truth = pooled_truth(z, y).covariance
    error = {f.__name__: float((f(parts).covariance - truth).abs().max()) for f in (pool, paper)}
    assert error["pool"] < 1e-6 < 1e-4 < error["paper"]


def test_pooling_nobody_is_an_error():
    with pytest.raises(ValueError, match="at least one client"):
        pool([])


# --- mistakes that were copied from repository to repository: each gives other numbers -------------------


@pytest.fixture
def three():
    z, y = features(200, seed=5)
    owner = torch.randint(0, 3, (200,), generator=torch.Generator().manual_seed(1))
    owner[(y == 0) & (owner == 2)] = 1  # client 2 lacks class 0
    owner[(y == 1) & (owner == 0)] = 1  # client 0 lacks class 1
    return z, y, owner


def off(moments, z, y):
    """How far moments are from the truth, when the right ones are not."""
    return gap(moments, pooled_truth(z, y))


def test_mistake_1_a_buffer_that_is_never_emptied(three):
    """Features gathered class by class into one list: class c then counts all classes before it, too."""
    z, y, owner = three

    def accumulating(z, y):
        right = class_moments(z, y, CLASSES)
        mean, covariance = right.mean.clone(), right.covariance.clone()
        buffer = []
        for c in range(CLASSES):
            buffer.extend(z[y == c])
            if len(buffer) > 1:
                stacked = torch.stack(buffer)
                mean[c], covariance[c] = stacked.mean(0), torch.cov(stacked.T)
        return dataclasses.replace(right, mean=mean, covariance=covariance)

    wrong = [accumulating(z[owner == k], y[owner == k]) for k in range(3)]
    assert off(pool(parts_of(z, y, owner)), z, y) < 1e-12
    assert off(pool(wrong), z, y) > 0.1
    first = int(y.min())  # its own class comes first, so that only the first class is right
    torch.testing.assert_close(pool(wrong).mean[first], pooled_truth(z, y).mean[first], atol=1e-12, rtol=0)


def test_mistake_2_a_dot_product_in_place_of_an_outer_product(three):
    """``np.dot(m.T, m)`` of a vector is a number: it shifts every entry of the covariance alike."""
    z, y, owner = three
    parts = parts_of(z, y, owner)
    count = sum(p.count for p in parts)
    mean = pool(parts).mean
    within = sum(((p.count - 1) / (count - 1))[:, None, None] * p.covariance for p in parts)
    constant = sum(p.count / (count - 1) * p.mean.square().sum(1) for p in parts) - count / (
        count - 1
    ) * mean.square().sum(1)
    wrong = within + constant[:, None, None]
    truth = pooled_truth(z, y).covariance
    assert float((wrong - truth).abs().max()) > 0.1
    assert float((pool(parts).covariance - truth).abs().max()) < 1e-12
    # The dot product is the trace of what belongs there.
    between = truth - within
    torch.testing.assert_close(constant, between.diagonal(dim1=1, dim2=2).sum(1), atol=1e-11, rtol=0)


def test_mistake_3_the_population_covariance(three):
    """Divided by N instead of N - 1, and then weighted as if it were not: too small, most for small clients."""
    z, y, owner = three
    parts = parts_of(z, y, owner)
    shrunk = [
        dataclasses.replace(
            p, covariance=p.covariance * ((p.count - 1) / p.count.clamp(min=1)).clamp(min=0)[:, None, None]
        )
        for p in parts
    ]
    truth = pooled_truth(z, y)
    assert off(pool(shrunk), z, y) > 1e-3
    trace = lambda m: m.covariance.diagonal(dim1=1, dim2=2).sum(1)  # noqa: E731
    assert bool((trace(pool(shrunk)) < trace(truth)).all())


def test_mistake_4_one_model_object_for_everybody():
    """Clients built around the server's own module train it one after the other: that is no averaging at all."""
    fed = federation(FedAvg(), participation=1.0)
    fed.run(1)
    z, y, split = fed.x, fed.y, fed.split
    shared = rng.build(small, 3, "init").to(F64)  # the network that the federation started from
    states = []
    for k in range(fed.clients):
        optimiser = torch.optim.SGD(shared.parameters(), lr=0.1)
        for order in fed_orders(fed, k):
            for rows in order.split(8):
                optimiser.zero_grad()
                nn.functional.cross_entropy(shared(z[split[k]][rows]), y[split[k]][rows]).backward()
                optimiser.step()
        states.append(shared.state_dict())  # not a copy: all entries are the same tensors in the end
    share = torch.tensor([len(s) for s in split], dtype=F64)
    sequential = {
        n: sum(w * s[n] for w, s in zip((share / share.sum()).tolist(), states, strict=True)) for n in fed.state
    }
    assert all(torch.equal(states[0][n], states[-1][n]) for n in sequential)
    assert max(float((sequential[n] - fed.state[n]).abs().max()) for n in sequential) > 1e-2

    alone, start = [], fed.net.initial()
    for k in range(fed.clients):
        one = rng.build(small, 3, "init").to(F64)
        optimiser = torch.optim.SGD(one.parameters(), lr=0.1)
        for order in fed_orders(fed, k):
            for rows in order.split(8):
                optimiser.zero_grad()
                nn.functional.cross_entropy(one(z[split[k]][rows]), y[split[k]][rows]).backward()
                optimiser.step()
        alone.append(one.state_dict())
    right = {n: sum(w * s[n] for w, s in zip((share / share.sum()).tolist(), alone, strict=True)) for n in start}
    assert max(float((right[n] - fed.state[n]).abs().max()) for n in right) < 1e-12


def test_mistake_5_every_client_counts_alike(three):
    z, y, owner = three
    parts = parts_of(z, y, owner)
    assert min(float(p.count.min()) for p in parts) == 0  # an absent class then pulls the mean towards zero
    wrong = paper(parts, uniform=True)
    assert float((wrong.mean - pooled_truth(z, y).mean).abs().max()) > 0.1
    assert float((pool(parts).mean - pooled_truth(z, y).mean).abs().max()) < 1e-12


def test_an_absent_class_must_not_bring_a_covariance():
    """Its weight is N - 1 = -1: whatever stands there, such as the identity to keep it regular, is subtracted."""
    z, y = features(100)
    parts = parts_of(z, y, (y == 0).long())  # client 0 lacks class 0, client 1 has nothing else
    assert float(parts[0].count[0]) == 0
    parts[0].covariance[0] = torch.eye(DIMS, dtype=F64)
    assert float((paper(parts).covariance[0] - pooled_truth(z, y).covariance[0]).abs().max()) > 1e-3
    assert gap(pool(parts), pooled_truth(z, y)) < 1e-12


def test_numpys_covariance_of_one_sample_is_not_a_number():
    import numpy as np

    with pytest.warns(RuntimeWarning):
        assert np.isnan(np.cov(np.ones((1, 3)).T)).all()
    assert float(class_moments(torch.ones(1, 3), torch.tensor([0]), 1).covariance.abs().max()) == 0


# --- sampling -----------------------------------------------------------------------------------------


def test_the_root_is_symmetric_and_its_square_is_the_covariance():
    z, y = features(200)
    covariance = class_moments(z, y, CLASSES).covariance
    r = root(covariance)
    torch.testing.assert_close(r @ r, covariance, atol=1e-12, rtol=0)
    torch.testing.assert_close(r, r.mT, atol=1e-12, rtol=0)


def test_a_singular_covariance_is_sampled_where_cholesky_throws():
    """Three samples in five dimensions: draws stay in the plane of the samples."""
    z, y = features(3)[0], torch.zeros(3, dtype=torch.int64)
    moments = class_moments(z, y, 1)
    with pytest.raises(torch.linalg.LinAlgError):
        torch.linalg.cholesky(moments.covariance[0] - 1e-12 * torch.eye(DIMS, dtype=F64))
    drawn, _ = sample(moments, [50], 0)
    plane = torch.linalg.qr((z[1:] - z[0]).T)[0]
    away = drawn - moments.mean[0]
    assert float((away - away @ plane @ plane.T).abs().max()) < 1e-12
    assert float(away.abs().max()) > 0.1


def test_the_root_does_not_depend_on_the_choice_of_eigenvectors():
    """Rotating the coordinates rotates the root; the eigenvector factor U sqrt(L) turns in a way of its own."""
    z, y = features(80)
    covariance = class_moments(z, y, CLASSES).covariance[0]
    turn = torch.linalg.qr(torch.randn(DIMS, DIMS, generator=torch.Generator().manual_seed(2), dtype=F64))[0]
    torch.testing.assert_close(root(turn @ covariance @ turn.T), turn @ root(covariance) @ turn.T, atol=1e-12, rtol=0)
    perturbed = covariance + 1e-13 * torch.eye(DIMS, dtype=F64)
    torch.testing.assert_close(root(perturbed), root(covariance), atol=1e-11, rtol=0)


def test_draws_have_the_moments_that_they_were_drawn_from():
    z, y = features(200)
    moments = class_moments(z, y, CLASSES)
    drawn, labels = sample(moments, [40_000] * CLASSES, 7, "virtual")
    found = class_moments(drawn, labels, CLASSES)
    scale = float(moments.covariance.abs().max())
    assert float((found.mean - moments.mean).abs().max()) < 0.03 * scale**0.5
    assert float((found.covariance - moments.covariance).abs().max()) < 0.03 * scale


def test_the_draws_of_one_class_do_not_depend_on_the_others():
    moments = class_moments(*features(200), CLASSES)
    all_, labels = sample(moments, [30] * CLASSES, 7)
    some, other = sample(moments, [50, 0, 30, 9], 7)
    assert torch.equal(some[other == 2], all_[labels == 2])
    assert torch.bincount(other, minlength=CLASSES).tolist() == [50, 0, 30, 9]
    assert not torch.equal(sample(moments, [30] * CLASSES, 8)[0], all_)


def test_a_class_that_nobody_holds_is_not_sampled():
    z, y = features(50)
    kept = y != 2
    moments = class_moments(z[kept], y[kept], CLASSES)
    _, labels = sample(moments, [5] * CLASSES, 0)
    assert torch.bincount(labels, minlength=CLASSES).tolist() == [5, 5, 0, 5]


# --- the head -----------------------------------------------------------------------------------------


def some_head(bias=True):
    g = torch.Generator().manual_seed(8)
    shapes = {"weight": (CLASSES, DIMS)} | ({"bias": (CLASSES,)} if bias else {})
    return {n: torch.randn(s, generator=g, dtype=F64) for n, s in shapes.items()}


@pytest.mark.parametrize("bias", [True, False])
def test_the_head_is_trained_as_torch_would(bias):
    z, y = features(70)
    how = Calibration(steps=23, batch_size=16, lr=0.05, momentum=0.9, weight_decay=0.01)
    found = fit_head(some_head(bias), z, y, how, torch.Generator().manual_seed(1))
    layer = nn.Linear(DIMS, CLASSES, bias=bias, dtype=F64)
    layer.load_state_dict(some_head(bias))
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    g, batches = torch.Generator().manual_seed(1), []
    for _ in range(how.steps):
        batches = batches or list(torch.randperm(70, generator=g).split(16))
        rows = batches.pop(0)
        optimiser.zero_grad()
        nn.functional.cross_entropy(layer(z[rows]), y[rows]).backward()
        optimiser.step()
    for n, w in layer.state_dict().items():
        torch.testing.assert_close(found[n], w, atol=1e-12, rtol=0)


def test_no_steps_or_no_features_leave_the_head_as_it_is():
    z, y = features(20)
    for how, some in ((Calibration(steps=0), 20), (Calibration(), 0)):
        found = fit_head(some_head(), z[:some], y[:some], how, torch.Generator())
        assert all(torch.equal(found[n], w) for n, w in some_head().items())


def test_a_diverging_calibration_is_said():
    z, y = features(20)
    with pytest.raises(ArithmeticError, match="calibration diverged"):
        fit_head(some_head(), z * float("inf"), y, Calibration(steps=3), torch.Generator())


@pytest.mark.parametrize("wrong", [{"samples": -1}, {"steps": -1}, {"batch_size": 0}, {"lr": 0.0}])
def test_settings_that_cannot_work_are_refused(wrong):
    with pytest.raises(ValueError, match="must be a"):
        Calibration(**wrong)


def test_equal_numbers_of_every_class_remove_the_prior_and_proportional_ones_do_not():
    """Two classes of one and the same distribution, nine times as many of the first: all that a head can learn is the
    prior, a difference of biases of log 9 or of nothing.
    """
    z = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    y = (torch.arange(1000) % 10 == 0).long()
    moments = class_moments(z, y, 2)
    how = Calibration(steps=800, batch_size=1000, lr=0.5)
    start = {"weight": torch.zeros(2, 2, dtype=F64), "bias": torch.zeros(2, dtype=F64)}
    for counts, prior in (([500, 500], 0.0), ([900, 100], torch.tensor(9.0).log().item())):
        bias = fit_head(start, *sample(moments, counts, 0), how, torch.Generator().manual_seed(0))["bias"]
        assert float(bias[0] - bias[1]) == pytest.approx(prior, abs=0.1)


# --- the algorithm ------------------------------------------------------------------------------------


def small():
    return MLP(5, (6,), 3)


def federation(algorithm, model=small, dtype=F64, **options):
    g = torch.Generator().manual_seed(4)
    x = torch.randn(70, 5, generator=g, dtype=F64)
    y = (x[:, :3] + 0.5 * torch.randn(70, 3, generator=g, dtype=F64)).argmax(1)
    split = list(torch.argsort(y, stable=True).split([1, 3, 20, 30, 16]))  # by label: clients lack classes
    options = {"participation": 0.6, "executor": "sequential", "local": Local(2, 8, 0.1)} | options
    return Federation(model, x, y, split, algorithm, seed=3, device="cpu", dtype=dtype, **options)


def fed_orders(fed, k):
    """The order of samples in client k's epochs of the first round."""
    order = rng.stream(fed.seed, "batches", 0, k, 0)
    return [torch.randperm(len(fed.split[k]), generator=order) for _ in range(fed.local.epochs)]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


BASES = {
    "FedAvg": FedAvg,
    "FedProx": lambda: FedProx(0.3),
    "FedAvgM": lambda: FedAvgM(0.9),
    "FedDF": lambda: FedDF(torch.randn(12, 5, generator=torch.Generator().manual_seed(1), dtype=F64), Distillation(2)),
}


@pytest.mark.parametrize("base", BASES)
def test_until_it_is_calibrated_the_bits_are_the_bases(base):
    plain, wrapped = federation(BASES[base]()), federation(CCVR(BASES[base](), QUICK))
    plain.run(3)
    wrapped.run(3)
    assert same(plain.state, wrapped.state)
    assert (plain.ledger.down, plain.ledger.up) == (wrapped.ledger.down, wrapped.ledger.up)
    wrapped.algorithm.calibrate(wrapped)
    body = [n for n in plain.state if not n.startswith("head.")]
    assert all(torch.equal(plain.state[n], wrapped.state[n]) for n in body)
    assert not torch.equal(plain.state["head.weight"], wrapped.state["head.weight"])


def test_at_the_end_or_on_request_is_the_same_calibration():
    planned, asked = federation(CCVR(how=QUICK, rounds=2)), federation(CCVR(how=QUICK))
    planned.run(2)
    asked.run(2)
    assert not same(planned.state, asked.state)
    asked.algorithm.calibrate(asked)
    assert same(planned.state, asked.state)
    assert (planned.ledger.down, planned.ledger.up) == (asked.ledger.down, asked.ledger.up)
    assert len(planned.ledger.down) == 3


@pytest.mark.parametrize("off", [{"samples": 0}, {"steps": 0}])
def test_without_samples_or_steps_the_model_is_unchanged(off):
    fed = federation(CCVR(how=dataclasses.replace(QUICK, **off)))
    fed.run(2)
    before = fed.state
    fed.algorithm.calibrate(fed)
    assert same(before, fed.state)


def test_collected_moments_are_those_of_all_features_in_one_place():
    fed = federation(CCVR(how=QUICK))
    fed.run(2)
    z = fed.net.predict(fed.state, fed.x, features=True)
    count = torch.bincount(fed.y, minlength=3).double()
    found = fed.algorithm.collect(fed)
    for c in range(3):
        torch.testing.assert_close(found.mean[c], z[fed.y == c].mean(0), atol=1e-10, rtol=0)
        torch.testing.assert_close(found.covariance[c], torch.cov(z[fed.y == c].T), atol=1e-10, rtol=0)
    assert torch.equal(found.count, count)


def test_the_extra_round_is_booked_with_all_clients_and_to_the_byte():
    for dtype, size in ((F64, 8), (torch.float32, 4)):
        fed = federation(CCVR(how=QUICK, rounds=2), dtype=dtype)
        fed.run(2)
        model, d = sum(t.numel() for t in fed.state.values()), 6
        held = torch.stack([torch.bincount(fed.y[rows], minlength=3) for rows in fed.split])
        numbers = 3 * fed.clients + int((held > 0).sum()) * d + int((held > 1).sum()) * d * (d + 1) // 2
        assert (held == 1).any()
        assert (held == 0).any()
        assert fed.ledger.down == [size * model * 3] * 2 + [size * model * fed.clients]
        assert fed.ledger.up == [size * model * 3] * 2 + [size * numbers]
        assert numbers < fed.clients * 3 * (1 + d + d * (d + 1) // 2)  # what the paper's table of all classes takes


def test_what_travels_is_what_arrives():
    z, y = features(30)
    keep = y != 1
    own = class_moments(z[keep], y[keep], CLASSES)
    assert float(own.count[1]) == 0
    assert gap(Moments.received(own.payload(F64)), own) < 1e-14
    rounded = Moments.received(own.payload(torch.float32))
    assert 0 < gap(rounded, own) < 1e-5
    assert payload_bytes(own.payload()) == 4 * (CLASSES + 3 * DIMS + 3 * DIMS * (DIMS + 1) // 2)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x, features=False):
        h = self.body(x)
        return h if features else self.head(h)


def test_features_come_from_the_received_model_in_evaluation_mode_without_augmentation():
    """Training mode would let the batch set the statistics, and move them: other moments, another model."""

    def noisy(x, generator):
        return x + torch.randn(x.shape, generator=generator, dtype=x.dtype)

    fed = federation(CCVR(how=QUICK), Normed, local=Local(1, 7, 0.1, augment=noisy))  # no batch of one sample
    fed.split[0] = torch.cat([fed.split[0], fed.split[1]])
    fed.run(1)
    before = {n: t.clone() for n, t in fed.state.items()}
    found = fed.algorithm.moments(fed, 2)
    rows = fed.split[2]
    x, y = fed.x[rows], fed.y[rows]
    assert gap(found, class_moments(fed.net.predict(fed.state, x, features=True), y, 3)) < 1e-14
    assert same(before, fed.state)
    training = fed.net({n: t.clone() for n, t in fed.state.items()}, x, train=True, features=True).detach()
    assert gap(found, class_moments(training, y, 3)) > 1e-3
    augmented = fed.net.predict(fed.state, noisy(x, torch.Generator().manual_seed(0)), features=True)
    assert gap(found, class_moments(augmented, y, 3)) > 1e-3
    local = fed.net.predict({**fed.state, "body.0.weight": 1.1 * fed.state["body.0.weight"]}, x, features=True)
    assert gap(found, class_moments(local, y, 3)) > 1e-3


def test_own_statistics_give_own_features():
    """With BatchNorm kept local a client's features are those of the model that it would be sent."""
    fed = federation(CCVR(how=QUICK), Normed, buffers="local", participation=1.0, local=Local(1, 7, 0.1))
    fed.split = [rows for rows in fed.split if len(rows) > 1]
    fed.run(1)
    mine = fed.net.predict(fed.state | fed.own[2], fed.x[fed.split[2]], features=True)
    assert gap(fed.algorithm.moments(fed, 2), class_moments(mine, fed.y[fed.split[2]], 3)) < 1e-14


def test_a_federation_without_a_common_head_is_refused():
    class Headless(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x, features=False):
            return x if features else self.layer(x)

    class Personal(FedAvg):
        personal = ("head.*",)

    for fed in (
        federation(CCVR(how=QUICK), Headless),
        federation(CCVR(Personal(), QUICK)),
        federation(CCVR(FedMD(torch.randn(4, 5, dtype=F64)), QUICK)),
    ):
        fed.run(1)
        with pytest.raises(ValueError, match="that all clients share"):
            fed.algorithm.calibrate(fed)


def test_executors_agree():
    ends = [federation(CCVR(FedProx(0.3), QUICK, rounds=2), executor=e) for e in ("sequential", "batched", "threads")]
    for fed in ends:
        fed.run(3)
        assert max(float((fed.state[n] - ends[0].state[n]).abs().max()) for n in fed.state) < 1e-10


def test_resumed_across_the_calibration_to_the_same_bits(tmp_path):
    whole = federation(CCVR(FedAvgM(0.9), QUICK, rounds=2))
    whole.run(4)
    for stop in (1, 2, 3):
        path = tmp_path / str(stop)
        checkpoint.play(federation(CCVR(FedAvgM(0.9), QUICK, rounds=2)), stop, path)
        again = federation(CCVR(FedAvgM(0.9), QUICK, rounds=2))
        checkpoint.play(again, 4, path)
        assert same(again.state, whole.state)
        assert (again.ledger.down, again.ledger.up) == (whole.ledger.down, whole.ledger.up)
    with pytest.raises(ValueError, match=r"algorithm.of: 'FedAvgM momentum=0.9 lr=1.0' there, 'FedAvg' here"):
        checkpoint.restore(federation(CCVR(how=QUICK, rounds=2)), path)


# --- the comparison of layers -------------------------------------------------------------------------


def test_all_pairs_of_cka_at_once():
    g = torch.Generator().manual_seed(0)
    many = [torch.randn(40, d, generator=g, dtype=F64) for d in (3, 60, 7)]
    found = metrics.cka_matrix(many)
    for i, a in enumerate(many):
        for j, b in enumerate(many):
            assert float(found[i, j]) == pytest.approx(metrics.linear_cka(a, b), abs=1e-12)
    assert float((found.diagonal() - 1).abs().max()) < 1e-12


def test_a_calibrated_copy_is_what_calibration_gives_and_changes_nothing():
    fed = federation(CCVR(how=QUICK))
    fed.run(2)
    before, booked = dict(fed.state), len(fed.ledger.up)
    copy = fed.algorithm.calibrated(fed)
    assert all(fed.state[n] is before[n] for n in before)
    assert len(fed.ledger.up) == booked
    fed.algorithm.calibrate(fed)
    assert all(torch.equal(copy[n], fed.state[n]) for n in copy)
    assert len(fed.ledger.up) == booked + 1
