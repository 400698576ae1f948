"""Right singular vectors, their gradient, and KD-SVD: float64, against definitions and finite differences."""

from itertools import pairwise

import pytest
import torch

from fedlib import singular
from fedlib.singular import align, clip_share, clipped_sum, correlation, decompose, kd_svd

WAYS = pytest.mark.parametrize("way", singular.WAYS)
SHAPES = pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 9, 3, 3), (2, 7, 2, 2)], ids=["tall", "square", "wide"])


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def networks(seed=0):
    """Maps of three layers of a student and of a teacher, whose first two are larger."""
    student = [maps(4, c, s, s, seed=seed + i) for i, (c, s) in enumerate([(5, 4), (6, 2), (3, 3)])]
    teacher = [maps(4, c, s, s, seed=seed + 9 + i) for i, (c, s) in enumerate([(5, 8), (6, 4), (3, 3)])]
    return student, teacher


def fixed(vectors):
    """A function of vectors that does not see their signs."""
    return (vectors * vectors.roll(1, 1)).sum(1)


@WAYS
@SHAPES
def test_vectors_and_values_are_those_of_the_definition(shape, way):
    m = maps(*shape)
    vectors, values = decompose(m, 3, way)
    flat = m.flatten(2).mT
    torch.testing.assert_close(vectors.mT @ vectors, torch.eye(3).expand(2, 3, 3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(flat.mT @ (flat @ vectors), vectors * values[:, None] ** 2, rtol=0, atol=1e-10)
    torch.testing.assert_close(values, torch.linalg.svdvals(flat)[:, :3], rtol=0, atol=1e-10)
    assert bool((values.diff(dim=1) < 0).all())  # the largest first; eigh has the least first


@WAYS
@SHAPES
@pytest.mark.parametrize("keep", [1, 3])
def test_gradient_against_finite_differences(shape, keep, way):
    m = maps(*shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: fixed(decompose(x, keep, way)[0]), m, atol=1e-6)


@SHAPES
def test_both_ways_have_one_gradient_and_it_is_torchs(shape):
    m, weight = maps(*shape), maps(2, 3, seed=5)

    def gradient(function):
        x = m.clone().requires_grad_()
        (fixed(function(x)) * weight).sum().backward()
        return x.grad

    theirs = gradient(lambda x: torch.linalg.svd(x.flatten(2).mT, full_matrices=False)[2].mT[..., :3])
    for way in singular.WAYS:
        torch.testing.assert_close(gradient(lambda x, w=way: decompose(x, 3, w)[0]), theirs, rtol=1e-7, atol=1e-9)


def test_the_gradient_needs_all_vectors_not_only_the_first_few():
    """Trap: the first released code keeps five vectors in its backward pass; a map with more channels turns towards
    the others, too.
    """
    m, g = maps(2, 8, 5, 5), maps(2, 8, 1, seed=3)
    x = m.clone().requires_grad_()
    (decompose(x, 1)[0] * g).sum().backward()
    flat = m.flatten(2).mT
    _, s, vh = torch.linalg.svd(flat, full_matrices=False)

    def backward(count):
        v, sq = vh.mT[..., :count], s[:, :count] ** 2
        k = 1 / (sq[:, :1] - sq)
        k[:, 0] = 0
        sign = torch.sign((v[..., :1] * decompose(m, 1)[0]).sum(1, keepdim=True))
        a = (v * k[:, None]) @ (v.mT @ (g * sign)) @ v[..., :1].mT
        return (flat @ (a + a.mT)).mT.view_as(m)

    torch.testing.assert_close(x.grad, backward(8), rtol=1e-8, atol=1e-10)
    assert float((x.grad - backward(5)).norm() / x.grad.norm()) > 0.1


def test_the_gradient_is_not_twice_as_large():
    """Trap: A + A^T is twice the symmetric part; the later released code multiplies it by two once more."""
    m, g = maps(2, 4, 3, 3), maps(2, 4, 1, seed=3)
    x = m.clone().requires_grad_()
    (decompose(x, 1)[0] * g).sum().backward()
    step = 1e-6 * maps(2, 4, 3, 3, seed=7)
    up, down = ((decompose(m + s, 1)[0] * g).sum() for s in (step, -step))
    assert float((up - down) / 2) == pytest.approx(float((x.grad * step).sum()), rel=1e-4)


@WAYS
def test_equal_and_vanishing_singular_values_leave_a_finite_gradient(way):
    """torch's own gradient is not finite there."""
    equal = torch.eye(4, dtype=torch.float64).view(1, 4, 2, 2).repeat(3, 1, 1, 1)
    equal[1] = 0  # a dead layer
    equal[2, 2:] = 0  # dead channels
    x = equal.clone().requires_grad_()
    decompose(x, 2, way)[0].sum().backward()
    assert bool(torch.isfinite(x.grad).all())
    y = equal.clone().requires_grad_()
    torch.linalg.svd(y.flatten(2).mT, full_matrices=False)[2].mT[..., :2].abs().sum().backward()
    assert not bool(torch.isfinite(y.grad).all())


@WAYS
@SHAPES
def test_small_maps_have_the_gradient_of_large_ones(shape, way):
    """Vectors forget the scale of M; what counts as equal values must not know it either."""
    grads = []
    for scale in (1.0, 1e-9):
        x = (scale * maps(*shape)).requires_grad_()
        fixed(decompose(x, 2, way)[0]).sum().backward()
        grads.append(scale * x.grad)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-6, atol=1e-9)


@WAYS
def test_dead_channels_do_not_disturb_the_living(way):
    m = maps(2, 4, 5, 5)
    x = torch.cat([m, torch.zeros(2, 3, 5, 5).double()], 1).requires_grad_()
    y = m.clone().requires_grad_()
    for leaf in (x, y):
        fixed(decompose(leaf, 2, way)[0][:, :4]).sum().backward()
    torch.testing.assert_close(x.grad[:, :4], y.grad, rtol=1e-8, atol=1e-10)


def test_vectors_forget_where_things_are():
    """The rows of M are places: their order changes nothing, so maps of two sizes can be compared."""
    m = maps(2, 3, 4, 4)
    moved = m.flatten(2)[..., torch.randperm(16, generator=torch.Generator().manual_seed(1))].view_as(m)
    torch.testing.assert_close(fixed(decompose(moved, 3)[0]), fixed(decompose(m, 3)[0]), rtol=0, atol=1e-12)


def test_alignment_finds_order_and_sign():
    teacher = torch.linalg.qr(maps(2, 5, 5))[0][..., :2]
    student = torch.stack([-teacher[..., 1], torch.linalg.qr(maps(2, 5, 5))[0][..., 3], teacher[..., 0]], -1)
    torch.testing.assert_close(align(student, teacher), teacher, rtol=0, atol=1e-14)
    own = maps(2, 5, 4)
    aligned = align(own, teacher)
    assert bool(((aligned * teacher).sum(1) >= 0).all())
    torch.testing.assert_close((aligned * teacher).sum(1), (own.mT @ teacher).abs().amax(1), rtol=0, atol=1e-14)


def test_correlation_from_the_definition():
    low, high = maps(2, 3, 2), maps(2, 4, 2, seed=1)
    found = correlation(low, high)
    for b, m, n, i in ((0, 0, 0, 0), (1, 2, 3, 1), (0, 1, 2, 1)):
        assert float(found[b, m, n, i]) == pytest.approx(
            float(torch.exp(-((low[b, m, i] - high[b, n, i]) ** 2) / 8)), abs=1e-15
        )
    assert found.shape == (2, 3, 4, 2)
    assert float(correlation(low, low)[0, 1, 1, 0]) == 1


def test_loss_from_the_definition_and_by_both_ways():
    student, teacher = networks()
    expected = 0.0
    for b in range(4):
        vectors = []
        for s, t in zip(student, teacher, strict=True):
            vs, vt = (torch.linalg.svd(m[b].flatten(1).T)[2].T for m in (s, t))
            best = max(range(min(4, vs.shape[1], s[b, 0].numel())), key=lambda j: abs(float(vs[:, j] @ vt[:, 0])))
            v_teacher = vt[:, 0] * torch.sign(vt[:, 0].sum())
            vectors.append((vs[:, best] * torch.sign(vs[:, best] @ v_teacher), v_teacher))
        for (a, c), (d, e) in pairwise(vectors):
            for m in range(len(a)):
                for n in range(len(d)):
                    mine, theirs = torch.exp(-((a[m] - d[n]) ** 2) / 8), torch.exp(-((c[m] - e[n]) ** 2) / 8)
                    expected += float((mine - theirs) ** 2)
    for way in singular.WAYS:
        assert float(kd_svd(student, teacher, way=way)) == pytest.approx(expected, rel=1e-9)


def test_two_vectors_are_weighted_by_the_teachers_values_on_both_sides():
    student, teacher = networks()
    total, pairs = 0.0, []
    for s, t in zip(student, teacher, strict=True):
        (vs, _), (vt, values) = decompose(s, min(5, s.shape[1], s.shape[2] ** 2)), decompose(t, 2)
        weight = (values / values.norm(dim=1, keepdim=True))[:, None]
        pairs.append((align(vs, vt) * weight, vt * weight))
    for (a, c), (d, e) in pairwise(pairs):
        total += float((correlation(a, d) - correlation(c, e)).square().sum())
    assert float(kd_svd(student, teacher, keep=2)) == pytest.approx(total, rel=1e-10)


def test_a_copy_of_the_teacher_has_no_loss():
    _, teacher = networks()
    assert float(kd_svd(teacher, teacher)) == pytest.approx(0, abs=1e-20)


def test_alignment_undoes_the_signs_of_the_student_but_not_those_of_the_teacher():
    """(a - b)^2 is not (a + b)^2: where the sign of one layer's vector flips, so do the correlations with the next.

    Trap: the student follows the teacher's sign, but what it is taught still depends on it.
    """
    a, d, c, e = (torch.nn.functional.normalize(maps(2, 6, 1, seed=s), dim=1) for s in range(4))

    def loss(student, teacher):
        low, high = (align(s, t) for s, t in zip(student, teacher, strict=True))
        return float((correlation(low, high) - correlation(*teacher)).square().sum())

    expected = loss((a, d), (c, e))
    assert loss((-a, d), (c, e)) == pytest.approx(expected, rel=1e-12)
    assert loss((a, -d), (c, e)) == pytest.approx(expected, rel=1e-12)
    assert loss((a, d), (-c, -e)) == pytest.approx(expected, rel=1e-12)  # both: only the relative sign counts
    assert loss((a, d), (-c, e)) != pytest.approx(expected, rel=1e-2)


def test_signs_are_fixed_where_the_paper_leaves_them_open():
    """The vectors of M and of -M are the same; with tossed signs a loss without alignment is another one each time."""
    student, teacher = networks()
    expected = {aligned: float(kd_svd(student, teacher, aligned=aligned)) for aligned in (True, False)}
    for way in singular.WAYS:
        for s, t in (([-m for m in student], teacher), (student, [-m for m in teacher])):
            for aligned in (True, False):
                assert float(kd_svd(s, t, way=way, aligned=aligned)) == pytest.approx(expected[aligned], rel=1e-9)
    coins = torch.Generator().manual_seed(3)
    tossed = {float(kd_svd(student, teacher, aligned=False, sides=coins)) for _ in range(4)}
    assert len(tossed) == 4


def test_opposite_sides_turn_every_second_layer_of_both_networks():
    student, teacher = networks()
    pairs = []
    for layer, (s, t) in enumerate(zip(student, teacher, strict=True)):
        v = decompose(t, 1)[0] * (-1) ** layer
        pairs.append((align(decompose(s, min(4, s.shape[1]))[0], v), v))
    expected = sum(float((correlation(a, d) - correlation(c, e)).square().sum()) for (a, c), (d, e) in pairwise(pairs))
    assert float(kd_svd(student, teacher, sides="opposite")) == pytest.approx(expected, rel=1e-10)
    assert float(kd_svd(student, teacher, sides="opposite")) != pytest.approx(float(kd_svd(student, teacher)), rel=0.01)


@pytest.mark.parametrize("sides", singular.SIDES)
@pytest.mark.parametrize("beta", [8.0, 2.0])
def test_without_alignment_the_first_vectors_are_compared_with_sides_and_beta_as_they_are_given(sides, beta):
    vectors = [
        [decompose(m, 1)[0] * (-1 if sides == "opposite" and layer % 2 else 1) for layer, m in enumerate(one)]
        for one in networks()
    ]
    mine, theirs = ([correlation(*pair, beta) for pair in pairwise(one)] for one in vectors)
    expected = sum(float((a - b).square().sum()) for a, b in zip(mine, theirs, strict=True))
    found = kd_svd(*networks(), beta=beta, aligned=False, sides=sides)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_tossed_sides_give_the_mean_of_both_to_an_aligned_student():
    """Two layers, one sample: the student follows its teacher, so a toss decides between two losses."""
    student, teacher = ([m[:1] for m in one[:2]] for one in networks())
    ends = {round(float(kd_svd(student, teacher, sides=side)), 12) for side in singular.SIDES}
    coins = torch.Generator().manual_seed(0)
    assert {round(float(kd_svd(student, teacher, sides=coins)), 12) for _ in range(20)} == ends


def waves(channels, side, phase):
    """Maps of three images that any library can make from this line."""
    k = torch.arange(3 * side * side * channels, dtype=torch.float64).view(3, side, side, channels)
    return (1.7 * k + 0.003 * k * k + phase).sin().relu().permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    ("signs", "theirs"),
    [
        ([[1, 1, 1], [-1, 1, -1], [1, 1, 1]], 0.08096862),  # their KD-SVD: the second layer of two images is turned
        ([[1, -1, 1], [1, 1, 1], [1, 1, 1]], 0.05817214),  # their KD-EID: the first layer of one image
    ],
    ids=["SVD", "EID"],
)
def test_loss_of_the_authors_code_where_the_signs_are_those_of_its_decompositions(signs, theirs, monkeypatch):
    """The losses that the authors' later code gives in float32 under TensorFlow 2.21, with the signs that its routines
    gave the teacher's first vectors there. Neither is that of a settled side: it leaves them to the routine.
    """
    shapes = ((4, 4), (6, 2), (4, 4))
    student, teacher = ([waves(c, side, i + half) for i, (c, side) in enumerate(shapes)] for half in (0, 0.5))
    for sides in singular.SIDES:
        assert float(kd_svd(student, teacher, sides=sides)) != pytest.approx(theirs, rel=0.1)
    table = torch.tensor(signs, dtype=torch.float64)
    monkeypatch.setattr(singular, "_signs", lambda vectors, sides, layer: table[layer].view(-1, 1, 1))
    assert float(kd_svd(student, teacher)) == pytest.approx(theirs, rel=1e-6)


def test_the_pull_on_a_channel_depends_on_the_sides():
    """The Hessian of the loss, where the student has learnt it, on the diagonal: (8 / beta^2) times
    D v_m^2 - 2 sigma v_m S + 1, with sigma = 1 on the same side and -1 on opposite ones, and S the sum of the next
    layer's entries. Behind a ReLU S is nearly the square root of D, and the pull on a usual channel nearly vanishes.
    """
    low, high = (decompose(maps(1, 32, 6, 6, seed=s).relu(), 1)[0] for s in (0, 1))
    pulls = []
    for sigma in (1.0, -1.0):
        taught = correlation(low, sigma * high)

        def loss(v, taught=taught, sigma=sigma):
            return (correlation(v, sigma * high) - taught).square().sum()

        found = torch.func.hessian(loss)(low).view(32, 32).diagonal()
        v = low.flatten()
        formula = (8 / 64) * (32 * v**2 - 2 * sigma * v * high.sum() + 1)
        torch.testing.assert_close(found, formula, rtol=0.05, atol=1e-3)
        pulls.append(float(found.median()))
    assert pulls[1] > 20 * pulls[0]


def test_behind_a_relu_the_first_vector_has_no_negative_entry():
    """So its sign is no question, and the student's first is the one most nearly parallel to the teacher's."""
    m, t = maps(64, 8, 4, 4).relu(), maps(64, 8, 4, 4, seed=1).relu()
    vectors, first = decompose(m, 4)[0], decompose(t, 1)[0]
    assert bool((vectors[..., 0] > -1e-12).all())
    assert bool(((vectors.mT @ first).abs().argmax(1) == 0).all())
    assert not bool((vectors[..., 1] > -1e-12).all())


def test_the_loss_is_a_sum_over_the_batch():
    student, teacher = networks()
    each = [float(kd_svd([m[i : i + 1] for m in student], [m[i : i + 1] for m in teacher])) for i in range(4)]
    assert float(kd_svd(student, teacher)) == pytest.approx(sum(each), rel=1e-10)


def test_the_gradient_of_the_loss_and_none_for_the_teacher():
    student, teacher = networks()
    leaves = [m.clone().requires_grad_() for m in student]
    assert torch.autograd.gradcheck(lambda *m: kd_svd(m, teacher, keep=2), leaves, atol=1e-6)
    marked = [m.clone().requires_grad_() for m in teacher]
    kd_svd(leaves, marked).backward()
    assert all(m.grad is None for m in marked)


def test_the_correlation_of_unit_vectors_is_nearly_flat():
    """With beta = 8 and one vector of many channels, 1 - (a - b)^2 / 8 is all there is: the loss is a squared distance
    of squared differences, 64 times smaller.
    """
    student = [maps(3, 32, s, s, seed=i) for i, s in enumerate((8, 4))]
    teacher = [maps(3, 32, s, s, seed=i + 5) for i, s in enumerate((8, 4))]
    pairs = [(align(decompose(s, 4)[0], v := decompose(t, 1)[0]), v) for s, t in zip(student, teacher, strict=True)]
    (a, c), (d, e) = pairs
    flat = ((a[:, :, None] - d[:, None]) ** 2 - (c[:, :, None] - e[:, None]) ** 2).square().sum() / 64
    assert float(kd_svd(student, teacher)) == pytest.approx(float(flat), rel=0.1)


def test_clipped_sum_bounds_the_extra_and_leaves_small_ones_alone():
    main, small, large = [maps(3, 4), maps(5, seed=1)], [], []
    small = [0.01 * m.flip(0) for m in main]
    large = [100 * m.flip(0) for m in main]
    for g, s, one, other in zip(main, small, clipped_sum(main, small, 0.5), clipped_sum(main, large, 0.5), strict=True):
        torch.testing.assert_close(one, g + s, rtol=0, atol=1e-15)
        assert float((other - g).norm()) == pytest.approx(0.5 * float(g.norm()), rel=1e-12)
        torch.testing.assert_close(other - g, 0.5 * g.flip(0), rtol=0, atol=1e-12)  # same direction, tensor by tensor
    torch.testing.assert_close(clipped_sum(main, large, 0)[0], main[0])
    nothing = [torch.zeros_like(g) for g in main]
    torch.testing.assert_close(clipped_sum(main, nothing, 0.5), main)
    torch.testing.assert_close(clipped_sum(nothing, large, 0.5), nothing)


def test_the_clip_opens_from_a_half_to_nearly_the_whole():
    assert clip_share(0) == 0.5
    assert clip_share(5) == pytest.approx(0.9933071490757153, abs=1e-15)
    shares = [clip_share(epoch) for epoch in range(30)]
    assert all(a < b <= 1 for a, b in pairwise(shares))
    assert clip_share(1000) == 1  # no overflow


def test_what_does_not_fit_is_refused():
    student, teacher = networks()
    with pytest.raises(ValueError, match="two at least"):
        kd_svd(student[:1], teacher[:1])
    with pytest.raises(ValueError, match="one batch and as many channels"):
        kd_svd(student[::-1], teacher)
    with pytest.raises(ValueError, match="sides must be one of"):
        kd_svd(student, teacher, sides="other")
    with pytest.raises(ValueError, match="way must be one of"):
        decompose(student[0], 1, "qr")
    with pytest.raises(ValueError, match="has fewer vectors"):
        decompose(student[0], 6)
    with pytest.raises(ValueError, match="expected feature maps"):
        decompose(student[0][0])
    with pytest.raises(ValueError, match="share must not be negative"):
        clipped_sum([], [], float("nan"))
