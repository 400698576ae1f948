"""Waiting times and their censoring; what they must be for methods that are switched off; the server step's signs."""

import math
from statistics import fmean

import pytest
import torch
from federations import FLOAT, NORMABLE, Normed, federation, public, same
from hypothesis import given, settings, strategies as st

from fedlib import metrics, observe
from fedlib.algorithms import FedAvg, FedAvgM, FedDF, FedProx
from fedlib.distill import Distillation
from fedlib.executors import Context
from fedlib.federation import weighted_mean
from fedlib.targets import Wait, median, median_bounds, no_later, ratio, restricted_mean, survival, wait

CASES = settings(deadline=None, max_examples=30)
CURVES = st.lists(st.sampled_from([0.0, 0.4, 0.5, 0.6, 1.0]), min_size=1, max_size=12)
WAITS = st.builds(Wait, st.integers(1, 20), st.booleans())
UNCUT = st.lists(st.integers(1, 20), min_size=1, max_size=9)


def by_definition(curve, target, in_a_row):
    """The first t with all of t, ..., t + in_a_row - 1 at the target, the slow way."""
    for t in range(len(curve) - in_a_row + 1):
        if all(v >= target for v in curve[t : t + in_a_row]):
            return t + 1
    return None


# Rounds to target


@CASES
@given(CURVES, st.integers(1, 3))
def test_wait_from_the_definition(curve, in_a_row):
    found, expected = wait(curve, 0.5, in_a_row), by_definition(curve, 0.5, in_a_row)
    assert found.reached == (expected is not None)
    if found.reached:
        assert found.rounds == expected


@CASES
@given(CURVES)
def test_a_single_round_is_the_plain_metric(curve):
    found = wait(curve, 0.5)
    assert (found.rounds if found.reached else None) == metrics.rounds_to_target(curve, 0.5)
    assert found.reached or found.rounds == len(curve)


@CASES
@given(CURVES, CURVES, st.integers(1, 3))
def test_going_on_never_contradicts_what_a_censored_run_said(curve, more, in_a_row):
    """'More than T' stays true whatever the following rounds bring."""
    early, late = wait(curve, 0.5, in_a_row), wait(curve + more, 0.5, in_a_row)
    low, high = early.bounds
    assert low <= late.bounds[0]
    assert late.bounds[1] <= high


def test_a_row_at_the_end_may_still_begin_at_its_first_round():
    curve = [0.1, 0.2, 0.6, 0.6]
    assert wait(curve, 0.5, 3) == Wait(2, False)  # 3 is possible, so "more than 4" would be too much to say
    assert wait([*curve, 0.6], 0.5, 3) == Wait(3, True)


@CASES
@given(CURVES)
def test_three_in_a_row_are_never_earlier_than_one(curve):
    assert wait(curve, 0.5, 3).bounds[0] >= wait(curve, 0.5).bounds[0]


def test_one_lucky_round_is_enough_without_the_row():
    """A spiky curve crosses early; smoothing it by hand would hide both the spike and the rule."""
    spiky, steady = [0.1, 0.6, 0.1, 0.1, 0.6, 0.6, 0.6], [0.1, 0.3, 0.4, 0.6, 0.6, 0.6, 0.6]
    assert wait(spiky, 0.5) < wait(steady, 0.5)
    assert wait(spiky, 0.5, 3) > wait(steady, 0.5, 3)
    smooth = [fmean(spiky[max(0, t - 2) : t + 1]) for t in range(len(spiky))]
    assert wait(smooth, 0.5) not in (wait(spiky, 0.5), wait(spiky, 0.5, 3))


def test_a_row_has_at_least_one_round():
    with pytest.raises(ValueError, match="in_a_row must be a whole number of at least 1, got 0"):
        wait([1.0], 0.5, 0)


def test_a_censored_wait_says_so():
    assert (str(Wait(28, True)), str(Wait(40, False))) == ("28", "> 40")


# Ratios


@CASES
@given(UNCUT, UNCUT, st.integers(1, 20))
def test_bounds_of_a_ratio_hold_what_longer_runs_would_show(slow, fast, horizon):
    def cut(t):
        return Wait(min(t, horizon), t <= horizon)

    for a, b in zip(slow, fast, strict=False):
        low, high = ratio(cut(a), cut(b))
        assert low <= a / b <= high
        assert (low == high) == (max(a, b) <= horizon)


@CASES
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=9), st.integers(1, 20))
def test_bounds_of_the_median_hold_the_median(pairs, horizon):
    def cut(t):
        return Wait(min(t, horizon), t <= horizon)

    low, high = median_bounds(ratio(cut(a), cut(b)) for a, b in pairs)
    ratios = sorted(a / b for a, b in pairs)
    half = len(ratios) // 2
    truth = ratios[half] if len(ratios) % 2 else (ratios[half - 1] + ratios[half]) / 2
    assert low <= truth <= high


def test_no_later_is_claimed_only_when_it_is_sure():
    assert no_later(Wait(5, True), Wait(5, True))
    assert no_later(Wait(40, True), Wait(40, False))
    assert not no_later(Wait(40, False), Wait(40, False))
    assert not no_later(Wait(10, False), Wait(20, True))


def test_the_paper_s_own_speed_up():
    """Table 1, E = 40: FedAvg over FedDF, column by column (Lin et al. 2020)."""
    fedavg, feddf = (130, 312, 104, 325, 100, 312), (28, 80, 20, 39, 14, 20)
    found = [ratio(Wait(a, True), Wait(b, True))[0] for a, b in zip(fedavg, feddf, strict=True)]
    assert [round(v, 1) for v in found] == [4.6, 3.9, 5.2, 8.3, 7.1, 15.6]


# Kaplan and Meier


@CASES
@given(UNCUT)
def test_without_censoring_survival_is_the_share_above(rounds):
    waits = [Wait(t, True) for t in rounds]
    for t, share in survival(waits):
        assert share == pytest.approx(sum(r > t for r in rounds) / len(rounds), abs=1e-12)
    assert restricted_mean(waits, 50) == pytest.approx(fmean(rounds), abs=1e-9)


@CASES
@given(UNCUT, st.integers(1, 20))
def test_cut_at_one_horizon_the_restricted_mean_is_that_of_the_minimum(rounds, horizon):
    waits = [Wait(min(t, horizon), t <= horizon) for t in rounds]
    expected = fmean(min(t, horizon) for t in rounds)
    assert restricted_mean(waits, horizon) == pytest.approx(expected, abs=1e-9)


def test_survival_by_hand():
    """Six runs: three arrive at 6, one was watched to 6 only, then 7 arrives and 9 is censored (product-limit rule)."""
    waits = [Wait(6, True)] * 3 + [Wait(6, False), Wait(7, True), Wait(9, False)]
    assert survival(waits) == [(0, 1.0), (6, 0.5), (7, 0.25)]
    assert median(waits) == Wait(6, True)
    assert restricted_mean(waits, 9) == 6 + 0.5 + 0.25 * 2


@CASES
@given(st.lists(WAITS, min_size=1, max_size=9))
def test_survival_falls_and_only_arrivals_are_steps(waits):
    steps = survival(waits)
    assert [t for t, _ in steps[1:]] == sorted({w.rounds for w in waits if w.reached})
    shares = [s for _, s in steps]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] >= -1e-12


def test_median_is_censored_when_most_never_arrive():
    assert median([Wait(3, True), Wait(40, False), Wait(40, False)]) == Wait(40, False)


# Traps


def test_dropping_censored_runs_makes_the_slow_method_look_fast():
    steady = [Wait(t, True) for t in (20, 21, 22)]
    lottery = [Wait(10, True), Wait(40, False), Wait(40, False)]  # arrives once in three
    dropped = {name: fmean(w.rounds for w in waits if w.reached) for name, waits in (("a", steady), ("b", lottery))}
    assert dropped["b"] < dropped["a"]
    assert restricted_mean(lottery, 40) > restricted_mean(steady, 40)
    assert median(lottery).bounds[0] > median(steady).bounds[0]


def test_writing_the_horizon_as_if_reached_hides_a_speed_up():
    taken_as_reached = ratio(Wait(40, True), Wait(8, True))
    low, high = ratio(Wait(40, False), Wait(8, True))
    assert taken_as_reached[1] < low  # what is known is more than 5
    assert high == math.inf


def test_nobody_knows_the_mean_beyond_the_last_censored_run():
    with pytest.raises(ValueError, match="no run was watched beyond round 10: horizon 40 is too far"):
        restricted_mean([Wait(5, True), Wait(10, False)], 40)


@pytest.mark.parametrize("summary", [median, median_bounds, lambda none: restricted_mean(none, 1)])
def test_a_summary_of_nothing_is_an_error(summary):
    with pytest.raises(ValueError, match="at least one"):
        summary([])


# The methods of the grid


OFF = {
    "FedProx, mu = 0": lambda: FedProx(0.0),
    "FedAvgM, beta = 0": lambda: FedAvgM(0.0),
    "FedDF, N = 0": lambda: FedDF(public(), Distillation(steps=0)),
}


@pytest.mark.parametrize("executor", ["sequential", "batched"])
@pytest.mark.parametrize("model", [None, Normed], ids=["plain", "batchnorm"])
@pytest.mark.parametrize("off", OFF)
def test_switched_off_every_method_waits_as_long_as_fedavg(off, model, executor):
    options = {"executor": executor} | ({"model": model, "sizes": NORMABLE} if model else {})
    feds = [federation(make(), **options) for make in (FedAvg, OFF[off])]
    for fed in feds:
        fed.observers = [observe.server_accuracy(fed.x, fed.y)]
        fed.run(4)
    plain, other = feds
    same(plain.state, other.state)  # bit for bit
    curves = [[row["accuracy"] for row in fed.history] for fed in feds]
    assert wait(curves[0], 0.5) == wait(curves[1], 0.5)


def test_with_everybody_the_sample_is_the_same_in_every_round_and_for_every_seed():
    everyone = {tuple(federation(participation=1.0, seed=s).sample(t)) for s in range(3) for t in range(5)}
    assert everyone == {tuple(range(6))}
    assert len({tuple(federation(participation=0.5).sample(t)) for t in range(20)}) > 1


def test_methods_of_one_seed_see_the_same_clients():
    draws = {tuple(tuple(federation(make(), seed=7).sample(t)) for t in range(6)) for make in (FedAvg, *OFF.values())}
    assert len(draws) == 1


def momentum_by_hand(start, uploads, weights, beta, sign):
    """Server momentum written out: velocity of sign * (sent - averaged), subtracted."""
    model, velocity = start, dict.fromkeys(start, 0.0)
    for some in uploads:
        mean = weighted_mean(some, weights)
        velocity = {n: beta * velocity[n] + sign * (model[n] - mean[n]) for n in model}
        model = {n: model[n] - velocity[n] for n in model}
    return model


def pulled(start, goal, by=0.5):
    """Uploads of clients that go half of the way to a common goal."""
    return [{n: t + by * (goal[n] - t) for n, t in start.items()} for _ in range(2)]


def test_server_momentum_moves_towards_the_clients_and_the_wrong_sign_away():
    """The paper's appendix takes updated minus sent and subtracts it; its code takes sent minus updated."""
    weights = torch.tensor([0.5, 0.5], dtype=FLOAT)
    fed = federation(FedAvgM(0.3))
    start, first = fed.state, fed.net.initial()
    goal = {n: t + 1.0 for n, t in first.items()}
    rounds = []
    for _ in range(4):
        rounds.append(pulled(fed.state, goal))
        fed.aggregate(rounds[-1], weights)
    same(fed.state, momentum_by_hand(start, rounds, weights, 0.3, 1.0), 1e-12)

    def gap(state):
        return max(float((state[n] - goal[n]).abs().max()) for n in goal)

    assert gap(fed.state) < 0.5 * gap(start)
    wrong, velocity = start, dict.fromkeys(start, 0.0)
    for _ in range(4):
        mean = weighted_mean(pulled(wrong, goal), weights)
        velocity = {n: 0.3 * velocity[n] + (mean[n] - wrong[n]) for n in wrong}
        wrong = {n: wrong[n] - velocity[n] for n in wrong}
    assert gap(wrong) > 2 * gap(start)


def test_batchnorm_statistics_get_no_momentum():
    options = {"model": Normed, "sizes": NORMABLE, "participation": 1.0}
    fed = federation(FedAvgM(0.9), **options)
    seen = []
    fed.observers = [lambda fed, round_: seen.append(round_.uploads) or {}]
    fed.run(3)
    sizes = torch.tensor([len(part) for part in fed.split], dtype=FLOAT)
    mean = weighted_mean(seen[-1], sizes / sizes.sum())
    for n in fed.net.buffers:
        assert torch.equal(fed.state[n], mean[n])
        assert n not in fed.memory
    assert any(not torch.equal(fed.state[n], mean[n]) for n in fed.net.parameters)


def test_the_proximal_term_pulls_to_the_received_model():
    """It adds mu (w - w_received) to the gradient: squared, halved, and anchored where this round began."""
    fed = federation(FedProx(0.3))
    received, first = {n: t + 0.2 for n, t in fed.state.items()}, fed.net.initial()
    leaves = {n: (t + 0.7).requires_grad_() for n, t in first.items()}
    x, y = fed.x[:9], fed.y[:9]
    grads = [
        torch.autograd.grad(make.objective(fed.net, leaves, x, y, Context(received)), list(leaves.values()))
        for make in (FedProx(0.3), FedAvg())
    ]
    for n, prox, plain in zip(leaves, *grads, strict=True):
        pull = (prox - plain) / 0.3
        torch.testing.assert_close(pull, (leaves[n] - received[n]).detach(), rtol=0, atol=1e-12)
        assert float((pull - (leaves[n] - first[n])).detach().abs().max()) > 0.1  # not to where training once began


def test_bytes_of_a_round_are_two_models_for_each_sampled_client():
    counts = {"plain": federation(FedAvg()), "FedDF": federation(FedDF(public(), Distillation(steps=2)))}
    for fed in counts.values():
        row = fed.run(1)[-1]
        numbers = sum(t.numel() for t in fed.state.values())
        assert row["up"] + row["down"] == 2 * 4 * 8 * numbers  # 4 of 6 clients, 8 bytes a number in float64


def test_nobody_waits_for_what_is_no_number():
    """A NaN is below every target: a run that broke down looked like one that had not arrived yet."""
    for bad in (math.nan, math.inf):
        with pytest.raises(ArithmeticError, match=r"NaN or infinite in rounds \[2\]"):
            wait([0.1, bad, 0.9], 0.5)
        with pytest.raises(ValueError, match="target must be a finite number"):
            wait([0.1], bad)
    with pytest.raises(ValueError, match="in_a_row must be a whole number"):
        wait([0.1], 0.5, 1.5)
    with pytest.raises(ValueError, match=r"bounds must be \(smallest, largest\), got \(nan, 1\)"):
        median_bounds([(0, 1), (math.nan, 1)])
    with pytest.raises(ValueError, match="at least one"):
        survival([])
    with pytest.raises(ValueError, match="horizon must be a finite number >= 0"):
        restricted_mean([Wait(3, True)], -1)


@pytest.mark.parametrize("runs", range(2, 60, 2))
def test_half_of_the_runs_are_half_whatever_products_round_to(runs):
    """23/24 * 22/23 * ... * 12/13 came to a little more than one half, and the median a round late."""
    assert median([Wait(t, True) for t in range(1, runs + 1)]) == Wait(runs // 2, True)
