"""Every metric against an independent derivation: counting loops, closed forms, limits and invariances."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from fedlib import metrics, require

CASES = settings(deadline=None, max_examples=30)


def draw(seed, samples=40, classes=4):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(samples, classes, generator=g, dtype=torch.float64)
    return z, torch.randint(classes, (samples,), generator=g), g


@CASES
@given(st.integers(0, 10**6))
def test_accuracy_counts_hits(seed):
    z, y, _ = draw(seed)
    hits = sum(max(range(4), key=lambda c: row[c]) == label for row, label in zip(z.tolist(), y.tolist(), strict=True))
    assert metrics.accuracy(z, y) == pytest.approx(hits / len(y), abs=1e-15)


@CASES
@given(st.integers(0, 10**6))
def test_class_accuracy_is_accuracy_within_a_class(seed):
    z, y, _ = draw(seed, samples=80)
    found = metrics.class_accuracy(z, y)
    assert found.dtype == torch.float64
    for c in range(4):
        assert float(found[c]) == pytest.approx(metrics.accuracy(z[y == c], y[y == c]))
    share = torch.bincount(y, minlength=4) / len(y)
    assert float((share * found).sum()) == pytest.approx(metrics.accuracy(z, y), abs=1e-6)


def test_a_class_without_samples_has_no_accuracy():
    found = metrics.class_accuracy(torch.eye(3, dtype=torch.float64), torch.tensor([0, 1, 1]))
    assert found[:2].tolist() == [1.0, 0.5]
    assert math.isnan(found[2])


@CASES
@given(st.integers(0, 10**6), st.integers(2, 7))
def test_local_accuracies_from_the_definition(seed, classes):
    g = torch.Generator().manual_seed(seed)
    a, p = torch.rand(2, classes, generator=g, dtype=torch.float64)
    p = p / p.sum()
    inside, outside = metrics.local_accuracies(a, p)
    assert inside == pytest.approx(sum(float(p[c]) * float(a[c]) for c in range(classes)))
    assert outside == pytest.approx(sum((1 - float(p[c])) / (classes - 1) * float(a[c]) for c in range(classes)))
    # Both are averages: in-local and out-local weights mix to the plain mean over classes.
    assert (inside + (classes - 1) * outside) / classes == pytest.approx(float(a.mean()))


def test_local_accuracies_of_one_class_and_of_all():
    a = torch.tensor([1.0, 0.4, 0.2], dtype=torch.float64)
    assert metrics.local_accuracies(a, torch.tensor([1.0, 0.0, 0.0])) == pytest.approx((1.0, 0.3))
    assert metrics.local_accuracies(a, torch.full((3,), 1 / 3)) == pytest.approx((float(a.mean()),) * 2)


@CASES
@given(st.integers(0, 10**6), st.integers(2, 9))
def test_forgetting_from_the_definition(seed, rounds):
    a = torch.rand(rounds, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    table = a.tolist()
    lost = [max(table[t][c] - table[-1][c] for t in range(rounds - 1)) for c in range(5)]
    assert metrics.forgetting(a) == pytest.approx(sum(lost) / 5, abs=1e-14)


def test_forgetting_of_curves_that_only_rise_is_the_last_gain_negative():
    rising = torch.linspace(0, 0.9, 10, dtype=torch.float64)[:, None].expand(-1, 3)
    assert metrics.forgetting(rising) == pytest.approx(-0.1)
    with_a_peak = rising.clone()
    with_a_peak[4] = 1.0
    assert metrics.forgetting(with_a_peak) == pytest.approx(0.1)  # the best round counts, however early
    assert metrics.forgetting(with_a_peak) > metrics.forgetting(rising[-3:])  # so it can only grow with the rounds seen


@pytest.mark.parametrize("shape", [(1, 3), (3,)])
def test_forgetting_needs_two_rounds(shape):
    with pytest.raises(ValueError, match=r"needs \[T, C\] with T >= 2"):
        metrics.forgetting(torch.zeros(shape))


def test_agreement_counts_equal_predictions():
    a = torch.tensor([[2.0, 1.0], [0.0, 1.0], [5.0, 4.0], [0.0, 9.0]])
    b = torch.tensor([[9.0, 1.0], [3.0, 1.0], [0.1, 0.0], [0.0, 1.0]])
    assert metrics.agreement(a, b) == 0.75
    assert metrics.agreement(a, a + torch.randn(4, 1)) == 1.0  # a shift per sample moves no prediction


@CASES
@given(st.integers(0, 10**6))
def test_predictive_kl_is_the_mean_divergence(seed):
    p, _, g = draw(seed)
    q = torch.randn(p.shape, generator=g, dtype=torch.float64)
    torch_says = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=q)
    ).mean()
    assert metrics.predictive_kl(p, q) == pytest.approx(float(torch_says), abs=1e-12)
    assert metrics.predictive_kl(p, p + 3.0) == pytest.approx(0, abs=1e-14)
    assert metrics.predictive_kl(p, q) != pytest.approx(metrics.predictive_kl(q, p), abs=1e-6)


def test_weight_divergence_is_relative_and_leaves_counters_out():
    reference = {"w": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0]), "batches": torch.tensor(7)}
    moved = {"w": torch.tensor([3.0, 6.0]), "b": torch.tensor([12.0]), "batches": torch.tensor(99)}
    assert metrics.weight_divergence(moved, reference) == pytest.approx(2.0)  # sqrt(36 + 64) / 5
    scaled = [{n: 10 * t for n, t in s.items()} for s in (moved, reference)]
    assert metrics.weight_divergence(*scaled) == pytest.approx(2.0)
    assert metrics.weight_divergence(reference, reference) == 0


@CASES
@given(st.integers(0, 10**6), st.integers(2, 5))
def test_mean_pairwise_cosine_over_pairs(seed, m):
    g = torch.Generator().manual_seed(seed)
    updates = [{"a": torch.randn(2, 3, generator=g), "b": torch.randn(4, generator=g)} for _ in range(m)]
    flat = [torch.cat([u["a"].flatten(), u["b"]]).double().tolist() for u in updates]
    cosines = [
        sum(a * b for a, b in zip(flat[i], flat[j], strict=True)) / (math.hypot(*flat[i]) * math.hypot(*flat[j]))
        for i in range(m)
        for j in range(i)
    ]
    assert metrics.mean_pairwise_cosine(updates) == pytest.approx(sum(cosines) / len(cosines), abs=1e-12)
    lengths = [{n: (i + 1) * t for n, t in u.items()} for i, u in enumerate(updates)]
    assert metrics.mean_pairwise_cosine(lengths) == pytest.approx(metrics.mean_pairwise_cosine(updates), abs=1e-6)


def test_a_pair_needs_two():
    with pytest.raises(ValueError, match="a pair needs two updates, got 1"):
        metrics.mean_pairwise_cosine([{"a": torch.ones(2)}])


def test_rounds_to_target():
    assert metrics.rounds_to_target([0.1, 0.5, 0.4, 0.9], 0.5) == 2  # the first time, though it falls back
    assert metrics.rounds_to_target([0.1, 0.5], 0.1) == 1
    assert metrics.rounds_to_target([0.1, 0.5], 0.51) is None
    assert metrics.rounds_to_target([], 0.5) is None


@pytest.mark.parametrize(("held", "distance"), [(10, 0.0), (2, 1.6), (1, 1.8)])
def test_label_emd_of_equal_classes(held, distance):
    everyone = torch.arange(1000) % 10
    client = everyone[everyone < held]
    assert metrics.label_emd(client, everyone) == pytest.approx(distance)
    assert metrics.label_emd(client + (10 - held), everyone) == pytest.approx(distance)  # whichever classes these are


@CASES
@given(st.integers(0, 10**6))
def test_label_emd_is_a_sum_of_absolute_differences(seed):
    g = torch.Generator().manual_seed(seed)
    a, b = torch.randint(6, (30,), generator=g).tolist(), torch.randint(6, (50,), generator=g).tolist()
    expected = sum(abs(a.count(c) / 30 - b.count(c) / 50) for c in range(6))
    found = metrics.label_emd(torch.tensor(a), torch.tensor(b))
    assert found == pytest.approx(expected)
    assert 0 <= found <= 2


@CASES
@given(st.integers(0, 10**6))
def test_linear_cka_against_centred_gram_matrices(seed):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(30, 4, generator=g, dtype=torch.float64), torch.randn(30, 6, generator=g, dtype=torch.float64)
    centre = torch.eye(30, dtype=torch.float64) - 1 / 30
    k, m = (centre @ v @ v.T @ centre for v in (x, y))
    assert metrics.linear_cka(x, y) == pytest.approx(float((k * m).sum() / (k.norm() * m.norm())), abs=1e-12)


@CASES
@given(st.integers(0, 10**6))
def test_linear_cka_invariances(seed):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(25, 5, generator=g, dtype=torch.float64), torch.randn(25, 3, generator=g, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=g, dtype=torch.float64))[0]
    value = metrics.linear_cka(x, y)
    assert 0 <= value <= 1
    assert metrics.linear_cka(y, x) == pytest.approx(value)
    assert metrics.linear_cka(3 * x @ turn + 2.0, -0.1 * y) == pytest.approx(value)
    assert metrics.linear_cka(x, x @ turn - 7) == pytest.approx(1.0)
    stretched = x * torch.tensor([100.0, 1, 1, 1, 1], dtype=torch.float64)
    assert metrics.linear_cka(x, stretched) < 0.9  # not invariant to a general linear map, unlike CCA


# --- nonsense ---------------------------------------------------------------------------------------

Z = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
T = torch.tensor([0, 1])
NAN, INF = float("nan"), float("inf")
NOT_FINITE = {
    "accuracy": lambda bad: metrics.accuracy(Z * bad, T),
    "class_accuracy": lambda bad: metrics.class_accuracy(Z * bad, T),
    "agreement": lambda bad: metrics.agreement(Z, Z * bad),
    "predictive_kl": lambda bad: metrics.predictive_kl(Z, Z * bad),
    "local_accuracies": lambda bad: metrics.local_accuracies(torch.tensor([0.5, bad]), torch.tensor([0.5, 0.5])),
    "local_accuracies, shares": lambda bad: metrics.local_accuracies(torch.ones(2), torch.tensor([bad, 0.5])),
    "forgetting": lambda bad: metrics.forgetting(torch.tensor([[0.5, bad], [0.5, 0.5]])),
    "weight_divergence": lambda bad: metrics.weight_divergence({"a": Z * bad}, {"a": Z}),
    "weight_divergence, reference": lambda bad: metrics.weight_divergence({"a": Z}, {"a": (Z + 1) * bad}),
    "mean_pairwise_cosine": lambda bad: metrics.mean_pairwise_cosine([{"a": Z}, {"a": Z * bad}]),
    "rounds_to_target": lambda bad: metrics.rounds_to_target([0.1, bad, 0.9], 0.5),
    "linear_cka": lambda bad: metrics.linear_cka(Z, Z * bad),
    "cka_matrix": lambda bad: metrics.cka_matrix([Z, Z * bad]),
}


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("name", NOT_FINITE)
def test_nothing_is_measured_of_what_is_no_number(name, bad):
    """argmax finds a NaN largest, at place 0: ten classes of NaN were right in a tenth of all cases."""
    with pytest.raises(require.NotFinite):
        NOT_FINITE[name](bad)


UNFIT = {
    r"one target is needed for each sample, got 1 for 2": lambda: metrics.accuracy(Z, T[:1]),
    r"target must be integers \[N\] with N >= 1, got torch.int64 \[2, 1\]": lambda: metrics.accuracy(Z, T[:, None]),
    r"target must be integers \[N\] with N >= 1, got torch.float32 \[2\]": lambda: metrics.accuracy(Z, T.float()),
    r"target must be classes 0 to 2, got 3": lambda: metrics.class_accuracy(Z, T + 2),
    r"target must be classes 0 to 2, got -1": lambda: metrics.accuracy(Z, T - 1),
    r"logits must be \[N, C\] with N, C >= 1, got \[0, 3\]": lambda: metrics.accuracy(Z[:0], T[:0]),
    r"logits must be \[N, C\] with N, C >= 1, got \[1, 2, 3\]": lambda: metrics.class_accuracy(Z[None], T),
    r"logits_a and logits_b must have one shape, got \[2, 3\] and \[1, 3\]": lambda: metrics.agreement(Z, Z[:1]),
    r"teacher_logits and student_logits must have one shape": lambda: metrics.predictive_kl(Z, Z[:, :2]),
    r"per_class and label_share must be \[C\] with C >= 2, got \[2\], \[3\]": lambda: metrics.local_accuracies(
        torch.ones(2), torch.ones(3) / 3
    ),
    r"got \[1\], \[1\]": lambda: metrics.local_accuracies(torch.ones(1), torch.ones(1)),
    r"label_share must be shares that sum to 1, got \[1.0, 1.0\]": lambda: metrics.local_accuracies(
        torch.ones(2), torch.ones(2)
    ),
    r"shares that sum to 1, got \[1.5, -0.5\]": lambda: metrics.local_accuracies(
        torch.ones(2), torch.tensor([1.5, -0.5])
    ),
    r"forgetting needs \[T, C\]": lambda: metrics.forgetting(torch.ones(3, 0)),
    r"the entries of the reference, in its shapes; not so: \['b'\]": lambda: metrics.weight_divergence(
        {"a": Z, "b": Z}, {"a": Z}
    ),
    r"in its shapes; not so: \['a'\]": lambda: metrics.weight_divergence({"a": Z[:1]}, {"a": Z}),
    r"in its shapes; not so: none": lambda: metrics.weight_divergence({}, {}),
    r"the reference is zero": lambda: metrics.weight_divergence({"a": Z}, {"a": 0 * Z}),
    r"those of number 1: \['b'\], of 0: \['a'\]": lambda: metrics.mean_pairwise_cosine([{"a": Z}, {"b": Z}]),
    r"target must be a finite number": lambda: metrics.rounds_to_target([0.1], NAN),
    r"client_labels must be integers \[N\] with N >= 1": lambda: metrics.label_emd(T[:0], T),
    r"client_labels must be classes counted from 0, got -1": lambda: metrics.label_emd(T - 1, T),
    r"all_labels must be integers": lambda: metrics.label_emd(T, T.float()),
    r"of the same N >= 2 samples, got \[\[2, 3\], \[1, 3\]\]": lambda: metrics.linear_cka(Z, Z[:1]),
    r"of the same N >= 2 samples, got \[\[1, 3\]\]": lambda: metrics.cka_matrix([Z[:1]]),
    r"of the same N >= 2 samples, got \[\]": lambda: metrics.cka_matrix([]),
}


@pytest.mark.parametrize("message", UNFIT)
def test_what_does_not_fit_is_refused_with_its_shape(message):
    with pytest.raises(ValueError, match=message):
        UNFIT[message]()


@pytest.mark.parametrize(
    "measure",
    [
        lambda: metrics.mean_pairwise_cosine([{"a": Z}, {"a": 0 * Z}]),
        lambda: metrics.linear_cka(Z, torch.ones(2, 3)),
        lambda: metrics.cka_matrix([Z, torch.ones(2, 3)]),
    ],
)
def test_what_has_no_direction_has_no_angle(measure):
    with pytest.raises(require.NotFinite):
        measure()


def test_updates_are_compared_by_name_not_by_place():
    a, b = {"x": torch.tensor([1.0]), "y": torch.tensor([0.0])}, {"y": torch.tensor([0.0]), "x": torch.tensor([1.0])}
    assert metrics.mean_pairwise_cosine([a, b]) == 1.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_metrics_take_tensors_of_several_devices():
    there = Z.cuda()
    assert metrics.accuracy(there, T) == metrics.accuracy(Z, T.cuda()) == 1.0
    assert metrics.class_accuracy(there, T).tolist()[:2] == [1.0, 1.0]
    assert metrics.agreement(there, Z) == 1.0
    assert metrics.predictive_kl(Z, there) == pytest.approx(0, abs=1e-6)
    assert metrics.weight_divergence({"a": 2 * there}, {"a": Z}) == pytest.approx(1.0)
    assert metrics.weight_divergence({"a": Z}, {"a": 2 * there}) == pytest.approx(0.5)
    assert metrics.mean_pairwise_cosine([{"a": Z}, {"a": there}]) == pytest.approx(1.0)
    assert metrics.label_emd(T.cuda(), T) == 0
    assert metrics.linear_cka(Z, there) == pytest.approx(1.0)
    assert metrics.cka_matrix([Z, there]).tolist()[0][1] == pytest.approx(1.0)
