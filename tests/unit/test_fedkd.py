"""FedKD: identities in float64 of its loss, its factors and its bytes; and the traps, each shown to go wrong."""

from functools import partial

import pytest
import torch
from federations import FLOAT, distance, federation
from hypothesis import given, settings, strategies as st
from torch.nn import functional as F

from fedlib import compress, losses, models
from fedlib.algorithms import FedAvg, FedKD
from fedlib.algorithms.fedkd import EightBits, LowRank, travelling
from fedlib.executors import Context
from fedlib.federation import Local
from fedlib.models.transformer import Transformer

CASES = settings(deadline=None, max_examples=30)
SEEDS, ENERGIES = st.integers(0, 10**6), st.floats(0.0, 0.999)
big, small = partial(models.MLP, 5, (12, 9), 3), partial(models.MLP, 5, (8, 7), 3)


def pair():
    return models.Pair(big, small)


def play(algorithm, rounds=3, model=pair, **options):
    options = {"participation": 1.0, "local": Local(epochs=2, batch_size=8, lr=0.1)} | options
    fed = federation(algorithm, model=model, **options)
    fed.run(rounds)
    return fed


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=FLOAT)


def low(seed, rank, p=9, q=6):
    return normal(seed, p, rank) @ normal(seed + 1, rank, q)


# --- the truncated SVD -------------------------------------------------------------------------------


@CASES
@given(SEEDS, ENERGIES, st.sampled_from([(9, 6), (4, 7), (5, 5), (1, 6)]))
def test_the_rank_is_the_smallest_whose_share_exceeds_the_energy(seed, energy, shape):
    g = normal(seed, *shape)
    u, s, vh = compress.truncated_svd(g, energy)
    kept = torch.linalg.eigvalsh(g @ g.T).flip(0).clamp(min=0)  # squares of all singular values
    share = kept.cumsum(0) / kept.sum()
    k = len(s)
    assert u.shape == (shape[0], k)
    assert vh.shape == (k, shape[1])
    assert share[k - 1] > energy - 1e-12
    assert k == 1 or share[k - 2] <= energy + 1e-12


@CASES
@given(SEEDS, ENERGIES)
def test_the_squared_error_is_the_share_that_was_cut_off(seed, energy):
    g = normal(seed, 7, 5)
    u, s, vh = compress.truncated_svd(g, energy)
    error = (g - (u * s) @ vh).square().sum()
    assert float(error) == pytest.approx(float(g.square().sum() - s.square().sum()), abs=1e-10)
    assert float(error) < (1 - energy) * float(g.square().sum()) + 1e-12


def test_nothing_is_cut_off_where_no_share_exceeds_the_energy():
    g = normal(3, 6, 4)
    u, s, vh = compress.truncated_svd(g, 1.0)
    assert len(s) == 4
    torch.testing.assert_close((u * s) @ vh, g, rtol=0, atol=1e-13)
    assert len(compress.truncated_svd(torch.zeros(6, 4), 0.5)[1]) == 4


@CASES
@given(SEEDS, st.floats(0.0, 0.9999))
def test_an_update_of_rank_one_needs_one_singular_value(seed, energy):
    assert len(compress.truncated_svd(low(seed, 1), energy)[1]) == 1


def test_equal_singular_values_meet_the_threshold_but_do_not_exceed_it():
    """Four equal values and half the energy: two have exactly half, which is not more; the server's >= took two."""
    assert len(compress.truncated_svd(torch.eye(4, dtype=FLOAT), 0.5)[1]) == 3


@pytest.mark.parametrize("energy", [-0.1, 1.1, float("nan")])
def test_an_energy_that_is_no_share_is_refused(energy):
    with pytest.raises(ValueError, match="energy is a share"):
        compress.truncated_svd(torch.eye(2), energy)
    with pytest.raises(ValueError, match="expected a matrix"):
        compress.truncated_svd(torch.ones(2, 2, 2), 0.5)


def test_a_matrix_that_is_not_finite_is_an_arithmetic_error():
    for value in (float("inf"), float("nan")):
        with pytest.raises(ArithmeticError, match="matrix to be factored"):
            compress.truncated_svd(torch.eye(3).fill_diagonal_(value), 0.5)


def test_shares_are_summed_in_float64():
    """In float32 the small squares would all be lost beside the large one."""
    assert bool((compress.energy_shares(torch.tensor([1e4, 1.0, 1.0, 1.0])).diff() > 0).all())


def test_the_released_way_to_rebuild_is_another_matrix():
    """``np.dot(np.dot(u, sigma), v)`` with sigma a vector has no shape that fits; the diagonal belongs to columns."""
    u, s, vh = compress.truncated_svd(low(1, 3), 0.9999999)
    with pytest.raises(RuntimeError):
        (u @ s) @ vh
    torch.testing.assert_close((u * s) @ vh, low(1, 3), rtol=0, atol=1e-2)


# --- what is sent ------------------------------------------------------------------------------------


def test_a_matrix_is_factored_only_where_it_pays_and_vectors_never_are():
    base = {"wide": normal(1, 20, 30), "tiny": normal(2, 3, 3), "bias": normal(3, 3), "kernel": normal(4, 8, 3, 3, 3)}
    state = {n: t + (low(5, 2, 20, 30) if n == "wide" else normal(6, *t.shape)) for n, t in base.items()}
    sent = compress.factor(state, base, 0.9, {"wide", "tiny", "bias"})
    assert set(sent) == {"wide/U", "wide/s", "wide/Vh", "tiny", "bias", "kernel"}
    assert sum(t.numel() for n, t in sent.items() if "wide" in n) == 2 * (20 + 30 + 1)
    assert torch.equal(sent["bias"], state["bias"])  # three numbers, and no factored triple
    back = compress.rebuild(compress.factor(state, base, 0.5, base), base)
    assert {n: t.shape for n, t in back.items()} == {n: t.shape for n, t in state.items()}


def test_a_kernel_counts_as_a_matrix():
    base = {"kernel": normal(1, 16, 8, 3, 3)}
    state = {"kernel": base["kernel"] + low(2, 1, 16, 72).view(16, 8, 3, 3)}
    sent = compress.factor(state, base, 0.9, base)
    assert {n: tuple(t.shape) for n, t in sent.items()} == {"kernel/U": (16, 1), "kernel/s": (1,), "kernel/Vh": (1, 72)}
    assert distance(compress.rebuild(sent, base), state) < 1e-12


def kept(update, energy):
    """What the receiver makes of an update; a matrix whose factors have more numbers than it has is sent whole."""
    if update.ndim == 1:
        return update
    u, s, vh = compress.truncated_svd(update, energy)
    return (u * s) @ vh if len(s) * (sum(update.shape) + 1) < update.numel() else update


def formula(before, energy):
    """Bytes of one client's update: min(P Q, K (P + Q + 1)) for every matrix, and all of every vector."""
    return lambda state: sum(
        8 * min(t.numel(), len(compress.truncated_svd((t - before[n]).flatten(1), energy)[1]) * (sum(t.shape) + 1))
        if t.ndim > 1
        else 8 * t.numel()
        for n, t in state.items()
    )


def test_the_ledger_is_the_formula_both_ways():
    """At thresholds of 0.5, 0.63 and 0.77: up, clients' updates; down, the mean of the cut updates, cut once more."""
    seen = []
    fed = play(FedKD((0.5, 0.9), rounds=3), observers=[lambda _, round_: seen.append(round_)])
    whole = sum(8 * t.numel() for t in fed.shared(fed.state).values())
    down = [whole]
    for round_ in seen:
        energy, before = 0.5 + 0.4 * round_.number / 3, fed.shared(round_.received[0])
        cost, updates = formula(before, energy), [fed.shared(state) for state in round_.states]
        assert fed.ledger.up[round_.number] == sum(map(cost, updates))
        cut = [{n: before[n] + kept(state[n] - before[n], energy) for n in before} for state in updates]
        down.append(cost({n: sum(state[n] for state in cut) / len(cut) for n in before}))
    assert fed.ledger.down == [fed.clients * size for size in down[:-1]]
    assert max(down[1:]) < whole


def test_everything_kept_is_fedavg_with_equal_weights():
    exact, plain = play(FedKD(1.0)), play(FedKD(None))
    assert distance(exact.state, plain.state) < 1e-12
    nothing = FedKD(None, distil=0.0, hidden=0.0)
    alone = FedAvg()
    alone.weighting = "uniform"
    mentee = federation(alone, model=small, participation=1.0)
    started = federation(nothing, model=pair, participation=1.0)
    mentee.state = {n.removeprefix("mentee."): t for n, t in started.shared(started.state).items()}
    mentee.run(3)
    started.run(3)
    found = {n.removeprefix("mentee."): t for n, t in started.shared(started.state).items()}
    assert distance(mentee.state, found) < 1e-12


def test_eight_bits_cost_a_byte_a_number_and_err_by_half_a_step():
    seen = []
    fed = play(EightBits(), model=big, observers=[lambda fed, round_: seen.append((round_, fed.state))])
    sizes = [t.numel() for t in fed.state.values()]
    assert fed.ledger.up == [fed.clients * (sum(sizes) + 8 * len(sizes))] * 3
    round_, after = seen[0]
    for n, t in after.items():
        exact = torch.stack([s[n] for s in round_.states]).mean(0)
        steps = [float((s[n] - round_.received[0][n]).abs().max()) / 127 for s in round_.states]
        assert float((t - exact).abs().max()) <= 0.5 * sum(steps) / len(steps) + 0.5 * max(steps) + 1e-15
        assert not torch.equal(t, exact)


@pytest.mark.parametrize("energy", [(0.6, 0.9), None])
def test_what_travels_is_seen_as_it_is(energy):
    seen = []
    fed = play(FedKD(energy, rounds=3, least=0.5), observers=[travelling, lambda fed, round_: seen.append(round_)])
    assert [row["miscount"] for row in fed.history] == [0, 0, 0]
    last, row = seen[-1], fed.history[-1]
    ranks, firsts, weights = [], [], []
    for k, state, received in zip(last.clients, last.states, last.received, strict=True):
        for n in ("mentee.body.1.weight", "mentee.body.3.weight", "mentee.head.weight"):
            g = state[n] - received[n]
            ranks.append(len(compress.truncated_svd(g, 0.95)[1]))
            firsts.append(float(torch.linalg.matrix_norm(g, 2).square() / g.square().sum()))
        x, y = fed.x[fed.split[k]], fed.y[fed.split[k]]
        p, q = (fed.net(state, x, part=part).softmax(1).gather(1, y[:, None]) for part in ("mentor", "mentee"))
        weights.append(float((1 / (-p.log() - q.log()).clamp(min=0.5)).mean()))
    for name, values in {"rank": ranks, "first": firsts, "weight": weights}.items():
        assert row[name] == pytest.approx(sum(values) / len(values), abs=1e-9)


def test_without_a_threshold_low_rank_is_fedavg_bit_for_bit():
    plain = FedAvg()
    plain.weighting = "uniform"
    a, b = play(LowRank(None), model=big), play(plain, model=big)
    assert all(torch.equal(a.state[n], b.state[n]) for n in a.state)
    assert a.ledger == b.ledger


def test_clients_hold_what_the_server_holds_after_each_broadcast():
    """The news alone, added to what a client had, is the model that the server goes on from."""
    seen = []
    fed = play(
        FedKD(0.6, rounds=3), observers=[lambda fed, round_: seen.append((round_, fed.state, fed.memory["news"]))]
    )
    for round_, after, news in seen:
        told = compress.rebuild(news, round_.received[0])
        assert any("/U" in n for n in news)
        assert all(torch.equal(told[n], after[n]) for n in fed.shared(fed.state))


def test_who_may_have_missed_an_update_gets_the_whole_model():
    fed = play(FedKD(0.6, rounds=3), participation=0.5)
    whole = sum(8 * t.numel() for t in fed.shared(fed.state).values())
    assert fed.ledger.down == [whole * 3] * 3


def test_the_threshold_goes_from_start_to_end_in_a_straight_line():
    algorithm = LowRank((0.5, 0.9), rounds=4)
    assert [algorithm.threshold(t) for t in range(6)] == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9, 0.9])
    assert LowRank(0.8).threshold(3) == 0.8
    for kind in (LowRank, FedKD):
        with pytest.raises(ValueError, match="in how many rounds"):
            kind((0.5, 0.9))


def test_a_round_is_cut_by_its_own_threshold():
    """At 0 one singular value is kept, at 1 all of them, which would cost more than the matrix."""
    seen = []
    play(LowRank((0.0, 1.0), rounds=1), rounds=2, model=big, observers=[lambda fed, _: seen.append(fed.memory["news"])])
    first, second = ([len(t) for n, t in news.items() if n.endswith("/s")] for news in seen)
    assert first == [1, 1, 1]
    assert second == []


def test_only_the_mentee_travels_and_mentors_stay_apart():
    fed = play(FedKD(0.8, rounds=3))
    assert {n.split(".")[0] for n in fed.own[0]} == {"mentor", "map"}
    assert not torch.equal(fed.own[0]["mentor.head.weight"], fed.own[1]["mentor.head.weight"])
    with pytest.raises(ValueError, match=r"a models\.Pair of mentor and mentee"):
        federation(FedKD(), model=small)


# --- the loss ----------------------------------------------------------------------------------------


def by_definition(t, s, y, gap, distil, least):
    """As printed, sample by sample."""
    found = []
    for a, b, c, g in zip(t, s, y, gap, strict=True):
        p, q = a.softmax(0), b.softmax(0)
        tasks = -(p[c].log() + q[c].log())
        divergences = (q * (q / p).log()).sum() + (p * (p / q).log()).sum()
        found.append(tasks + (distil * divergences + g) / max(float(tasks), least))
    return torch.stack(found).mean()


@CASES
@given(SEEDS, st.floats(0, 5), st.floats(0.01, 8))
def test_value_from_the_definition(seed, distil, least):
    t, s, gap = normal(seed, 6, 4), normal(seed + 1, 6, 4), normal(seed + 2, 6).square()
    y = torch.arange(6) % 4
    found = losses.mutual_distillation(t, s, y, gap, distil=distil, least=least)
    torch.testing.assert_close(found, by_definition(t, s, y, gap, distil, least), rtol=0, atol=1e-11)


def gradients(t, s, y, **options):
    t, s = t.clone().requires_grad_(), s.clone().requires_grad_()
    return torch.autograd.grad(losses.mutual_distillation(t, s, y, **options), (t, s))


@CASES
@given(SEEDS)
def test_equal_networks_teach_each_other_nothing(seed):
    z, y = normal(seed, 6, 4), torch.arange(6) % 4
    for found in gradients(z, z, y, distil=3.0):
        leaf = z.clone().requires_grad_()
        expected = torch.autograd.grad(F.cross_entropy(leaf, y), leaf)[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


@CASES
@given(SEEDS)
def test_each_gradient_is_that_of_its_own_losses_with_the_other_network_held_fixed(seed):
    t, s, y = normal(seed, 6, 4), normal(seed + 1, 6, 4), torch.arange(6) % 4
    p, q, each = t.softmax(1), s.softmax(1), torch.eye(4, dtype=FLOAT)[y]
    tasks = -(p.log() + q.log()).gather(1, y[:, None])
    to_mentor, to_mentee = gradients(t, s, y, least=1e-9)
    torch.testing.assert_close(to_mentor, ((p - each) + (p - q) / tasks) / 6, rtol=0, atol=1e-12)
    torch.testing.assert_close(to_mentee, ((q - each) + (q - p) / tasks) / 6, rtol=0, atol=1e-12)


def test_an_open_denominator_would_reward_mistakes():
    """The trap: with the sum of task losses in the graph, the distillation term pushes the task losses up."""
    t, s, y = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([0])
    t, s = t.double().requires_grad_(), s.double().requires_grad_()
    tasks = F.cross_entropy(t, y) + F.cross_entropy(s, y)
    push = torch.autograd.grad(losses.kl(s, t).detach() / tasks, t)[0]
    assert push[0, 0] > 0  # a step against it lowers the logit of the true class
    assert float(push.norm()) > 0.01


def test_the_weight_has_a_bound_where_both_are_sure():
    sure = torch.tensor([[30.0, 0.0, 1.0]], dtype=FLOAT)
    other = torch.tensor([[30.0, 1.0, 0.0]], dtype=FLOAT)
    y = torch.tensor([0])
    bounded = losses.mutual_distillation(sure, other, y, torch.ones(1, dtype=FLOAT), least=0.1)
    assert float(bounded) == pytest.approx(10.0, rel=1e-6)
    assert float(losses.mutual_distillation(sure, other, y, torch.ones(1), adaptive=False)) == pytest.approx(
        1, rel=1e-6
    )


@pytest.mark.parametrize(
    "wrong", [{"least": 0.0}, {"least": -1.0}, {"distil": float("nan")}, {"gap": torch.ones(6, 1)}]
)
def test_what_would_give_a_number_that_means_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        losses.mutual_distillation(normal(0, 6, 4), normal(1, 6, 4), torch.arange(6) % 4, **wrong)


def test_the_map_is_trained_and_the_hidden_loss_reaches_both_networks():
    start = federation(FedKD(), model=pair).state
    on, off = (play(FedKD(None, distil=0.0, hidden=h), rounds=1) for h in (1.0, 0.0))
    assert not torch.equal(on.own[0]["map.weight"], start["map.weight"])  # the released list of maps is never trained
    assert torch.equal(off.own[0]["map.weight"], start["map.weight"])
    assert not torch.equal(on.own[0]["mentor.body.1.weight"], off.own[0]["mentor.body.1.weight"])
    assert distance(on.shared(on.state), off.shared(off.state)) > 1e-6  # the mentee


@pytest.mark.parametrize("options", [{"adaptive": False}, {"least": 30.0}], ids=["plain", "bounded"])
def test_the_objective_is_the_loss_with_the_mapped_features_as_its_gap(options):
    fed = federation(FedKD(distil=0.3, hidden=2.0, **options), model=pair)
    both, x, y = fed.net.module, normal(1, 6, 5), torch.arange(6) % 3
    h, h_small = both.mentor(x, features=True), both.mentee(x, features=True)
    gap = 2.0 * (h - h_small @ both.map.weight.T).square().sum(1) / 9
    expected = losses.mutual_distillation(both(x), both(x, part="mentee"), y, gap, distil=0.3, **options)
    found = fed.algorithm.objective(fed.net, fed.state, x, y, Context(fed.state))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_networks_that_attend_teach_each_other_where_to_look():
    """The hidden loss has both terms of the paper: representations through the map, and attention."""
    big, small = (
        partial(Transformer, 12, 6, 3, width, heads, layers) for width, heads, layers in ((8, 2, 2), (4, 1, 1))
    )
    g = torch.Generator().manual_seed(2)
    x, y = torch.randint(0, 12, (20, 6), generator=g).to(FLOAT), torch.arange(20) % 3
    fed = federation(FedKD(hidden=2.0), model=lambda: models.Pair(big, small), data=(x, y, [torch.arange(20)]))
    own, state, pair = fed.algorithm, fed.state, fed.net.module
    (h, looks), (h_small, looks_small) = (part(x, attention=True) for part in (pair.mentor, pair.mentee))
    gap = (h - pair.map(h_small)).square().mean(1) + (looks - looks_small).square().flatten(1).mean(1)
    expected = losses.mutual_distillation(pair.mentor.head(h), pair.mentee.head(h_small), y, 2.0 * gap)
    found = own.objective(fed.net, state, x, y, Context(state))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    before = {n: t.clone() for n, t in state.items()}
    fed.run(1)
    assert any(not torch.equal(fed.state[n], before[n]) for n in fed.shared(fed.state))


@pytest.mark.parametrize("executor", ["batched", "threads"])
def test_executors_agree(executor):
    a, b = play(FedKD(0.8, rounds=3)), play(FedKD(0.8, rounds=3), executor=executor)
    assert distance(a.state, b.state) < 1e-10
    assert distance(a.own[1], b.own[1]) < 1e-10


def test_a_pair_answers_as_its_mentor_and_starts_from_the_mentors_own_weights():
    torch.manual_seed(1)
    alone = big()
    torch.manual_seed(1)
    both = pair()
    x = torch.randn(4, 5)
    assert torch.equal(both(x), alone(x))
    assert both(x, part="mentee", features=True).shape == (4, 7)
    assert [n for n, _ in both.named_parameters() if n.startswith("map")] == ["map.weight"]  # and no bias
    with pytest.raises(ValueError, match="no linear layer 'head'"):
        models.Pair(torch.nn.Identity, small)
