"""Adaptation: steps on a client's own training samples, for every method alike; and what the public code gets wrong."""

import math
import re

import pytest
import torch
from federations import FLOAT, Normed, distance, federation, samples
from torch.nn import functional as F

from fedlib import adaptation, personal
from fedlib.algorithms import FedAvg, FedPer, LocalOnly, PerFedAvg
from fedlib.federation import Local

SIZES = (12, 7, 9)


def played(algorithm=None, **options):
    options = {"participation": 1.0, "sizes": SIZES, "local": Local(1, 8, 0.3)} | options
    fed = federation(algorithm, **options)
    fed.run(2)
    return fed


def judged(seed=77, n=30):
    """Test samples of three clients: 10 rows each."""
    x, y, _ = samples((n,), seed=seed)
    return x, y, list(torch.arange(n).split(n // 3))


@pytest.mark.parametrize("executor", ["sequential", "batched", "auto"])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_steps_are_those_of_gradient_descent_on_all_own_samples(executor, steps):
    fed = played(executor=executor)
    for k, found in enumerate(adaptation.adapted(fed, 0.4, steps)):
        w = {n: t.clone().requires_grad_() for n, t in fed.state.items()}
        for _ in range(steps):
            loss = F.cross_entropy(fed.net(w, fed.x[fed.split[k]]), fed.y[fed.split[k]])
            grads = torch.autograd.grad(loss, list(w.values()))
            w = {n: (t - 0.4 * g).detach().requires_grad_() for (n, t), g in zip(w.items(), grads, strict=True)}
        assert distance(found, {n: t.detach() for n, t in w.items()}) < 1e-12


def test_accuracies_are_those_of_the_adapted_models():
    fed = played()
    x, y, rows = judged()
    found = adaptation.accuracies_after(fed, 0.4, (0, 1, 3), x, y, rows)
    assert list(found) == [0, 1, 3]
    assert found[0] == personal.accuracies(fed, personal.client_models(fed), x, y, rows)
    for steps in (1, 3):
        assert found[steps] == personal.accuracies(fed, adaptation.adapted(fed, 0.4, steps), x, y, rows)


def test_every_method_takes_the_same_steps_whatever_it_trained_by():
    """Also with momentum, decay and another objective in training: from one state all end at one."""
    rough = Local(1, 8, 0.3, momentum=0.9, weight_decay=0.1)
    feds = [played(FedAvg()), played(PerFedAvg(0.5)), played(FedAvg(), local=rough)]
    states = personal.client_models(feds[0])
    ends = [adaptation.adapted(fed, 0.4, 2, states=states) for fed in feds]
    for other in ends[1:]:
        assert all(distance(a, b) < 1e-12 for a, b in zip(ends[0], other, strict=True))


@pytest.mark.parametrize("algorithm", [FedPer, LocalOnly])
def test_a_client_starts_from_what_it_holds(algorithm):
    fed = played(algorithm())
    assert adaptation.adapted(fed, 0.4, 0) == personal.client_models(fed)
    one = adaptation.adapted(fed, 0.4, 1)
    assert distance(one[0], one[1]) > 1e-3


def test_the_federation_stays_as_it_is():
    fed = played(model=Normed, sizes=(12, 8, 10))
    before = {n: t.clone() for n, t in fed.state.items()}
    adaptation.adapted(fed, 0.4, 2)
    adaptation.accuracies_after(fed, 0.4, (0, 1), *judged())
    assert all(torch.equal(before[n], fed.state[n]) for n in before)
    assert fed.round == 2


def test_a_model_that_steps_ruin_answers_at_chance_and_the_others_as_they_do():
    fed = played()
    x, y, rows = judged()
    states = personal.client_models(fed)
    states[1] = {n: 1e200 * t for n, t in states[1].items()}
    calm = adaptation.accuracies_after(fed, 0.4, (0, 1, 3), x, y, rows)
    found = adaptation.accuracies_after(fed, 0.4, (0, 1, 3), x, y, rows, states=states)
    assert [found[3][k] for k in (0, 2)] == [calm[3][k] for k in (0, 2)]
    assert found[3][1] == pytest.approx(1 / 3)
    assert adaptation.adapted(fed, 0.4, 3, states=states)[1] is None
    everything = adaptation.accuracies_after(fed, 1e300, (1, 5), x, y, rows)
    assert everything[5] == [pytest.approx(1 / 3)] * 3


def test_columns_of_the_history():
    x, y, rows = judged()
    watch = adaptation.after_steps(0.4, (0, 1), x, y, rows, by_client=True)
    fed = played(observers=[watch])
    found = adaptation.accuracies_after(fed, 0.4, (0, 1), x, y, rows)
    last = fed.history[-1]
    for steps, values in found.items():
        assert last[f"adapted_{steps}"] == pytest.approx(sum(values) / 3)
        assert last[f"adapted_{steps}_clients"] == values
        assert last[f"adapted_{steps}_sd"] == pytest.approx(torch.tensor(values, dtype=FLOAT).std().item())


def test_raw_samples_are_prepared():
    x, y, split = samples(SIZES)
    raw = played(data=(x, y, split), prepare=lambda t: t / 2)
    ready = played(data=(x / 2, y, split))
    assert all(
        distance(a, b) < 1e-12
        for a, b in zip(adaptation.adapted(raw, 0.4, 2), adaptation.adapted(ready, 0.4, 2), strict=True)
    )


# --- whose samples adapt ------------------------------------------------------------------------------------


def test_steps_on_test_samples_would_flatter():
    """As in the public code of pFedMe, whose evaluation trains on test batches: labels of noise are then learnt."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 5, generator=generator, dtype=FLOAT)
    y = torch.randint(0, 3, (60,), generator=generator)  # nothing can be known of them
    own, test = list(torch.arange(30).split(10)), list(torch.arange(30, 60).split(10))
    honest = federation(FedAvg(), data=(x, y, own), participation=1.0)
    leaking = federation(FedAvg(), data=(x, y, test), participation=1.0)

    def score(fed, own):
        values = personal.accuracies(fed, adaptation.adapted(fed, 1.0, 100), x, y, own)
        return sum(values) / 3

    assert score(honest, test) < 0.55
    assert score(leaking, test) > 0.9
    with pytest.raises(ValueError, match="client 0: test row 30 is among those that adapt"):
        adaptation.accuracies_after(leaking, 1.0, (1,), x, y, test)
    with pytest.raises(ValueError, match=re.escape("rows[0]: row 30 is no training sample of client 0")):
        adaptation.accuracies_after(honest, 1.0, (1,), x, y, test, rows=test)


@pytest.mark.parametrize("copied", [lambda t: t, torch.clone, lambda t: t.flip(0).flip(0)])
def test_copies_of_what_adapts_judge_nobody(copied):
    """Also in another tensor, among other samples and at another place; another label or another client is no copy."""
    fed, (x, y, rows) = played(), judged()
    with pytest.raises(ValueError, match=r"client 0: test row \d+ is among those that adapt"):
        adaptation.accuracies_after(fed, 0.1, (1,), copied(fed.x), copied(fed.y), fed.split)
    own, place = int(fed.split[1][3]), int(rows[1][5])
    one = x.index_copy(0, rows[1][5:6], fed.x[own : own + 1]), y.index_fill(0, rows[1][5:6], int(fed.y[own]))
    with pytest.raises(ValueError, match=f"client 1: test row {place} is among those that adapt"):
        adaptation.accuracies_after(fed, 0.1, (0,), *one, rows)
    other = y.index_fill(0, rows[1][5:6], (int(fed.y[own]) + 1) % 3)
    assert adaptation.accuracies_after(fed, 0.1, (0,), one[0], other, rows)
    assert adaptation.accuracies_after(fed, 0.1, (0,), *one, [rows[1], rows[0], rows[2]])
    few = [r[:2] for r in fed.split]
    assert adaptation.accuracies_after(fed, 0.1, (0,), *one, rows, rows=few)  # it does not adapt


def test_some_of_ones_own_rows_may_adapt():
    fed = played()
    some = [rows[:4] for rows in fed.split]
    few, all_ = adaptation.adapted(fed, 0.4, 1, rows=some), adaptation.adapted(fed, 0.4, 1)
    assert distance(few[0], all_[0]) > 1e-6
    assert adaptation.accuracies_after(fed, 0.4, (1,), *judged(), rows=some)
    with pytest.raises(ValueError, match=re.escape("rows[1]: row")):
        adaptation.adapted(fed, 0.4, 1, rows=[fed.split[0], fed.split[0], fed.split[2]])
    with pytest.raises(ValueError, match="client 2 has nothing to adapt on"):
        adaptation.adapted(fed, 0.4, 1, rows=[*some[:2], some[0][:0]])
    with pytest.raises(ValueError, match="rows: those of each of 3 clients are needed, got 2"):
        adaptation.adapted(fed, 0.4, 1, rows=some[:2])


# --- nonsense -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [-0.1, math.nan, math.inf, "1"])
def test_a_rate_is_a_number(rate):
    with pytest.raises(ValueError, match="rate must be a finite number >= 0"):
        adaptation.adapted(played(), rate, 1)


@pytest.mark.parametrize("steps", [(), (1, 0), (1, 1)])
def test_steps_ascend(steps):
    with pytest.raises(ValueError, match="steps must be ascending numbers"):
        adaptation.accuracies_after(played(), 0.1, steps, *judged())


@pytest.mark.parametrize("steps", [-1, 0.5, True])
def test_steps_are_whole(steps):
    with pytest.raises(ValueError, match="steps must be a whole number of at least 0"):
        adaptation.accuracies_after(played(), 0.1, (steps,), *judged())
    with pytest.raises(ValueError, match="steps must be a whole number of at least 0"):
        adaptation.adapted(played(), 0.1, steps)


def test_other_classes_and_missing_clients_are_named():
    fed, (x, y, rows) = played(), judged()
    with pytest.raises(ValueError, match="the network has 3 outputs, classes 0 to 2; y has 7"):
        adaptation.accuracies_after(fed, 0.1, (1,), x, y.index_fill(0, torch.tensor([4]), 7), rows)
    with pytest.raises(ValueError, match="split: test rows are needed for each of 3 clients, got 2"):
        adaptation.accuracies_after(fed, 0.1, (1,), x, y, rows[:2])
    with pytest.raises(ValueError, match="states: one for each of 3 clients is needed, got 1"):
        adaptation.adapted(fed, 0.1, 1, states=[fed.state])
    with pytest.raises(ValueError, match=r"empty ones: \[1\]"):
        adaptation.accuracies_after(fed, 0.1, (1,), x, y, [rows[0], rows[1][:0], rows[2]])


def test_an_observer_of_nonsense_is_refused_when_it_is_made():
    x, y, rows = judged()
    with pytest.raises(ValueError, match="rate must be a finite number >= 0, got -1"):
        adaptation.after_steps(-1, (0, 1), x, y, rows)
    for steps in ((), (1, 0), 1):
        with pytest.raises(ValueError, match="steps must be ascending numbers"):
            adaptation.after_steps(0.1, steps, x, y, rows)
    with pytest.raises(ValueError, match="steps must be a whole number of at least 0"):
        adaptation.after_steps(0.1, (0.5,), x, y, rows)


def test_no_samples_and_labels_that_are_missing_are_named():
    fed, (x, y, rows) = played(), judged()
    with pytest.raises(ValueError, match="one at least, are needed; got 0, 0"):
        adaptation.accuracies_after(fed, 0.1, (1,), x[:0], y[:0], [r[:0] for r in rows])
    with pytest.raises(ValueError, match="and one at least, are needed; got 30, 29"):
        adaptation.accuracies_after(fed, 0.1, (1,), x, y[:29], rows)
    with pytest.raises(ValueError, match=r"steps must be ascending numbers, such as .*; got 1"):
        adaptation.accuracies_after(fed, 0.1, 1, x, y, rows)
