"""Clipping, noise and the count of privacy, against closed forms."""

import math
import sys

import pytest
import torch
from federations import NORMABLE, Normed, everything, federation, public, same
from hypothesis import given, settings, strategies as st
from scipy.optimize import brentq
from scipy.stats import norm as normal

from fedlib import privacy
from fedlib.algorithms import FedAvg, FedDF
from fedlib.distill import Distillation
from fedlib.privacy import DPFedAvg, NoisyFedAvg, NoisyFedDF

F64 = torch.float64
CASES = settings(deadline=None, max_examples=30)
HOW = Distillation(steps=3, batch_size=6)


class Uniform(FedAvg):
    weighting = "uniform"


def update(seed, size=1.0):
    g = torch.Generator().manual_seed(seed)
    return {n: size * torch.randn(s, generator=g, dtype=F64) for n, s in {"a": (3, 2), "b": (4,)}.items()}


def flat(state):
    return torch.cat([t.flatten() for t in state.values()])


@CASES
@given(st.integers(0, 10**6), st.floats(0.01, 30), st.floats(0.1, 20))
def test_clipping_bounds_the_joint_norm_and_keeps_the_direction(seed, size, bound):
    d = update(seed, size)
    clipped = privacy.clip(d, bound)
    before, after = flat(d), flat(clipped)
    assert privacy.norm(d) == pytest.approx(float(before.norm()), rel=1e-12)
    assert float(after.norm()) <= bound * (1 + 1e-12)
    assert float(torch.nn.functional.cosine_similarity(before, after, dim=0)) == pytest.approx(1, abs=1e-12)
    if float(before.norm()) <= bound:
        same(clipped, d)  # untouched, to the bit


def test_each_tensor_for_itself_is_another_clipping():
    """The mistake: every layer clipped to S lets an update of L layers have a norm of S sqrt(L)."""
    d = update(1, 10.0)
    wrong = {n: privacy.clip({n: t}, 1.0)[n] for n, t in d.items()}
    assert privacy.norm(wrong) == pytest.approx(math.sqrt(2))
    assert privacy.norm(privacy.clip(d, 1.0)) == pytest.approx(1)
    with pytest.raises(ValueError, match="must be positive, got 0"):
        privacy.clip(d, 0.0)


@pytest.mark.parametrize(
    ("private", "plain"),
    [
        (DPFedAvg, Uniform),
        (NoisyFedAvg, Uniform),
        (lambda: NoisyFedDF(math.inf, 0.0, public(), HOW), lambda: FedDF(public(), HOW, weighting="uniform")),
    ],
    ids=["server", "client", "feddf"],
)
@pytest.mark.parametrize("executor", ["sequential", "batched"])
def test_no_bound_and_no_noise_is_the_method_itself_bit_for_bit(private, plain, executor):
    ours, theirs = (federation(make(), executor=executor) for make in (private, plain))
    ours.run(3)
    theirs.run(3)
    same(everything(ours), everything(theirs))
    assert ours.ledger == theirs.ledger  # the same numbers travel


def one_round(method, **options):
    seen = []
    fed = federation(method, observers=[lambda fed, round_: seen.append(round_) or {}], **options)
    start = fed.state
    fed.run(1)
    return fed, start, seen[0]


def test_uploads_are_clipped_updates():
    fed, start, seen = one_round(NoisyFedAvg(0.05, 0.0))
    for state, sent in zip(seen.states, seen.uploads, strict=True):
        raw, kept = ({n: s[n] - start[n] for n in start} for s in (state, sent))
        assert privacy.norm(raw) > 0.05
        assert privacy.norm(kept) == pytest.approx(0.05, rel=1e-9)
        torch.testing.assert_close(flat(kept) / 0.05, flat(raw) / privacy.norm(raw), rtol=0, atol=1e-9)
    mean = torch.stack([flat(u) for u in seen.uploads]).mean(0)
    torch.testing.assert_close(flat(fed.state), mean, rtol=0, atol=1e-12)


def test_weights_by_samples_would_break_the_sensitivity():
    """With n_k / n one client moves the average by more than S / m; the private methods insist on even weights."""
    fed = one_round(DPFedAvg(0.05), participation=1.0)[0]
    sizes = torch.tensor([len(part) for part in fed.split], dtype=F64)
    assert float((sizes / sizes.sum()).max()) > 1.5 / len(sizes)
    assert fed.algorithm.weighting == "uniform"
    assert NoisyFedDF(1.0, 0.0, public(), HOW, weighting="samples").weighting == "uniform"


def noise_of_the_average(make, seeds=60, noise=0.5, bound=0.2):
    """What noise added to the average: differences to the same round without noise, all numbers of all seeds."""
    gaps = []
    for seed in range(seeds):
        noisy, quiet = (one_round(make(bound, s), seed=seed, participation=0.6)[0] for s in (noise, 0.0))
        gaps.append(flat(noisy.state) - flat(quiet.state))
    return torch.cat(gaps), max(1, round(0.6 * noisy.clients))


def test_noise_is_calibrated_and_clients_noise_is_root_m_times_the_servers():
    server, m = noise_of_the_average(DPFedAvg)
    clients, _ = noise_of_the_average(NoisyFedAvg)
    assert m == 4
    assert float(server.std()) == pytest.approx(0.5 * 0.2 / m, rel=0.03)
    assert float(clients.std()) == pytest.approx(0.5 * 0.2 / math.sqrt(m), rel=0.03)
    assert float(clients.std() / server.std()) == pytest.approx(math.sqrt(m), rel=0.05)
    for gap, std in ((server, 0.025), (clients, 0.05)):
        assert abs(float(gap.mean())) < 4 * std / math.sqrt(len(gap))


def test_noise_follows_the_clipped_norm_not_the_updates_own():
    """The mistake: noise in proportion to each update's norm says how long the update was."""
    noisy = {b: one_round(NoisyFedAvg(b, 1.0))[2].uploads for b in (0.01, 100.0)}
    quiet = {b: one_round(NoisyFedAvg(b, 0.0))[2].uploads for b in (0.01, 100.0)}
    std = {b: float((flat(noisy[b][0]) - flat(quiet[b][0])).std()) for b in noisy}
    assert std[100.0] / std[0.01] == pytest.approx(1e4, rel=1e-6)


def test_each_client_and_round_has_noise_of_its_own():
    fed, _, seen = one_round(NoisyFedAvg(0.2, 1.0), participation=1.0)
    quiet = one_round(NoisyFedAvg(0.2, 0.0), participation=1.0)[2]
    gaps = torch.stack([flat(a) - flat(b) for a, b in zip(seen.uploads, quiet.uploads, strict=True)])
    assert float(torch.corrcoef(gaps).fill_diagonal_(0).abs().max()) < 0.6
    again = one_round(NoisyFedAvg(0.2, 1.0), participation=1.0)[0]
    same(fed.state, again.state)


def test_teachers_of_the_private_feddf_are_the_noisy_models():
    fed, _, seen = one_round(NoisyFedDF(0.2, 1.0, public(), HOW))
    raw = FedDF(public(), HOW, weighting="uniform")
    other = federation(raw)
    other.aggregate(seen.uploads, torch.full((len(seen.uploads),), 1 / len(seen.uploads), dtype=F64))
    same(fed.state, other.state)  # the server's step sees nothing else


def test_buffers_may_not_travel_unprotected():
    for method in (DPFedAvg(1.0, 0.1), NoisyFedAvg(1.0, 0.1)):
        with pytest.raises(ValueError, match=r"buffers would travel unprotected \(body\.1\.running_mean"):
            federation(method, model=Normed, sizes=NORMABLE)
        fed = federation(method, model=Normed, sizes=NORMABLE, buffers="local")
        fed.run(2)
        assert all(bool((own["body.1.running_var"] > 0).all()) for own in fed.own.values())


def test_noise_on_a_running_variance_can_make_it_negative():
    state = {"running_var": torch.full((200,), 0.1)}
    noisy = privacy.gaussian(state, ("running_var",), 0.1, torch.Generator().manual_seed(0))
    assert bool((noisy["running_var"] < 0).any())


def test_impossible_settings_are_errors():
    with pytest.raises(ValueError, match="bound > 0 and noise >= 0"):
        DPFedAvg(0.0)
    with pytest.raises(ValueError, match="bound > 0 and noise >= 0"):
        NoisyFedAvg(1.0, -1.0)
    with pytest.raises(ValueError, match="which is infinite"):
        DPFedAvg(noise=0.1)
    with pytest.raises(ValueError, match="delta must be a finite number > 0 and < 1, got"):
        privacy.epsilon(1.0, 10, 0.0)


# --- how much privacy ------------------------------------------------------------------------------


def exact_epsilon(noise, rounds, delta):
    """T Gaussian mechanisms are one with noise / sqrt(T); its exact curve (Balle and Wang 2018, theorem 8)."""
    s = noise / math.sqrt(rounds)

    def excess(e):
        return normal.cdf(0.5 / s - e * s) - math.exp(e) * normal.cdf(-0.5 / s - e * s) - delta

    return brentq(excess, 0, 500)


@pytest.mark.parametrize(("noise", "rounds"), [(1.0, 1), (1.0, 10), (5.0, 10), (4.0, 100)])
def test_the_accountant_is_safe_and_close(noise, rounds):
    counted, exact = privacy.epsilon(noise, rounds, 1e-5), exact_epsilon(noise, rounds, 1e-5)
    assert exact <= counted <= 1.2 * exact


def test_epsilon_is_monotone_and_sampling_amplifies():
    assert privacy.epsilon(1.0, 10, 1e-5) < privacy.epsilon(1.0, 20, 1e-5)
    assert privacy.epsilon(2.0, 10, 1e-5) < privacy.epsilon(1.0, 10, 1e-5) < privacy.epsilon(1.0, 10, 1e-7)
    assert privacy.epsilon(1.0, 10, 1e-5, 0.1) < 0.5 * privacy.epsilon(1.0, 10, 1e-5)
    assert privacy.epsilon(0.0, 10, 1e-5) == math.inf
    assert privacy.epsilon(1.0, 0, 1e-5) == 0


def test_a_missing_accountant_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus", None)
    monkeypatch.setitem(sys.modules, "opacus.accountants", None)
    with pytest.raises(ImportError, match=r"pip install 'fedlib\[privacy\]'"):
        privacy.epsilon(1.0, 1, 1e-5)


def test_what_is_no_number_protects_nobody():
    """noise = NaN was taken for a number: every upload was NaN, and epsilon too."""
    nan = math.nan
    with pytest.raises(ValueError, match="noise must be a finite number >= 0"):
        privacy.epsilon(nan, 1, 0.1)
    with pytest.raises(ValueError, match="rounds must be a whole number"):
        privacy.epsilon(1.0, 1.5, 0.1)
    with pytest.raises(ValueError, match="bound > 0 and noise >= 0"):
        privacy.DPFedAvg(1.0, nan)
    with pytest.raises(ValueError, match="standard deviation of the noise"):
        privacy.gaussian({"a": torch.ones(1)}, ("a",), nan, torch.Generator())
    for bad in (nan, math.inf):
        with pytest.raises(ArithmeticError, match="the update to be clipped: 1 of 2 numbers"):
            privacy.clip({"a": torch.tensor([1.0, bad])}, 1.0)
