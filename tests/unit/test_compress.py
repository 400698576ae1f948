"""Gradient dropping against numpy, topk and its conservation laws; and the traps of the method, each shown to fail."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from fedlib import rng
from fedlib.compress import GradientDropping, drop, sparse_bytes, threshold
from fedlib.optim import SGD, AdaGrad, clip_norm

EASY = settings(deadline=None, max_examples=30)
RATES = st.floats(0, 0.999)
SHAPES = {"weight": (6, 5), "bias": (6,), "head": (3, 6)}


def normal(*shape, key=0):
    return torch.randn(*shape, generator=rng.stream("test compress", key), dtype=torch.float64)


def gradient(key, shapes=SHAPES, scale=()):
    """A dictionary of tensors of different sizes; `scale` multiplies the tensors named in it."""
    return {n: normal(*s, key=f"{key}/{n}") * dict(scale).get(n, 1.0) for n, s in shapes.items()}


def joined(tensors):
    return torch.cat([t.flatten() for t in tensors.values()])


# The threshold


@EASY
@given(st.integers(1, 400), RATES, st.integers(0, 50))
def test_threshold_is_the_order_statistic_of_numpy(d, rate, key):
    magnitude = normal(3, d, key=key).abs()
    k = int(np.floor(rate * d))
    expected = np.sort(magnitude.numpy(), axis=-1)[:, k - 1 : k] if k else np.full((3, 1), -1.0)
    np.testing.assert_array_equal(threshold(magnitude, rate).numpy(), expected)


@EASY
@given(st.integers(2, 300), st.integers(1, 300), RATES)
def test_sampled_threshold_looks_at_even_strides(d, sample, rate):
    magnitude = normal(d, key=d).abs()
    stride = int(np.ceil(d / sample)) if sample < d else 1
    seen = np.sort(magnitude.numpy()[::stride])
    assert len(seen) <= max(sample, 1) or sample >= d
    k = int(rate * len(seen))
    assert threshold(magnitude, rate, sample).item() == (seen[k - 1] if k else -1.0)


def test_sampled_threshold_sends_about_the_share_that_was_asked_for():
    update = normal(8, 100_000)
    for rate in (0.9, 0.99):
        sent, _ = drop(update, rate, sample=10_000)
        shares = sent.count_nonzero(-1) / 100_000
        assert shares.mean().item() == pytest.approx(1 - rate, rel=0.1)
        assert shares.unique().numel() > 1, "a sample cannot meet the share exactly every time"
        exact, _ = drop(update, rate)
        assert (exact.count_nonzero(-1) == 100_000 - int(rate * 100_000)).all()


def test_a_sample_that_strides_by_the_row_length_sees_one_column():
    """The danger of even strides: a matrix [64, 32] read every 32nd entry shows only its first column."""
    update = torch.ones(64, 32, dtype=torch.float64)
    update[:, 0] = 1e-6
    assert threshold(update.flatten(), 0.9, sample=64).item() == 1e-6
    assert threshold(update.flatten(), 0.9).item() == 1.0


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_rate_outside_its_range_is_refused(rate):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        drop(normal(10), rate)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        GradientDropping(rate)


def test_unknown_scope_is_refused():
    with pytest.raises(ValueError, match="'global' or 'local', got 'layer'"):
        GradientDropping(0.9, "layer")


# What is sent and what is kept


@EASY
@given(st.integers(1, 300), RATES, st.integers(0, 50), st.sampled_from([torch.float64, torch.float32]))
def test_nothing_is_lost(d, rate, key, dtype):
    update = normal(2, d, key=key).to(dtype)
    sent, left = drop(update, rate)
    assert torch.equal(sent + left, update)  # to the bit: every entry is in one of the two, untouched
    assert not (sent.bool() & left.bool()).any()
    smallest_sent = torch.where(sent.bool(), sent.abs(), torch.inf).amin(-1)
    assert (smallest_sent > left.abs().amax(-1)).all()


def test_leading_dimensions_are_independent_messages():
    update = normal(4, 3, 50) * torch.tensor([1.0, 1e3, 1e-3], dtype=torch.float64)[:, None]
    sent, left = drop(update, 0.9)
    for i in range(4):
        for j in range(3):
            one = drop(update[i, j], 0.9)
            assert torch.equal(sent[i, j], one[0])
            assert torch.equal(left[i, j], one[1])
    assert (sent.count_nonzero(-1) == 5).all()


def test_ties_at_the_threshold_are_dropped():
    update = torch.tensor([3.0, -1.0, 1.0, 1.0, -2.0])
    sent, left = drop(update, 0.4)  # the second smallest magnitude is 1: all three ones go
    assert sent.tolist() == [3.0, 0.0, 0.0, 0.0, -2.0]
    assert left.tolist() == [0.0, -1.0, 1.0, 1.0, 0.0]
    assert drop(torch.ones(10), 0.5)[0].count_nonzero() == 0, "all equal: strictly above means nobody"


def test_greater_or_equal_sends_far_too_much_on_ties():
    """The trap: with >= a tie at the threshold lets everybody through, and with constant pixels ties are common."""
    update = torch.cat([torch.ones(90), torch.full((10,), 2.0)])
    cut = threshold(update.abs(), 0.5)
    assert (update.abs() >= cut).sum() == 100
    assert drop(update, 0.5)[0].count_nonzero() == 10


def test_exact_zeros_can_make_the_threshold_zero():
    """Dead units: with 95 zeros of 100, dropping 90 % has threshold 0 and sends all that is not zero, no more."""
    update = torch.zeros(100, dtype=torch.float64)
    update[::20] = normal(5)
    assert threshold(update.abs(), 0.9).item() == 0.0
    sent, left = drop(update, 0.9)
    assert torch.equal(sent, update)
    assert not left.any()
    assert sparse_bytes(sent) == 5 * 8


def test_non_finite_entries_do_not_hide():
    update = normal(100)
    update[7] = float("inf")
    assert drop(update, 0.9)[0][7] == float("inf")


# One worker over time


@EASY
@given(RATES, st.sampled_from(["global", "local"]), st.integers(0, 20))
def test_what_is_sent_and_kept_is_what_came_in(rate, scope, key):
    dropper, before = GradientDropping(rate, scope), {n: torch.zeros(s, dtype=torch.float64) for n, s in SHAPES.items()}
    for t in range(4):
        g = gradient(f"{key}/{t}")
        sent = dropper(g)
        for n in SHAPES:
            assert torch.equal(sent[n] + dropper.residual[n], g[n] + before[n])
        before = {n: r.clone() for n, r in dropper.residual.items()}


@EASY
@given(RATES, st.sampled_from(["global", "local"]), st.integers(1, 12))
def test_sums_telescope(rate, scope, steps):
    dropper = GradientDropping(rate, scope)
    came = {n: torch.zeros(s, dtype=torch.float64) for n, s in SHAPES.items()}
    went = {n: torch.zeros(s, dtype=torch.float64) for n, s in SHAPES.items()}
    for t in range(steps):
        g = gradient(t)
        sent = dropper(g)
        came, went = ({n: a[n] + b[n] for n in SHAPES} for a, b in ((came, g), (went, sent)))
    for n in SHAPES:
        torch.testing.assert_close(went[n], came[n] - dropper.residual[n], rtol=0, atol=1e-12)


def test_the_gradients_given_are_left_alone():
    g = gradient("kept")
    copy = {n: v.clone() for n, v in g.items()}
    dropper = GradientDropping(0.5)
    sent = dropper(g)
    for v in sent.values():
        v.add_(1.0)
    dropper(g)
    for n in g:
        assert torch.equal(g[n], copy[n])


def quadratic(dropping, steps=60, rule=None, start=None, workers=1):
    """Minimise ||w - target||^2 / 2 by synchronous workers that see noisy targets; returns the weights."""
    rule, memory = rule or SGD(0.1), {}
    w = {n: torch.zeros(s, dtype=torch.float64) for n, s in SHAPES.items()} if start is None else start
    target = gradient("target")
    for t in range(steps):
        sent = []
        for n in range(workers):
            g = {k: w[k] - target[k] + 0.1 * normal(*w[k].shape, key=f"noise {t} {n} {k}") for k in w}
            sent.append(dropping[n](g) if dropping else g)
        rule.step(w, {k: torch.stack([s[k] for s in sent]).mean(0) for k in w}, memory)
    return w


@pytest.mark.parametrize("rule", [SGD(0.1), SGD(0.1, momentum=0.9), AdaGrad(0.1)])
@pytest.mark.parametrize("scope", ["global", "local"])
def test_rate_zero_is_dense_bit_for_bit(rule, scope):
    droppers = [GradientDropping(0.0, scope) for _ in range(3)]
    dropped, dense = quadratic(droppers, rule=rule, workers=3), quadratic(None, rule=rule, workers=3)
    for n in SHAPES:
        assert torch.equal(dropped[n], dense[n])
    assert all(not r.any() for d in droppers for r in d.residual.values())


def test_local_and_global_thresholds_against_topk():
    g = gradient("scope", scale={"weight": 1e-3, "bias": 1.0, "head": 10.0}.items())
    everywhere, each = GradientDropping(0.8, "global")(g), GradientDropping(0.8, "local")(g)
    flat = joined(g)
    largest = flat.abs().topk(len(flat) - int(0.8 * len(flat))).indices
    assert torch.equal(joined(everywhere), torch.zeros_like(flat).index_copy_(0, largest, flat[largest]))
    for n, v in g.items():
        k = v.numel() - int(0.8 * v.numel())
        cut = np.sort(v.abs().flatten().numpy())[-k]
        assert torch.equal(each[n], v * (v.abs() >= cut))
    assert not everywhere["weight"].any(), "one threshold for all starves the tensor with small gradients"
    assert each["weight"].count_nonzero() == 6


def test_scaling_one_tensor_changes_global_choices_but_not_local_ones():
    g = gradient("scaled")
    louder = g | {"head": 100 * g["head"]}
    local = [GradientDropping(0.7, "local")(v)["bias"] for v in (g, louder)]
    assert torch.equal(*local)
    anywhere = [GradientDropping(0.7, "global")(v)["weight"].count_nonzero() for v in (g, louder)]
    assert anywhere[1] < anywhere[0]


def test_a_small_constant_entry_is_sent_in_the_end():
    """Waiting time under error feedback: an entry of 0.1 beside one of 1 waits until its sum exceeds the other."""
    dropper, waits = GradientDropping(0.5), []
    for t in range(1, 40):
        if dropper({"w": torch.tensor([0.1, 1.0], dtype=torch.float64)})["w"][0] != 0:
            waits.append(t)
    assert waits
    assert waits[0] == 11  # after ten steps both are 1.0 up to rounding, after eleven the sum leads
    silent = GradientDropping(0.5, residual=False)
    assert all(silent({"w": torch.tensor([0.1, 1.0])})["w"][0] == 0 for _ in range(40))
    assert not silent.residual


# Traps


def test_workers_do_not_share_residuals():
    """The trap: one buffer for all workers mixes what they kept, and what is sent no longer sums up per worker."""
    own, shared = [GradientDropping(0.8), GradientDropping(0.8)], GradientDropping(0.8)
    first, second = gradient("one"), gradient("two")
    apart, mixed = [own[0](first), own[1](second)], [shared(first), shared(second)]
    for n in SHAPES:
        assert torch.equal(apart[1][n] + own[1].residual[n], second[n])
    assert any(not torch.equal(apart[1][n], mixed[1][n]) for n in SHAPES)
    assert any(not torch.equal(mixed[1][n] + shared.residual[n], second[n]) for n in SHAPES)


def test_without_residual_the_method_is_biased():
    """The trap of the note's formula: constant gradients, of which only the largest ever arrives."""
    constant = {"w": torch.linspace(0.1, 1.0, 10, dtype=torch.float64)}
    sums = {}
    for keeps in (True, False):
        dropper = GradientDropping(0.9, residual=keeps)
        sums[keeps] = sum(dropper(constant)["w"] for _ in range(200)) / 200
    torch.testing.assert_close(sums[True], constant["w"], rtol=0.35, atol=0.02)
    assert sums[False].count_nonzero() == 1
    assert (sums[False] - constant["w"]).norm() > 10 * (sums[True] - constant["w"]).norm()


def test_without_residual_loud_noise_drowns_a_steady_signal():
    """Minimise ||w - target||^2 / 2, half of it noisy: only error feedback ever moves the quiet half."""
    target = torch.tensor([1.0] * 10 + [0.0] * 10, dtype=torch.float64)
    found = {}
    for keeps in (True, False):
        w, dropper = torch.zeros(20, dtype=torch.float64), GradientDropping(0.5, residual=keeps)
        for t in range(600):
            noise = normal(20, key=f"noise {t}") * torch.tensor([0.01] * 10 + [30.0] * 10, dtype=torch.float64)
            w = w - 0.01 * dropper({"w": w - target + noise})["w"]
        found[keeps] = (w - target)[:10].abs().max()
    assert found[True] < 0.3
    assert found[False] > 0.5


def test_clipping_after_the_residual_loses_information():
    """The trap: clip the gradient first. Clipping gradient + residual throws part of the residual away."""
    right, kept_right = torch.zeros(54, dtype=torch.float64), GradientDropping(0.9)
    wrong, residual = torch.zeros(54, dtype=torch.float64), torch.zeros(54, dtype=torch.float64)
    came = torch.zeros(54, dtype=torch.float64)
    for t in range(50):
        clipped = clip_norm(gradient(t), 1.0)
        came += joined(clipped)
        right += joined(kept_right(clipped))
        update = clip_norm({"u": joined(gradient(t)) + residual}, 1.0)["u"]
        sent, residual = drop(update, 0.9)
        wrong += sent
    torch.testing.assert_close(right + joined(kept_right.residual), came, rtol=0, atol=1e-12)
    assert (wrong + residual - came).norm() > 0.5 * came.norm()


# Bytes


def test_bytes_with_indices_are_fifty_times_fewer():
    d = 1_000_000
    sent, _ = drop(normal(d), 0.99)
    assert sparse_bytes(sent) == 8 * 10_000
    assert 4 * d / sparse_bytes(sent).item() == pytest.approx(1 / (2 * (1 - 0.99)))  # 50, not 100


def test_bytes_with_a_bitmap_are_twenty_four_times_fewer():
    d = 1_000_000
    sent, _ = drop(normal(d), 0.99)
    assert sparse_bytes(sent, bitmap=True) == 4 * 10_000 + d // 8
    assert 4 * d / sparse_bytes(sent, bitmap=True).item() == pytest.approx(1 / (1 / 32 + 0.01))  # 24.2


@EASY
@given(st.integers(1, 500), st.integers(0, 500), st.booleans())
def test_bytes_count_entries_and_never_exceed_dense(d, kept, bitmap):
    kept = min(kept, d)
    sent = torch.zeros(d)
    sent[torch.randperm(d, generator=rng.stream(d, kept))[:kept]] = 1.0
    formula = 4 * kept + int(np.ceil(d / 8)) if bitmap else 8 * kept
    assert sparse_bytes(sent, bitmap).item() == min(formula, 4 * d)


def test_bitmap_pays_below_a_drop_rate_of_31_in_32():
    """4k + d/8 < 8k if and only if k > d / 32."""
    for kept, better in ((32, True), (30, False)):
        sent = torch.zeros(1000)
        sent[:kept] = 1.0
        assert bool(sparse_bytes(sent, bitmap=True) < sparse_bytes(sent)) is better


def test_bytes_are_counted_per_message():
    sent, _ = drop(normal(3, 4, 200), 0.9)
    assert sparse_bytes(sent).shape == (3, 4)
    assert (sparse_bytes(sent) == 20 * 8).all()


def test_a_zero_average_needs_no_bytes_down():
    """With SGD or AdaGrad the server's step is zero wherever no worker sent anything: the exact change is sparse."""
    for rule in (SGD(0.1), AdaGrad(0.1)):
        workers = [GradientDropping(0.9) for _ in range(4)]
        w = {n: normal(*s, key=n) for n, s in SHAPES.items()}
        sent = [d(gradient(i)) for i, d in enumerate(workers)]
        mean = {n: torch.stack([s[n] for s in sent]).mean(0) for n in SHAPES}
        before = joined(w).clone()
        rule.step(w, mean, {})
        change = joined(w) - before
        assert change.count_nonzero() <= sum(joined(s).count_nonzero() for s in sent)
        assert sparse_bytes(change) <= sum(sparse_bytes(joined(s)) for s in sent)
