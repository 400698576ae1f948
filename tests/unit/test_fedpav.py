"""FedPAV: private classifiers of different widths, cosine weights and the server's distillation, each against another
derivation in float64; and the traps, each shown to go wrong.
"""

import pytest
import torch
from federations import FLOAT, Normed, distance, everything, federation, public, same
from hypothesis import given, settings, strategies as st
from torch import nn
from torch.nn import functional as F

from fedlib import personal, require, rng
from fedlib.algorithms import FedAvg, FedPAV, LocalOnly
from fedlib.algorithms.fedpav import Gathered, cosine_weights, distances, turned
from fedlib.featuredistil import FeatureDistillation, FeatureStudent, feature_loss, mean_features
from fedlib.federation import Local, weighted_mean
from fedlib.models import MLP

CASES = settings(deadline=None, max_examples=30)
SEEDS = st.integers(0, 10**6)
SIZES, HELD = (6, 12, 20), ((0, 1), (2, 3, 4), (5, 6, 7, 8))  # samples and identities of three clients
PLAIN = {"participation": 1.0, "local": Local(epochs=2, batch_size=8, lr=0.1, momentum=0.9)}


def wide(layer_norm=False):
    return MLP(5, (6, 4), 9, layer_norm, linear_features=True)


def identities(seed=5):
    """Clients hold different identities, of different numbers."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(SIZES), 5, generator=g, dtype=FLOAT)
    y = torch.cat([torch.tensor(own).repeat(n)[:n] for own, n in zip(HELD, SIZES, strict=True)])
    return x, y, list(torch.arange(sum(SIZES)).split(list(SIZES)))


def made(algorithm=None, **options):
    options = {"model": wide, "data": identities()} | PLAIN | options
    return federation(algorithm or FedPAV(), **options)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT)


# --- private classifiers -----------------------------------------------------------------------------


def narrow(state, own):
    """A module of torch's own whose classifier has rows for a client's identities alone."""
    module = MLP(5, (6, 4), len(own), linear_features=True).to(FLOAT)
    rows = list(own)
    module.load_state_dict({n: t[rows] if n.startswith("head") else t for n, t in state.items()})
    return module


@pytest.mark.parametrize("executor", ["sequential", "batched"])
def test_a_round_is_that_of_classifiers_as_wide_as_their_client_needs(executor):
    """Two rounds by torch.optim on modules of different widths: nobody sees the rows of identities that others hold."""
    fed, other = made(executor=executor), made()
    fed.run(2)
    x, y, split = identities()
    modules = [narrow(other.state, own) for own in HELD]
    shared = {n: t for n, t in other.state.items() if not n.startswith("head")}
    for round_ in range(2):
        for k, module in enumerate(modules):
            module.load_state_dict(shared, strict=False)
            optimiser = torch.optim.SGD(module.parameters(), 0.1, 0.9)
            draws = rng.stream(3, "batches", round_, k, 0)
            orders = [torch.randperm(SIZES[k], generator=draws) for _ in range(2)]
            for rows in (batch for order in orders for batch in split[k][order].split(8)):
                optimiser.zero_grad()
                F.cross_entropy(module(x[rows]), y[rows] - HELD[k][0]).backward()
                optimiser.step()
        total = sum(SIZES)
        states = [m.state_dict() for m in modules]
        shared = {n: sum(s[n] * (m / total) for s, m in zip(states, SIZES, strict=True)) for n in shared}
    for n, t in shared.items():
        torch.testing.assert_close(fed.state[n], t, rtol=0, atol=1e-12)
    for k, (module, own) in enumerate(zip(modules, HELD, strict=True)):
        torch.testing.assert_close(fed.own[k]["head.weight"][list(own)], module.head.weight, rtol=0, atol=1e-12)


def test_rows_of_others_stay_as_they_were_and_unmasked_they_would_move():
    fed, plain = made(), made(LocalOnly())
    for f in (fed, plain):
        f.run(1)
    others = [i for i in range(9) if i not in HELD[0]]
    start = fed.net.initial()["head.weight"][others]
    assert torch.equal(fed.own[0]["head.weight"][others], start)
    assert not torch.equal(plain.own[0]["head.weight"][others], start)


@pytest.mark.parametrize("weights", ["samples", "cosine"])
def test_one_client_is_local_training_bit_for_bit(weights):
    x, y, _ = identities()
    data = (x, y, [torch.arange(len(y))])
    feds = [made(a, data=data) for a in (FedPAV(weights), LocalOnly(), FedAvg())]
    states = [(f.run(3), personal.client_models(f)[0])[1] for f in feds]
    same(states[0], states[1])
    same(states[0], states[2])


def test_with_everything_personal_clients_train_alone():
    fed = made(FedPAV("cosine", public(), personal=("*",)))
    fed.run(2)
    same(fed.state, fed.net.initial())
    alone = made()
    for _ in range(2):  # the shared part of each client put back where it was before its round
        alone.state, kept = {**alone.state}, {k: dict(own) for k, own in alone.own.items()}
        states = personal.trained(alone_with(alone, kept))
        alone.own = dict(enumerate(states))
        alone.round += 1
    for k in range(3):
        same({n: fed.own[k][n] for n in fed.state}, alone.own[k], 1e-12)


def alone_with(fed, kept):
    fed.own = kept
    return fed


# --- everything in one place -------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["sequential", "batched"])
def test_gathered_pictures_are_told_apart_from_those_of_their_own_home_alone(executor):
    """A round by torch.optim: each picture's loss is over the logits of the identities that its home has."""
    x, y, _ = identities()
    data = (x, y, [torch.arange(len(y))])
    homes = torch.tensor([k for k, own in enumerate(HELD) for _ in own])
    fed = made(Gathered(homes), data=data, executor=executor)
    module = wide().to(FLOAT)
    module.load_state_dict(fed.state)
    optimiser = torch.optim.SGD(module.parameters(), 0.1, 0.9)
    fed.run(1)
    draws = rng.stream(3, "batches", 0, 0, 0)
    orders = [torch.randperm(len(y), generator=draws) for _ in range(2)]
    for rows in (batch for order in orders for batch in order.split(8)):
        optimiser.zero_grad()
        losses = []
        for logits, one in zip(module(x[rows]), y[rows].tolist(), strict=True):
            own = list(HELD[int(homes[one])])
            losses.append(F.cross_entropy(logits[own], torch.tensor(own.index(one))))
        torch.stack(losses).mean().backward()
        optimiser.step()
    same(fed.state | fed.own[0], module.state_dict(), 1e-12)


@pytest.mark.parametrize(
    ("homes", "message"),
    [
        (torch.zeros(9), "homes must be integers"),
        ([0] * 9, "homes must be integers"),
        (torch.zeros(8, dtype=torch.long), r"integers \[9\], one for each identity, got \[8\]"),
    ],
)
def test_homes_that_are_none_are_refused(homes, message):
    with pytest.raises(ValueError, match=message):
        made(Gathered(homes))


def test_the_head_never_leaves_and_the_bytes_are_those_of_the_formula():
    for weights, more in (("samples", 0), ("cosine", 1)):
        fed = made(FedPAV(weights))
        fed.run(2)
        backbone = sum(t.numel() for n, t in fed.state.items() if not n.startswith("head"))
        assert fed.ledger.down == [8 * 3 * backbone] * 2
        assert fed.ledger.up == [8 * 3 * (backbone + more)] * 2
        assert torch.equal(fed.state["head.weight"], fed.net.initial()["head.weight"])


def test_statistics_of_batchnorm_are_averaged_and_not_those_of_the_first_client():
    x, y, split = identities()
    seen = []
    fed = made(model=Normed, data=(x, y % 3, split), observers=[lambda f, s: seen.append(s)])
    fed.run(1)
    means = [s["body.1.running_mean"] for s in seen[0].states]
    expected = sum(m * n for m, n in zip(means, SIZES, strict=True)) / sum(SIZES)
    torch.testing.assert_close(fed.state["body.1.running_mean"], expected, rtol=0, atol=1e-13)
    assert distance({"": expected}, {"": means[0]}) > 1e-3


# --- cosine weights ----------------------------------------------------------------------------------


@CASES
@given(SEEDS)
def test_the_distance_is_one_minus_the_cosine_and_zero_where_nothing_moved(seed):
    before, after = normal(seed, 6, 4), normal(seed + 1, 6, 4)
    expected = (1 - F.cosine_similarity(before, after)).mean()
    torch.testing.assert_close(turned(before, after), expected, rtol=0, atol=1e-14)
    assert float(turned(before, before)) == 0.0
    torch.testing.assert_close(turned(before, 3 * after), expected, rtol=0, atol=1e-13)
    assert float(turned(before, -before)) == pytest.approx(2)


def test_the_distance_is_that_of_a_clients_own_logits_in_evaluation():
    """Received and trained model on one batch, by hand; logits of others' identities would change it."""
    fed, seen = made(FedPAV("cosine")), []
    fed.observers = [lambda f, s: seen.append(s)]
    fed.run(2)
    x, _, split = identities()
    for k, own in enumerate(HELD):
        rows = split[k][torch.randperm(SIZES[k], generator=rng.stream(3, "turned", 1, k))[:8]]
        old, new = (fed.net(s[k], x[rows]) for s in (seen[1].received, seen[1].states))
        mine = list(own)
        expected = 1 - F.cosine_similarity(old[:, mine], new[:, mine]).mean()
        assert float(seen[1].uploads[k]["moved"]) == pytest.approx(float(expected), abs=1e-13)
        assert abs(float(1 - F.cosine_similarity(old, new).mean() - expected)) > 1e-6


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.5)), nn.Linear(6, 9)

    def forward(self, x, features=False):
        h = self.body(x)
        return h if features else self.head(h)


def test_dropout_alone_moves_nobody():
    algorithm = FedPAV("cosine")
    fed = made(algorithm, model=Dropping)
    assert float(algorithm.moved(fed, 1, fed.state, fed.state)) == 0.0
    x = fed.x[fed.split[1]]
    dropped = [fed.net(fed.state, x, train=True).detach() for _ in range(2)]
    assert float(turned(*dropped)) > 0.01  # in training mode it would look as if the client had learned much


def test_the_server_averages_by_the_distances():
    fed, seen = made(FedPAV("cosine")), []
    fed.observers = [lambda f, s: seen.append(s)]
    fed.run(1)
    moved = torch.stack([u["moved"] for u in seen[0].uploads])
    expected = weighted_mean([fed.shared(s) for s in seen[0].states], moved / moved.sum())
    same(fed.shared(fed.state), expected, 1e-14)
    assert distance(expected, weighted_mean([fed.shared(s) for s in seen[0].states], torch.tensor(SIZES) / 38)) > 1e-4
    assert "moved" not in fed.state
    assert distances(fed, seen[0]) == {"moved": moved.tolist()}


def test_uniform_weights_are_those_of_equal_distances():
    fed, seen = made(FedPAV("uniform")), []
    fed.observers = [lambda f, s: seen.append(s)]
    fed.run(1)
    assert distances(fed, seen[0]) == {}
    alike = cosine_weights([torch.tensor(0.3)] * 3, torch.tensor(SIZES) / 38)
    same(fed.shared(fed.state), weighted_mean([fed.shared(s) for s in seen[0].states], alike), 1e-14)


def test_equal_distances_weigh_alike_and_others_by_their_share():
    otherwise = torch.tensor([0.2, 0.8], dtype=FLOAT)
    m = [torch.tensor(v, dtype=torch.float32) for v in (3e-7, 3e-7)]
    assert cosine_weights(m, otherwise).tolist() == [0.5, 0.5]
    assert cosine_weights([torch.tensor(1e-30), torch.tensor(3e-30)], otherwise).tolist() == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize("moved", [(0.0, 0.0), (float("nan"), 1.0), (float("inf"), 1.0), (-0.1, 1.0)])
def test_distances_that_are_no_weights_leave_those_of_the_samples(moved):
    otherwise = torch.tensor([0.2, 0.8], dtype=FLOAT)
    assert cosine_weights([torch.tensor(m) for m in moved], otherwise) is otherwise


def test_distances_of_nothing_are_refused():
    for before, after in ((normal(0, 3, 2), normal(0, 3, 3)), (normal(0, 0, 2),) * 2, (normal(0, 3),) * 2):
        with pytest.raises(ValueError, match=r"must be \[B, C\] alike"):
            turned(before, after)
    assert turned(torch.zeros(2, 3), torch.ones(2, 3)).isnan()
    for moved in ([], [torch.tensor(1.0)]):
        with pytest.raises(ValueError, match="one distance is needed for each client"):
            cosine_weights(moved, torch.ones(2))


# --- distillation on the server ----------------------------------------------------------------------


def test_the_target_is_the_mean_of_unit_vectors_and_as_it_is_without_them():
    features = [normal(1, 7, 4), 100 * normal(2, 7, 4)]
    found = mean_features(features, FeatureDistillation())
    by_hand = torch.stack([sum(f[i] / f[i].square().sum().sqrt() for f in features) / 2 for i in range(7)])
    torch.testing.assert_close(found, by_hand, rtol=0, atol=1e-14)
    assert bool((found.norm(dim=1) < 1).all())
    raw = mean_features(features, FeatureDistillation(unit="neither"))
    torch.testing.assert_close(raw, (features[0] + features[1]) / 2, rtol=0, atol=1e-14)
    # Without norms of one, who has the longest features says nearly all.
    cosines = [F.cosine_similarity(t, features[1]).mean() for t in (found, raw)]
    assert float(cosines[0]) < 0.95 < 0.99 < float(cosines[1])


@CASES
@given(SEEDS)
def test_only_with_both_at_norm_one_the_students_norm_is_free(seed):
    h, target = normal(seed, 5, 4), normal(seed + 1, 5, 4)
    both, paper = (FeatureDistillation(unit=u) for u in ("both", "teachers"))
    torch.testing.assert_close(feature_loss(h, target, both), feature_loss(7 * h, target, both), rtol=0, atol=1e-13)
    assert float(feature_loss(7 * h, target, paper)) > float(feature_loss(h, target, paper))
    torch.testing.assert_close(feature_loss(h, target, paper), F.mse_loss(h, target), rtol=0, atol=1e-14)


def test_a_student_taught_by_unit_vectors_shrinks():
    """The trap of the released code: features shorter than the classifiers of the next round are made for."""
    fed = made()
    x = normal(4, 40, 5)
    long = fed.state | {n: 4 * t for n, t in fed.state.items() if n.startswith("body.3")}
    before = fed.net.predict(long, x, features=True)
    lengths = {}
    for unit in ("teachers", "both"):
        how = FeatureDistillation(epochs=20, weight_decay=0.0, unit=unit)
        names = [n for n in fed.net.parameters if n not in fed.personal]
        student = FeatureStudent(fed.net, long, names, x, mean_features([before], how), how, 0.05, rng.stream(0))
        student.do()
        lengths[unit] = float(fed.net.predict(student.state, x, features=True).norm(dim=1).mean())
    length = float(before.norm(dim=1).mean())
    assert lengths["teachers"] < 0.8 * length
    assert lengths["both"] == pytest.approx(length, rel=0.05)


@pytest.mark.parametrize("unit", ["teachers", "both", "neither"])
def test_the_server_step_is_that_of_torch(unit):
    """Average, teachers' features in evaluation mode, one pass of torch.optim.SGD on the mean square."""
    x = normal(9, 12, 5)
    how = FeatureDistillation(share=2.0, momentum=0.9, weight_decay=1e-3, epochs=2, batch_size=5, unit=unit)
    fed, plain, seen = made(FedPAV(public=x, distillation=how)), made(FedPAV()), []
    fed.observers = [lambda f, s: seen.append(s)]
    for f in (fed, plain):
        f.run(1)
    module = narrow(plain.state, range(9))
    teachers = [narrow(s, range(9)).eval() for s in seen[0].states]
    with torch.no_grad():
        features = [t(x, features=True) for t in teachers]
    target = sum(f if unit == "neither" else F.normalize(f, dim=1) for f in features) / 3
    optimiser = torch.optim.SGD(
        [p for n, p in module.named_parameters() if "head" not in n], 0.2, 0.9, weight_decay=1e-3
    )
    draws = rng.stream(3, "distil", 0)
    for _ in range(2):
        for rows in torch.randperm(12, generator=draws).split(5):
            own = module(x[rows], features=True)
            optimiser.zero_grad()
            F.mse_loss(F.normalize(own, dim=1) if unit == "both" else own, target[rows]).backward()
            optimiser.step()
    same(fed.state, {n: t.detach() for n, t in module.state_dict().items()}, 1e-12)
    assert distance(fed.state, plain.state) > 1e-3


def test_a_later_round_teaches_at_its_own_rate_with_draws_of_its_own():
    x, how = normal(9, 12, 5), FeatureDistillation(share=2.0, batch_size=5)
    fed, seen = made(FedPAV(public=x, distillation=how), local=Local(1, 8, 0.1, 0.9, lr_decay=0.5)), []
    fed.observers = [lambda f, s: seen.append(s)]
    fed.run(1)
    before = dict(fed.state)
    fed.run(1)
    mean = before | weighted_mean(seen[1].uploads, torch.tensor(SIZES, dtype=FLOAT) / 38)
    target = mean_features([fed.net.predict(mean | u, x, features=True) for u in seen[1].uploads], how)
    names = [n for n in fed.net.parameters if not n.startswith("head")]
    student = FeatureStudent(fed.net, mean, names, x, target, how, 2.0 * 0.1 * 0.5, rng.stream(3, "distil", 1))
    student.do()
    same(fed.state, student.state, 1e-14)


def test_a_student_trains_its_statistics_and_leaves_its_start_alone():
    fed = federation(model=Normed)
    start, x = {n: t.clone() for n, t in fed.state.items()}, public()
    given_, target, how = dict(fed.state), normal(1, 12, 6), FeatureDistillation(epochs=2, batch_size=5)
    student = FeatureStudent(fed.net, given_, fed.net.parameters[:-2], x, target, how, 0.1, rng.stream(0))
    student.do()
    same(given_, start)
    module, draws = Normed().to(FLOAT), rng.stream(0)
    module.load_state_dict(start)
    sgd = torch.optim.SGD(module.body.parameters(), 0.1, 0.9, weight_decay=5e-4)
    for _ in range(2):
        for rows in torch.randperm(12, generator=draws).split(5):
            sgd.zero_grad()
            F.mse_loss(module(x[rows], features=True), target[rows]).backward()
            sgd.step()
    same(student.state, {n: t.detach() for n, t in module.state_dict().items()}, 1e-12)


def test_it_teaches_in_every_nth_round_and_never_without_passes():
    x, fast = public(), {"share": 3.0, "weight_decay": 0.0}
    third, never, plain = (
        made(a)
        for a in (
            FedPAV(public=x, distillation=FeatureDistillation(every=3, **fast)),
            FedPAV(public=x, distillation=FeatureDistillation(epochs=0, **fast)),
            FedPAV(),
        )
    )
    for fed in (third, never, plain):
        fed.run(2)
    same(third.state, plain.state)
    same(never.state, plain.state)
    for fed in (third, never, plain):
        fed.run(1)
    same(everything(never), everything(plain))
    assert distance(third.state, plain.state) > 1e-4


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (torch.zeros(0, 5, dtype=FLOAT), r"public must be inputs \[U, ...\] with U >= 1, like \[38, 5\], got \[0, 5\]"),
        (torch.zeros(3, 6, dtype=FLOAT), r"public must be inputs .*got \[3, 6\]"),
        (lambda fed: None, "public must be inputs .*got None"),
    ],
)
def test_public_inputs_that_are_none_are_refused(given_, message):
    with pytest.raises(ValueError, match=message):
        made(FedPAV(public=given_))


def test_nonsense_is_refused():
    with pytest.raises(require.NotFinite, match="public: 5 of 15 numbers are NaN or infinite"):
        made(FedPAV(public=torch.stack([torch.zeros(5), torch.full((5,), torch.nan), torch.ones(5)])))
    with pytest.raises(ValueError, match="weights must be 'samples' or 'uniform' or 'cosine', got 'cos'"):
        FedPAV("cos")
    with pytest.raises(ValueError, match="unit must be 'teachers' or 'both' or 'neither', got 'yes'"):
        FeatureDistillation(unit="yes")
    with pytest.raises(ValueError, match=r"head.\* must be personal, got \('body.\*',\)"):
        made(FedPAV(personal=("body.*",)))
    with pytest.raises(ValueError, match="FedPAV needs a network with a linear layer named head"):
        made(model=lambda: nn.Sequential(nn.Linear(5, 9)))
    with pytest.raises(ValueError, match=r"personal must be a sequence of patterns, got 'head.\*'"):
        FedPAV(personal="head.*")  # letter by letter one pattern would be *, and all would stay at home
    with pytest.raises(
        ValueError, match=r"public must be inputs .* or a function that gives a federation its own, got 'x'"
    ):
        FedPAV(public="x")
    with pytest.raises(ValueError, match="distillation must be a FeatureDistillation, got None"):
        FedPAV(distillation=None)
    with pytest.raises(ValueError, match=r"a client's distance is one number, got \[2\]"):
        cosine_weights([torch.ones(2)], torch.ones(1))
    with pytest.raises(ValueError, match=r"features of teacher 1: expected \[2, 3\], got \[1, 3\]"):
        mean_features([torch.ones(2, 3), torch.ones(1, 3)], FeatureDistillation())
    with pytest.raises(ValueError, match=r"features \[2, 3\] and their target \[1, 3\] must have one shape"):
        feature_loss(torch.ones(2, 3), torch.ones(1, 3), FeatureDistillation())
    with pytest.raises(ValueError, match="at least one teacher"):
        mean_features([], FeatureDistillation())
    with pytest.raises(require.NotFinite, match="features of teacher 1: all are zero"):
        mean_features([torch.ones(2, 3), torch.zeros(2, 3)], FeatureDistillation())
    with pytest.raises(require.NotFinite, match="features of teacher 0: 1 of 6 numbers"):
        mean_features([torch.tensor([[1.0, 2, 3], [torch.inf, 1, 1]])], FeatureDistillation(unit="neither"))


def test_a_student_that_diverges_is_an_arithmetic_error():
    with pytest.raises(require.NotFinite, match="loss of the server's distillation"):
        made(FedPAV(public=public(), distillation=FeatureDistillation(share=1e9, epochs=60, unit="neither"))).run(1)
