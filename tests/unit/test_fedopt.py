"""Server optimisers: exact values, what torch.optim says in the limits where they agree, and the known mistakes."""

import math

import pytest
import torch
from federations import ALGORITHMS, Normed, everything, federation, same
from hypothesis import given, settings, strategies as st
from torch import nn

from fedlib import losses, models
from fedlib.algorithms import FedAvg, FedAvgM, FedOpt
from fedlib.algorithms.fedopt import SECOND_MOMENT
from fedlib.executors import Context, per_sample
from fedlib.federation import Federation, Local

CASES = settings(deadline=None, max_examples=30)
ADAPTIVE = tuple(SECOND_MOMENT)
DOUBLE = {"dtype": torch.float64}


def updates(seed=0, rounds=12, size=6, scale=1.0):
    """Mean updates [rounds, size] of several sizes, as a server would see them."""
    g = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rounds, size, generator=g, **DOUBLE) * 10.0 ** torch.linspace(-3, 1, size, **DOUBLE)


class Server:
    """The server side alone: hands a FedOpt one mean update after the other."""

    def __init__(self, algorithm, size=6, start=0.0):
        class Weights(nn.Module):
            def __init__(self):
                super().__init__()
                self.w = nn.Parameter(torch.full((size,), start))

            def forward(self, x):
                return x @ self.w[:, None]

        one = torch.zeros(1, size)
        self.fed = Federation(
            Weights, one, torch.zeros(1, dtype=torch.int64), [torch.tensor([0])], algorithm, device="cpu", **DOUBLE
        )

    @property
    def w(self):
        return self.fed.state["w"]

    @property
    def v(self):
        return self.fed.memory["v/w"]

    def step(self, update):
        self.fed.aggregate([{"w": self.w + update}], torch.ones(1, **DOUBLE))
        return self.w


def by_hand(optimiser, moves, lr, beta1, beta2, tau):
    """Algorithm 2 for one coordinate at a time in plain Python floats: the weights after every round."""
    w, m, v, path = [0.0] * moves.shape[1], [0.0] * moves.shape[1], [tau**2] * moves.shape[1], []
    for row in moves.tolist():
        for i, d in enumerate(row):
            m[i] = beta1 * m[i] + (1 - beta1) * d
            if optimiser == "adagrad":
                v[i] += d * d
            elif optimiser == "adam":
                v[i] = beta2 * v[i] + (1 - beta2) * d * d
            else:
                sign = (v[i] > d * d) - (v[i] < d * d)
                v[i] -= (1 - beta2) * d * d * sign
            w[i] += lr * m[i] / (math.sqrt(v[i]) + tau)
        path.append(list(w))
    return torch.tensor(path, **DOUBLE)


def play(algorithm, moves, start=0.0):
    server = Server(algorithm, moves.shape[1], start)
    return torch.stack([server.step(d).clone() for d in moves])


# The rules


@CASES
@given(
    st.sampled_from(ADAPTIVE), st.integers(0, 10**6), st.sampled_from([0.0, 0.9]), st.sampled_from([1e-4, 1e-2, 1.0])
)
def test_steps_are_those_of_algorithm_2(optimiser, seed, beta1, tau):
    moves = updates(seed)
    found = play(FedOpt(optimiser, 0.3, beta1, 0.99, tau), moves)
    torch.testing.assert_close(found, by_hand(optimiser, moves, 0.3, beta1, 0.99, tau), rtol=1e-10, atol=1e-12)


@CASES
@given(st.integers(0, 10**6), st.sampled_from([0.5, 0.9, 0.99, 0.999]))
def test_yogi_moves_by_exactly_its_step_and_stays_positive(seed, beta2):
    g = torch.Generator().manual_seed(seed)
    v = torch.rand(50, generator=g, **DOUBLE)
    for _ in range(20):
        square = torch.rand(50, generator=g, **DOUBLE).square() * 4
        after = SECOND_MOMENT["yogi"](v, square, beta2)
        torch.testing.assert_close((after - v).abs(), (1 - beta2) * square, rtol=0, atol=1e-15)  # wherever v != square
        assert bool((after >= 0).all())
        assert bool((torch.sign(after - v) == torch.sign(square - v)).all())  # towards the square
        adam = SECOND_MOMENT["adam"](v, square, beta2)
        torch.testing.assert_close((adam - v).abs(), (1 - beta2) * (square - v).abs(), rtol=0, atol=1e-14)
        v = after


def test_yogi_forgets_a_drop_slowly_and_adam_does_not():
    squares = torch.cat([torch.ones(200, **DOUBLE), torch.full((100,), 1e-4, **DOUBLE)])
    v = {name: torch.ones(1, **DOUBLE) for name in ADAPTIVE}
    for square in squares:
        v = {name: SECOND_MOMENT[name](v[name], square, 0.99) for name in ADAPTIVE}
    assert float(v["adam"]) == pytest.approx(0.99**100 * (1 - 1e-4) + 1e-4, rel=1e-9)  # geometric
    assert float(v["yogi"]) == pytest.approx(1 - 100 * 0.01 * 1e-4, rel=1e-9)  # a constant small step a round
    assert float(v["adagrad"]) == pytest.approx(201.01, rel=1e-9)  # never down


@pytest.mark.parametrize("optimiser", ADAPTIVE)
def test_no_update_leaves_everything_where_it_is(optimiser):
    server = Server(FedOpt(optimiser, 0.5), start=1.5)
    assert torch.equal(server.step(torch.zeros(6, **DOUBLE)), torch.full((6,), 1.5, **DOUBLE))
    if optimiser != "adam":  # which forgets tau^2, too
        assert torch.equal(server.v, torch.full((6,), 1e-3**2, **DOUBLE))


# Where torch's optimisers say the same


def torch_path(make, moves, sign=-1.0):
    w = torch.zeros(moves.shape[1], **DOUBLE, requires_grad=True)
    optimiser, path = make([w]), []
    for d in moves:
        w.grad = sign * d
        optimiser.step()
        path.append(w.detach().clone())
    return torch.stack(path)


def test_adagrad_is_torchs():
    moves, tau = updates(1), 1e-2
    ours = play(FedOpt("adagrad", 0.3, 0.0, tau=tau), moves)
    torchs = torch_path(lambda w: torch.optim.Adagrad(w, 0.3, initial_accumulator_value=tau**2, eps=tau), moves)
    torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_sgd_is_torchs(beta1):
    moves = updates(2)
    ours = play(FedOpt("sgd", 0.7, beta1), moves)
    torchs = torch_path(lambda w: torch.optim.SGD(w, 0.7, beta1), moves)
    torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=1e-14)


def test_adam_is_torchs_without_the_bias_correction():
    moves, lr, tau = updates(3, rounds=60), 0.3, 1e-12
    ours, before = play(FedOpt("adam", lr, 0.9, 0.99, tau), moves), torch.zeros(6, **DOUBLE)
    torchs = torch_path(lambda w: torch.optim.Adam(w, lr, (0.9, 0.99), eps=0.0), moves)
    for t in range(1, len(moves) + 1):
        factor = (1 - 0.9**t) / math.sqrt(1 - 0.99**t)  # with v_0 and tau out of the way, step by step
        mine, its = ours[t - 1] - before, torchs[t - 1] - (torchs[t - 2] if t > 1 else 0)
        torch.testing.assert_close(mine, factor * its, rtol=1e-5, atol=1e-12)
        before = ours[t - 1]
    late = abs((1 - 0.9**2000) / math.sqrt(1 - 0.99**2000) - 1)
    assert late < 1e-8  # in the end they agree


@pytest.mark.parametrize(("beta2", "size"), [(0.99, 1.0), (0.999, math.sqrt(10))])
def test_size_of_the_first_step(beta2, size):
    d, lr = torch.tensor([2.0, -0.5], **DOUBLE), 0.1
    ours = play(FedOpt("adam", lr, 0.9, beta2, tau=1e-10), d[None])[0]
    torch.testing.assert_close(ours, lr * size * d.sign(), rtol=1e-6, atol=0)  # (1 - beta1) / sqrt(1 - beta2)
    torchs = torch_path(lambda w: torch.optim.Adam(w, lr, (0.9, beta2), eps=1e-10), d[None])[0]
    torch.testing.assert_close(torchs, lr * d.sign(), rtol=1e-6, atol=0)  # whatever the betas


# What tau does


@pytest.mark.parametrize("optimiser", ADAPTIVE)
def test_large_tau_is_momentum_sgd(optimiser):
    moves, tau, lr, rounds = updates(4, rounds=40), 1e6, 0.5, torch.arange(1, 41, **DOUBLE)
    ours = play(FedOpt(optimiser, lr * tau, 0.9, 0.99, tau), moves)
    steps = torch.diff(ours, dim=0, prepend=torch.zeros(1, 6, **DOUBLE))
    momentum = torch.zeros(6, **DOUBLE)
    for t, d in enumerate(moves):
        momentum = 0.9 * momentum + 0.1 * d
        # v stays at tau^2, so the rate is lr / 2; only Adam forgets tau^2, and its rate climbs towards lr.
        share = 1 / (1 + 0.99 ** (rounds[t] / 2)) if optimiser == "adam" else 0.5
        torch.testing.assert_close(steps[t], lr * share * momentum, rtol=1e-4, atol=1e-12)
    twice = play(FedAvgM(0.9, 0.1 * lr / 2), moves) if optimiser != "adam" else None
    if twice is not None:
        torch.testing.assert_close(ours, twice, rtol=1e-4, atol=1e-10)


@CASES
@given(st.sampled_from(ADAPTIVE), st.integers(0, 10**6), st.floats(0.01, 100))
def test_scale_of_updates_and_tau_together_does_not_matter(optimiser, seed, scale):
    moves = updates(seed)
    a = play(FedOpt(optimiser, 0.3, 0.9, 0.99, 1e-2), moves)
    b = play(FedOpt(optimiser, 0.3, 0.9, 0.99, 1e-2 * scale), scale * moves)
    torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)
    plain = play(FedOpt("sgd", 0.3, 0.9), scale * moves)
    torch.testing.assert_close(plain, scale * play(FedOpt("sgd", 0.3, 0.9), moves), rtol=1e-10, atol=1e-12)


def test_tiny_tau_makes_noise_as_loud_as_signal():
    loud, quiet = 1.0, 1e-7
    d = torch.tensor([[loud, quiet]], **DOUBLE)
    fine = play(FedOpt("adagrad", 0.1, 0.0, tau=1e-3), d)[0]
    assert float(fine[1] / fine[0]) < 1e-3
    sign_like = play(FedOpt("adagrad", 0.1, 0.0, tau=1e-12), d)[0]
    assert float(sign_like[1] / sign_like[0]) == pytest.approx(1.0, abs=1e-4)


# Known mistakes: the wrong version fails what the right one passes


def quadratic(server, rounds=100):
    """Squared distance to 1 after rounds of clients that go half the way there."""
    for _ in range(rounds):
        server.step(0.5 * (1.0 - server.w))
    return float((server.w - 1.0).square().mean())


def test_the_sign_of_the_pseudo_gradient():
    assert quadratic(Server(FedOpt("adam", 0.05))) < 0.05
    downhill, uphill = (torch.zeros(6, **DOUBLE, requires_grad=True) for _ in range(2))
    for w, sign in ((downhill, -1.0), (uphill, 1.0)):
        optimiser = torch.optim.Adam([w], 0.05)
        for _ in range(100):
            w.grad = sign * 0.5 * (1.0 - w.detach())  # an optimiser wants a gradient: minus the update
            optimiser.step()
    gaps = [float((w.detach() - 1).square().mean()) for w in (downhill, uphill)]
    assert gaps[0] < 0.05 < 1 < gaps[1]


def test_the_second_moment_is_that_of_the_raw_update():
    class Earlier(FedOpt):
        """The first version of the paper: the second moment of the *smoothed* update."""

        def direction(self, memory, n, update):
            memory[f"m/{n}"] = self.beta1 * memory[f"m/{n}"] + (1 - self.beta1) * update
            m = memory[f"m/{n}"]
            memory[f"v/{n}"] = SECOND_MOMENT[self.optimiser](memory[f"v/{n}"], m.square(), self.beta2)
            return m / (memory[f"v/{n}"].sqrt() + self.tau)

    moves = updates(5)
    by_paper = by_hand("adam", moves, 0.3, 0.9, 0.99, 1e-3)
    torch.testing.assert_close(play(FedOpt("adam", 0.3), moves), by_paper, rtol=1e-10, atol=1e-12)
    assert float((play(Earlier("adam", 0.3), moves) - by_paper).abs().max()) > 0.1
    first = [play(kind("adam", 0.3, tau=1e-9), moves[:1]).abs().max() for kind in (FedOpt, Earlier)]
    assert float(first[1] / first[0]) == pytest.approx(10, rel=1e-4)  # 1 / (1 - beta1) times as long


def test_yogis_sign_the_wrong_way_round_goes_negative():
    v, square = torch.tensor([0.01], **DOUBLE), torch.tensor([4.0], **DOUBLE)
    wrong = v - 0.1 * square * torch.sign(square - v)
    assert float(wrong) < 0 < float(SECOND_MOMENT["yogi"](v, square, 0.9))


class NormedOutput(Normed):
    """A network whose BatchNorm statistics move a lot."""


def test_buffers_are_averaged_and_never_stepped_on():
    fed = federation(FedOpt("adam", 0.5), model=NormedOutput, sizes=(4, 7, 8, 13, 20, 6))
    plain = federation(FedAvg(), model=NormedOutput, sizes=(4, 7, 8, 13, 20, 6))
    for f in (fed, plain):
        f.run(1)
    for n in fed.net.buffers:
        assert torch.equal(fed.state[n], plain.state[n])
        assert f"v/{n}" not in fed.memory
    assert not torch.equal(fed.state["head.weight"], plain.state["head.weight"])


def test_an_optimiser_on_the_statistics_makes_variances_negative():
    class OnEverything(FedOpt):
        def aggregate(self, fed, uploads, weights):
            before = fed.state
            FedAvg.aggregate(self, fed, uploads, weights)
            for n, w in fed.state.items():
                if w.is_floating_point():
                    for slot, start in (("m", 0.0), ("v", self.tau**2)):
                        fed.memory.setdefault(f"{slot}/{n}", torch.full_like(w, start))
                    fed.state[n] = before[n] + self.lr * self.direction(fed.memory, n, w - before[n])

    settings = {"model": NormedOutput, "sizes": (4, 7, 8, 13, 20, 6)}
    least = {}
    for kind in (OnEverything, FedOpt):
        fed = federation(kind("adam", 0.5), **settings)
        # Statistics shrink: the variance of what enters is a hundredth of what BatchNorm starts with.
        fed.x = fed.x * 0.1
        for _ in range(4):
            try:
                fed.run(1)
            except ArithmeticError:
                break
        least[kind] = float(fed.state["body.1.running_var"].min())
    assert least[OnEverything] < 0 < least[FedOpt]


def test_stepping_each_client_is_another_algorithm():
    a, b = updates(6, rounds=2) * torch.tensor([[1.0], [-3.0]], **DOUBLE)
    together = Server(FedOpt("adam", 0.3))
    together.step((a + b) / 2)
    apart = []
    for d in (a, b):
        server = Server(FedOpt("adam", 0.3))
        server.step(d)
        apart.append(server.w)
    assert float((together.w - sum(apart) / 2).abs().max()) > 0.05


# In the federation


@pytest.mark.parametrize("executor", ["sequential", "batched"])
def test_plain_sgd_is_fedavg_and_momentum_fedavgm_bit_for_bit(executor):
    def after(algorithm):
        fed = federation(algorithm, executor=executor)
        fed.run(3)
        return fed.state

    same(after(FedOpt("sgd", 1.0, 0.0)), after(FedAvg()))
    same(after(FedOpt("sgd", 0.7, 0.9)), after(FedAvgM(0.9, 0.7)))
    with pytest.raises(AssertionError):
        same(after(FedOpt("adam", 0.1)), after(FedAvg()))


def test_one_client_one_step_is_adam_on_the_scaled_gradient():
    eta, lr = 0.2, 0.05
    x, y = torch.randn(9, 5, generator=torch.Generator().manual_seed(0), **DOUBLE), torch.arange(9) % 3
    fed = federation(
        FedOpt("adam", lr, 0.9, 0.99, 1e-3), data=(x, y, [torch.arange(9)]), participation=1.0, local=Local(1, 9, eta)
    )
    w = {n: t.clone() for n, t in fed.state.items()}
    m, v = ({n: torch.full_like(t, start) for n, t in w.items()} for start in (0.0, 1e-3**2))
    fed.run(4)
    for _ in range(4):
        leaves = {n: t.clone().requires_grad_() for n, t in w.items()}
        loss = nn.functional.cross_entropy(fed.net(leaves, x), y)
        for n, g in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
            m[n] = 0.9 * m[n] + 0.1 * eta * g
            v[n] = 0.99 * v[n] + 0.01 * (eta * g) ** 2
            w[n] = w[n] - lr * m[n] / (v[n].sqrt() + 1e-3)
    for n, t in w.items():
        torch.testing.assert_close(fed.state[n], t, rtol=1e-9, atol=1e-12)


def test_weighting_by_samples_or_alike():
    x, y = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), **DOUBLE), torch.arange(12) % 3
    split = [torch.arange(2), torch.arange(2, 12)]
    ends = {}
    for weighting in ("samples", "uniform"):
        algorithm = FedOpt("sgd", 1.0, 0.0, weighting=weighting)
        fed = federation(algorithm, data=(x, y, split), participation=1.0)
        seen = []
        fed.observers = [lambda _, round_, seen=seen: seen.extend(round_.uploads) or {}]
        fed.run(1)
        ends[weighting] = fed.state["head.bias"], [u["head.bias"] for u in seen]
    for weighting, (small, large) in {"samples": (2 / 12, 10 / 12), "uniform": (0.5, 0.5)}.items():
        mean, (a, b) = ends[weighting]
        torch.testing.assert_close(mean, small * a + large * b, rtol=0, atol=1e-15)


@pytest.mark.parametrize("optimiser", ["sgd", *ADAPTIVE])
def test_executors_agree(optimiser):
    a, b = (federation(FedOpt(optimiser, 0.05), executor=e) for e in ("sequential", "batched"))
    for fed in (a, b):
        fed.run(3)
    same(everything(a), everything(b), 1e-10)


def test_personal_parameters_stay_personal():
    class Heads(FedOpt):
        personal = ("head.*",)

    fed = federation(Heads("yogi", 0.1))
    start = {n: t.clone() for n, t in fed.state.items()}
    fed.run(2)
    for n, t in fed.state.items():
        assert torch.equal(t, start[n]) == n.startswith("head.")
        assert (f"m/{n}" in fed.memory) != n.startswith("head.")


def test_bytes_are_fedavgs():
    totals = []
    for algorithm in (FedOpt("adam"), FedAvg()):
        fed = federation(algorithm)
        fed.run(2)
        totals.append(fed.ledger.total)
    assert totals[0] == totals[1]


def test_impossible_settings_are_errors():
    with pytest.raises(ValueError, match="'sgd', 'adagrad', 'adam', 'yogi', got 'lamb'"):
        FedOpt("lamb")
    for wrong in ({"lr": 0.0}, {"tau": 0.0}, {"beta1": 1.0}, {"beta2": -0.1}):
        with pytest.raises(ValueError, match="must be a finite number"):
            FedOpt("adam", **wrong)


def test_fedopt_is_among_the_algorithms_that_all_executors_run():
    assert any(isinstance(make(), FedOpt) for make in ALGORITHMS.values())


# The autoencoder


def test_autoencoder_is_the_released_network():
    net = models.Autoencoder(784, (1000, 500, 250, 30))
    assert sum(w.numel() for w in net.parameters()) == 2_837_314
    x = torch.rand(3, 784)
    code, out = net(x, features=True), net(x)
    assert code.shape == (3, 30)
    assert out.shape == (3, 784)
    assert bool(((out > 0) & (out < 1)).all())
    assert not bool(((code > 0) & (code < 1)).all())  # linear
    assert all(not bool(layer.bias.any()) for layer in net.modules() if isinstance(layer, nn.Linear))


def test_reconstruction_is_the_mean_square_and_keeps_leading_dimensions():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.rand(4, 3, 2, 5, generator=g, **DOUBLE) for _ in range(2))
    each = losses.reconstruction(a, b)
    assert each.shape == (4, 3)
    assert float(each[1, 2]) == pytest.approx(sum(v**2 for v in (a - b)[1, 2].flatten().tolist()) / 10, rel=1e-12)
    assert torch.autograd.gradcheck(losses.reconstruction, (a[0, 0].requires_grad_(), b[0, 0]))


def test_clients_of_an_autoencoder_are_computed_together():
    @per_sample
    def rebuild(net, state, x, y, context: Context):
        return losses.reconstruction(net(state, x, train=True), x)

    class Rebuild(FedOpt):
        objective = staticmethod(rebuild)

    x = torch.rand(50, 12, generator=torch.Generator().manual_seed(0), **DOUBLE)
    y = torch.zeros(50, dtype=torch.int64)
    split, ends = list(torch.arange(50).split([5, 20, 8, 17])), []
    for executor in ("sequential", "batched"):
        fed = federation(
            Rebuild("yogi", 0.01),
            model=lambda: models.Autoencoder(12, (6, 2)),
            data=(x, y, split),
            executor=executor,
            local=Local(2, 8, 3.0),
        )
        fed.run(3)
        ends.append(everything(fed))
    same(*ends, 1e-10)
