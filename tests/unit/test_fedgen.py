"""FedGen: the identities of its two equations in float64, the off-switch, the wire, and the mistakes easily made."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from fedlib import partition, rng
from fedlib.algorithms import FedAvg, FedGen
from fedlib.algorithms.fedgen import Teaching, diversity, imitation, teacher_loss
from fedlib.executors import Context
from fedlib.federation import Federation, Local, together
from fedlib.ledger import payload_bytes
from fedlib.models import MLP, Generator, Net
from fedlib.models.generator import labelled

F64 = torch.float64
CASES = settings(deadline=None, max_examples=30)
SHORT = Teaching(steps=4, batch_size=8, noise_size=5, hidden=12)


def numbers(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def federation(algorithm=None, *, classes=4, clients=5, participation=0.6, executor="sequential", seed=3, **options):
    y = torch.arange(90) % classes
    x = numbers(90, 6) + 1.5 * F.one_hot(y, 6)
    split = partition.dirichlet(y, clients, 0.4, rng.stream(0, "split"), min_size=4)
    settings_ = {"local": Local(2, 8, 0.1, 0.9), "device": "cpu", "dtype": F64} | options
    return Federation(partial(MLP, 6, (8, 7), classes), x, y, split, algorithm or FedAvg(), seed=seed,
                      participation=participation, executor=executor, **settings_)  # fmt: skip


def played(algorithm, rounds=3, **options):
    fed = federation(algorithm, **options)
    fed.run(rounds)
    return fed


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def gap(a, b):
    return max(float((a[n] - b[n]).abs().max()) for n in b)


# Identity (a): the off-switch.


@pytest.mark.parametrize("executor", ["sequential", "batched"])
def test_weights_zero_is_fedavg_bit_for_bit(executor):
    """The generator is taught all the same, and draws from streams of its own: nobody else's batch moves."""
    plain, off = (played(a, 4, executor=executor) for a in (FedAvg(), FedGen(0.0, 0.0, teaching=SHORT)))
    assert same(plain.state, off.state)
    assert [r["loss"] for r in plain.history] == [r["loss"] for r in off.history]
    assert gap(played(FedGen(1.0, teaching=SHORT), 4, executor=executor).state, plain.state) > 1e-6
    assert gap(played(FedGen(0.0, 1.0, teaching=SHORT), 4, executor=executor).state, plain.state) > 1e-6


def test_an_untrained_generator_regularises_nobody():
    """The first round is FedAvg's; to let the raw generator speak would not be."""
    plain, ours = played(FedAvg(), 1), played(FedGen(10.0, 10.0, teaching=SHORT), 1)
    assert same(plain.state, ours.state)
    assert ours.ledger.down == plain.ledger.down

    class Eager(FedGen):
        def setup(self, fed):
            super().setup(fed)
            fed.memory["prior"] = torch.full((4,), 0.25, dtype=F64)

    assert gap(played(Eager(10.0, teaching=SHORT), 1).state, plain.state) > 1e-3


# Identity (b): one client.


@CASES
@given(st.integers(0, 10**6))
def test_with_one_client_every_teacher_is_its_likelihood(seed):
    logits, y = numbers(1, 9, 4, seed=seed, scale=3), torch.arange(9) % 4
    share = torch.ones(1, 4, dtype=F64)
    expected = F.cross_entropy(logits[0], y)
    for teacher in ("logits", "weighted", "broadcast"):
        torch.testing.assert_close(teacher_loss(logits, y, share, teacher), expected, rtol=1e-12, atol=1e-12)


@CASES
@given(st.integers(0, 10**6), st.integers(2, 6))
def test_loss_of_the_mean_is_at_most_the_mean_of_losses(seed, clients):
    """Log-sum-exp is convex: the loss of averaged logits, equation (4), is never above the average of losses."""
    logits, y = numbers(clients, 9, 4, seed=seed, scale=3), torch.arange(9) % 4
    even = torch.full((clients, 4), 1 / clients, dtype=F64)
    ensemble, average = (float(teacher_loss(logits, y, even, t)) for t in ("logits", "weighted"))
    assert ensemble <= average + 1e-12
    by_hand = sum(float(F.cross_entropy(z, y)) for z in logits) / clients
    assert average == pytest.approx(by_hand, rel=1e-12)


def test_averaging_probabilities_is_not_equation_4():
    logits, y = numbers(3, 9, 4, scale=3), torch.arange(9) % 4
    wrong = F.nll_loss(logits.softmax(-1).mean(0).log(), y)
    assert abs(float(teacher_loss(logits, y, torch.ones(3, 4)) - wrong)) > 0.1


@CASES
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_the_ensemble_of_linear_predictors_is_their_average(seed, clients):
    """With a linear predictor, averaged logits are the logits of averaged weights: what FedAvg has on its server."""
    algorithm = FedGen()
    heads = {"head.weight": numbers(clients, 4, 7, seed=seed), "head.bias": numbers(clients, 4, seed=seed + 1)}
    z = numbers(9, 7, seed=seed + 2)
    ensemble = algorithm.predictor(None, heads, z).mean(0)
    average = algorithm.predictor(None, {n: t.mean(0) for n, t in heads.items()}, z)
    torch.testing.assert_close(ensemble, average, rtol=1e-12, atol=1e-12)


def test_broadcasting_loses_the_weight_of_each_sample():
    """[B, 1] times [B] is [B, B]: as the released code runs, a client that lacks a class still speaks for it."""
    logits, y = numbers(2, 8, 2, scale=3), torch.arange(8) % 2
    share = torch.eye(2, dtype=F64)  # client 0 has all of class 0, client 1 all of class 1
    weight = share[:, y]
    nll = torch.stack([F.cross_entropy(z, y, reduction="none") for z in logits])
    meant = sum((w * n).mean() for w, n in zip(weight, nll, strict=True))
    runs = sum((n * w.view(-1, 1)).mean() for w, n in zip(weight, nll, strict=True))
    torch.testing.assert_close(teacher_loss(logits, y, share, "weighted"), meant, rtol=1e-12, atol=0)
    torch.testing.assert_close(teacher_loss(logits, y, share, "broadcast"), runs, rtol=1e-12, atol=0)
    assert abs(float(meant - runs)) > 0.05
    torch.testing.assert_close(runs, nll.mean(), rtol=1e-12, atol=0)  # all are heard alike


# Identity (c): the prior.


def test_prior_is_the_pooled_label_frequency():
    fed = played(FedGen(teaching=SHORT), 1, participation=1.0)
    prior = fed.memory["prior"]
    assert float(prior.sum()) == pytest.approx(1.0, abs=1e-15)
    torch.testing.assert_close(prior, torch.bincount(fed.y, minlength=4).double() / len(fed.y), rtol=0, atol=1e-15)


def test_uniform_labels_are_not_the_prior():
    counts = torch.tensor([[6.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=F64)
    assert Teaching().prior(counts).tolist() == [7 / 8, 0.0, 1 / 8]
    assert Teaching(labels="uniform").prior(counts).tolist() == [0.5, 0.0, 0.5]
    drawn = Teaching().draw(Teaching().prior(counts), 4000, rng.stream(0))[0]
    assert float((drawn == 0).double().mean()) == pytest.approx(7 / 8, abs=0.02)
    assert not bool((drawn == 1).any())  # what nobody holds is not rehearsed


def test_noise_is_normal_or_uniform_as_asked():
    normal, uniform = (Teaching(noise=n).sample_noise(4000, rng.stream(0)) for n in ("normal", "uniform"))
    assert float(normal.mean()) == pytest.approx(0, abs=0.02)
    assert float(normal.std()) == pytest.approx(1, abs=0.02)
    assert 0 <= float(uniform.min()) < float(uniform.max()) < 1


# Identity (d): what the terms can move.


def terms(algorithm, x, y, seed=0):
    """Gradients of the whole objective minus those of plain cross-entropy, by parameter."""
    net = Net(MLP(6, (8, 7), 4), dtype=F64)
    state = {n: t.requires_grad_() for n, t in net.initial().items()}
    drawn = {"z": numbers(20, 7, seed=1).relu(), "y": torch.arange(20) % 4, "anchors": numbers(12, 7, seed=2).relu()}
    used = {n: t for n, t in drawn.items() if (algorithm.extra if n == "anchors" else algorithm.weight)}
    grads = []
    for method in (algorithm, FedAvg()):
        loss = method.objective(net, state, x, y, Context({}, used, 1))
        grads.append(torch.autograd.grad(loss, list(state.values()), retain_graph=True))
    return {n: a - b for n, a, b in zip(state, *grads, strict=True)}, state, drawn


def test_generated_features_move_the_predictor_and_nothing_before_it():
    x, y = numbers(9, 6), torch.arange(9) % 4
    found, state, drawn = terms(FedGen(2.0, decay=0.5), x, y)
    assert all(float(g.abs().max()) == 0 for n, g in found.items() if n.startswith("body"))
    head = {n: state[n] for n in ("head.weight", "head.bias")}
    second = F.cross_entropy(F.linear(drawn["z"], *head.values()), drawn["y"])
    for n, g in zip(head, torch.autograd.grad(second, list(head.values())), strict=True):
        torch.testing.assert_close(found[n], 2.0 * 0.5 * g, rtol=1e-10, atol=1e-14)


def test_the_extra_divergence_moves_the_extractor_but_not_its_target():
    x, y = numbers(9, 6), torch.arange(9) % 4
    found, state, drawn = terms(FedGen(0.0, 3.0, decay=1.0), x, y)
    assert min(float(g.abs().max()) for n, g in found.items() if n.startswith("body")) > 1e-6
    # Written out: the target is a number, the gradient on the logits q - p.
    head = state["head.weight"], state["head.bias"]
    target = F.linear(drawn["anchors"], *head).softmax(1).view(4, 3, 4).mean(1)[y].detach()
    h = F.relu(F.linear(x, state["body.1.weight"], state["body.1.bias"]))
    h = F.relu(F.linear(h, state["body.3.weight"], state["body.3.bias"]))
    q = F.linear(h, *head).softmax(1)
    torch.testing.assert_close(found["head.weight"], 3.0 * ((q - target) / 9).T @ h, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(found["head.bias"], 3.0 * ((q - target) / 9).sum(0), rtol=1e-9, atol=1e-14)


@CASES
@given(st.integers(0, 10**6))
def test_extra_divergence_from_the_definition(seed):
    logits, y = numbers(7, 4, seed=seed), torch.arange(7) % 4
    answers = numbers(4, 7, seed=seed + 1)[:, :4]  # one draw per class
    ours = imitation(logits, y, answers)
    target = answers.softmax(1)[y]
    expected = F.kl_div(logits.log_softmax(1), target, reduction="batchmean")
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-13)
    with pytest.warns(UserWarning, match="batchmean"):
        wrong = F.kl_div(logits.log_softmax(1), target, reduction="mean")
    assert float(wrong) == pytest.approx(float(ours) / 4)  # a weight four times too small
    assert float(ours) >= -1e-13


def test_many_anchors_have_the_mean_gradient_of_single_draws():
    logits, y, answers = numbers(7, 4).requires_grad_(), torch.arange(7) % 4, numbers(12, 4, seed=1)
    together_ = torch.autograd.grad(imitation(logits, y, answers), logits)[0]
    single = [torch.autograd.grad(imitation(logits, y, answers.view(4, 3, 4)[:, i]), logits)[0] for i in range(3)]
    torch.testing.assert_close(together_, sum(single) / 3, rtol=1e-10, atol=1e-14)


def test_weights_fade_from_round_to_round():
    net, x, y = Net(MLP(6, (8, 7), 4), dtype=F64), numbers(9, 6), torch.arange(9) % 4
    own = {"z": numbers(20, 7).relu(), "y": torch.arange(20) % 4}
    plain = FedAvg().objective(net, net.initial(), x, y, Context({}))
    first, tenth = (FedGen(10.0).objective(net, net.initial(), x, y, Context({}, own, t)) - plain for t in (1, 10))
    assert float(tenth / first) == pytest.approx(0.98**9, rel=1e-10)


# The diversity term.


def test_diversity_from_the_definition():
    noise, z = numbers(5, 3), numbers(5, 4, seed=1)
    pairs = [((noise[i] - noise[j]) ** 2).mean() * (z[i] - z[j]).abs().mean() for i in range(5) for j in range(5)]
    assert float(diversity(noise, z)) == pytest.approx(math.exp(-sum(map(float, pairs)) / 25), rel=1e-12)


@CASES
@given(st.integers(0, 10**6), st.floats(1.1, 10))
def test_diversity_falls_as_features_spread(seed, factor):
    noise, z = numbers(6, 3, seed=seed), numbers(6, 4, seed=seed + 1)
    assert float(diversity(noise, torch.zeros_like(z))) == 1.0
    assert 0 < float(diversity(noise, factor * z)) < float(diversity(noise, z)) < 1
    assert float(diversity(noise, z + 7)) == pytest.approx(float(diversity(noise, z)), rel=1e-9)


def test_generated_features_spread_more_with_the_diversity_term():
    long = {"steps": 150, "batch_size": 16, "lr": 3e-3, "noise_size": 5, "hidden": 12}
    spread = {}
    for weight in (0.0, 1.0):
        fed = played(FedGen(1.0, teaching=Teaching(**long, diversity=weight)), 2)
        y = torch.arange(4).repeat_interleave(50)
        z = fed.algorithm.generate(fed, y, numbers(200, 5, seed=8))
        spread[weight] = float(z.view(4, 50, -1).var(1).mean())
    assert spread[1.0] > spread[0.0]


# The generator's training.


def by_hand(fed, heads, counts, how):
    """The generator's training of the first round, with torch's own modules and optimiser."""
    make = partial(Generator, 4, 7, how.noise_size, how.hidden, True)
    module = rng.build(make, fed.seed, "generator").double().train()
    adam = torch.optim.Adam(module.parameters(), lr=how.lr, weight_decay=how.weight_decay)
    source = rng.stream(fed.seed, "teaching", 0)
    prior = counts.sum(0) / counts.sum()
    y = torch.multinomial(prior, how.steps * how.batch_size, replacement=True, generator=source)
    noise = torch.randn(len(y), how.noise_size, generator=source, dtype=F64)
    for a, e in zip(y.split(how.batch_size), noise.split(how.batch_size), strict=True):
        z = module(torch.cat([e, F.one_hot(a, 4).double()], 1))
        mean = torch.stack([F.linear(z, w, b) for w, b in heads]).mean(0)
        loss = F.cross_entropy(mean, a) + diversity(e, z)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return module.state_dict()


def test_teaching_is_adam_on_equation_4():
    seen = []
    fed = federation(FedGen(1.0, teaching=SHORT), observers=[lambda fed, r: seen.append(r) or {}])
    fed.run(1)
    heads = [(s["head.weight"], s["head.bias"]) for s in seen[0].states]
    before = [tuple(t.clone() for t in head) for head in heads]
    counts = partition.label_counts(fed.y, [fed.split[k] for k in seen[0].clients], 4).double()
    expected = by_hand(fed, heads, counts, SHORT)
    for n, t in expected.items():
        torch.testing.assert_close(fed.memory[f"generator/{n}"], t, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(a, b) for old, new in zip(before, heads, strict=True) for a, b in zip(old, new, strict=True))


def test_adam_goes_on_from_round_to_round():
    fed = federation(FedGen(1.0, teaching=SHORT))
    fed.run(1)
    first = {n: t.clone() for n, t in fed.memory.items()}
    kept = fed.memory
    fed.run(1)
    assert (int(first["t"]), int(fed.memory["t"])) == (4, 8)
    assert same(kept, first)  # replaced, never changed in place: a checkpoint may hold the old ones
    assert gap(fed.memory, {n: t for n, t in first.items() if n.startswith("v/")}) > 0


def test_batchnorm_learns_on_the_server_and_rests_on_the_clients():
    fed = played(FedGen(1.0, teaching=SHORT), 2)
    mean = fed.memory["generator/layers.1.running_mean"].clone()
    assert float(mean.abs().max()) > 1e-3  # training mode on the server
    assert int(fed.memory["generator/layers.1.num_batches_tracked"]) == 8
    y, noise = torch.arange(6) % 4, numbers(6, 5)
    whole = fed.algorithm.generate(fed, y, noise)
    one_by_one = torch.cat([fed.algorithm.generate(fed, y[i : i + 1], noise[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(whole, one_by_one, rtol=1e-12, atol=1e-12)  # nobody depends on the rest of the batch
    assert torch.equal(fed.memory["generator/layers.1.running_mean"], mean)
    net, state = fed.algorithm.generator(fed), {n.removeprefix("generator/"): t.clone() for n, t in fed.memory.items()}
    wrong = net(state, labelled(noise, y, 4), train=True)
    assert float((wrong - whole).detach().abs().max()) > 1e-2


def test_features_behind_a_relu_are_generated_behind_a_relu():
    fed = played(FedGen(1.0, teaching=SHORT), 2)
    real = fed.net.predict(fed.state, fed.x, features=True)
    y, noise = torch.arange(200) % 4, numbers(200, 5)
    assert float(real.min()) == 0 == float(fed.algorithm.generate(fed, y, noise).min())
    wrong = played(FedGen(1.0, teaching=SHORT, positive=False), 2)
    assert float(wrong.algorithm.generate(wrong, y, noise).min()) < -0.01


def test_predictor_is_the_networks_own():
    fed = played(FedAvg(), 1)
    h = fed.net.predict(fed.state, fed.x, features=True)
    torch.testing.assert_close(FedGen().predictor(fed.net, fed.state, h), fed.net.predict(fed.state, fed.x))


# The wire.


def test_bytes_are_those_of_the_formula():
    """Down: model, generator with its statistics, prior. Up: model and label counts."""
    fed, plain = played(FedGen(1.0, teaching=SHORT), 3), played(FedAvg(), 3)
    model = sum(t.numel() for t in plain.state.values())
    generator = (9 * 12 + 12) + (12 + 12) + (12 * 7 + 7)
    statistics = 8 * (12 + 12) + 8  # mean, variance, and an integer counter
    assert plain.ledger.down == plain.ledger.up == [3 * 8 * model] * 3
    assert fed.ledger.up == [3 * 8 * (model + 4)] * 3
    assert fed.ledger.down == [3 * 8 * model] + [3 * (8 * (model + generator + 4) + statistics)] * 2
    assert fed.state.keys() == plain.state.keys()  # counts do not leak into the server's model


def test_generator_of_the_paper_has_19744_parameters():
    assert sum(p.numel() for p in Generator().parameters()) == 19_744


@pytest.mark.parametrize("method", [FedGen, FedAvg])
def test_sharing_only_the_predictor(method):
    algorithm = FedGen(1.0, teaching=SHORT, personal=("body.*",)) if method is FedGen else FedAvg()
    algorithm.personal = ("body.*",)
    fed = federation(algorithm)
    start, rounds = {n: t.clone() for n, t in fed.state.items()}, []
    fed.observers.append(lambda fed, r: rounds.append((r.clients, {k: fed.own[k] for k in fed.own})) or {})
    fed.run(4)
    predictor = 8 * (4 * 7 + 4)
    assert fed.ledger.up == [3 * (predictor + (8 * 4 if method is FedGen else 0))] * 4
    assert all(torch.equal(fed.state[n], start[n]) for n in start if n.startswith("body"))
    assert not torch.equal(fed.state["head.weight"], start["head.weight"])
    for (_, before), (clients, after) in pairwise(rounds):
        for k in before.keys() - set(clients):
            assert same(before[k], after[k])  # what an absent client keeps outlives the round
    assert payload_bytes(fed.own[rounds[0][0][0]]) == 8 * (6 * 8 + 8 + 8 * 7 + 7)


# In the engine.


@pytest.mark.parametrize("method", [{"weight": 2.0}, {"weight": 1.0, "extra": 1.0}], ids=["equations", "extra"])
def test_executors_agree(method):
    a, b = (played(FedGen(**method, teaching=SHORT), 4, executor=e) for e in ("sequential", "batched"))
    assert gap(a.state, b.state) < 1e-10
    assert gap(a.memory, b.memory) < 1e-10


@pytest.mark.parametrize("teacher", ["logits", "weighted", "broadcast"])
def test_seeds_side_by_side_are_seeds_alone(teacher):
    how = Teaching(steps=4, batch_size=8, noise_size=5, hidden=12, teacher=teacher)
    shared = FedGen(1.0, 1.0, teaching=how)
    both = [federation(shared, seed=s) for s in (3, 4)]
    together(both, 3)
    for fed in both:
        alone = played(FedGen(1.0, 1.0, teaching=how), 3, seed=fed.seed)
        assert gap(fed.state, alone.state) < 1e-10
        assert gap(fed.memory, alone.memory) < 1e-10


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="weight must be a finite number >= 0, got -1"):
        FedGen(-1)
    with pytest.raises(ValueError, match="teacher must be one of logits, weighted, broadcast, got 'mean'"):
        Teaching(teacher="mean")
    with pytest.raises(ValueError, match="linear layer named head, and shared"):
        federation(FedGen(personal=("head.*",)))
    with pytest.raises(ArithmeticError, match="the generator diverged"):
        played(FedGen(teaching=Teaching(lr=1e200, diversity=0.0)), 3)
