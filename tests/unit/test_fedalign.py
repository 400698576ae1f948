"""FedAlign: what its second loss is worth and whom it reaches, its limits, and the same on every executor."""

import copy
import math

import pytest
import torch
from federations import FLOAT, distance, everything, same
from slimmed import federation, pictures, slim
from torch.nn import functional as F

from fedlib import rng
from fedlib.algorithms import FedAvg, FedAvgM, FedProx, Moon
from fedlib.executors import Context
from fedlib.federation import Local
from fedlib.lipschitz import transmitting
from fedlib.models import MLP
from fedlib.optim import clip_norm
from fedlib.regularised.clipped import Clipped
from fedlib.regularised.fedalign import FedAlign


def batch(algorithm=None):
    """The network, moved weights that want gradients, and a batch."""
    fed = federation(algorithm or FedAvg())
    x, y, _ = pictures(4)
    state = {n: t + 0.3 * torch.randn(t.shape, generator=rng.stream(n), dtype=FLOAT) for n, t in fed.state.items()}
    return fed.net, {n: t.requires_grad_() for n, t in state.items()}, x[:8], y[:8]


def gradient(loss, state):
    found = torch.autograd.grad(loss, list(state.values()), allow_unused=True)
    return {n: torch.zeros_like(t) if g is None else g for (n, t), g in zip(state.items(), found, strict=True)}


def by_the_paper(net, state, x, y, width=0.5):
    """Cross-entropy and L_Lip with plain modules and the singular value decomposition."""
    wide = copy.deepcopy(net.module)
    low = torch.func.functional_call(wide, state, (x,), {"part": "before"})
    high = torch.func.functional_call(wide, state, (low,), {"part": "last"})
    few = low.detach()[:, : int(width * low.shape[1])]
    narrow = torch.func.functional_call(wide, state, (few,), {"part": "last", "width": width})
    norms = [torch.linalg.matrix_norm(transmitting(*pair), 2) for pair in ((few, narrow), (low, high))]
    ce = F.cross_entropy(high.mean((2, 3)) @ state["head.weight"].T + state["head.bias"], y)
    return ce, F.mse_loss(norms[0], norms[1].detach())


# --- the second loss -----------------------------------------------------------------------------------------------


def test_both_terms_by_the_decomposition():
    net, state, x, y = batch()
    ce, lip = FedAlign(width=0.5, iterations=300).terms(net, state, x, y)
    for found, expected in zip((ce, lip), by_the_paper(net, state, x, y), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=0)
    mine, its = (gradient(t, state) for t in (lip, by_the_paper(net, state, x, y)[1]))
    assert distance(mine, its) < 1e-6 * max(float(t.abs().max()) for t in its.values())


def test_its_gradient_is_zero_outside_the_narrow_last_stage():
    """Features that are not detached would reach the stages before; a norm that is not, the whole last stage."""
    net, state, x, y = batch()
    found = gradient(FedAlign(width=0.5).terms(net, state, x, y)[1], state)
    for name, g in found.items():
        if not name.startswith("stages.1."):
            assert not bool(g.any()), name
            continue
        inside = tuple(slice(0, n // 2 if d < 2 else n) for d, n in enumerate(g.shape))
        assert bool(g[inside].any()), name
        rest = g.clone()
        rest[inside] = 0
        assert not bool(rest.any()), name


@pytest.mark.parametrize("mu", [0.1, 0.45, 2.0])
def test_rescaled_it_is_worth_mu_times_the_cross_entropy(mu):
    net, state, x, y = batch()
    algorithm = FedAlign(mu, 0.5, clip=None)
    ce, lip = algorithm.terms(net, state, x, y)
    second, both = mu * algorithm.factor(net, ce, lip) * lip, algorithm.objective(net, state, x, y, Context(state))
    torch.testing.assert_close(second, mu * ce, rtol=1e-12, atol=0)
    torch.testing.assert_close(both, (1 + mu) * ce, rtol=1e-12, atol=0)


def test_the_factor_is_a_constant_and_forgets_the_size_of_the_loss():
    net, state, x, y = batch()
    algorithm = FedAlign(0.45, 0.5)
    ce, lip = algorithm.terms(net, state, x, y)
    plain = gradient(algorithm.factor(net, ce, lip) * lip, state)
    ce, lip = algorithm.terms(net, state, x, y)
    larger = gradient(algorithm.factor(net, ce, 7 * lip) * (7 * lip), state)
    assert distance(plain, larger) < 1e-12
    ce, lip = algorithm.terms(net, state, x, y)
    alone = gradient(lip, state)
    same({n: t * float(ce.detach() / lip.detach()) for n, t in alone.items()}, plain, 1e-12)


def test_without_rescaling_it_is_the_sum_that_the_paper_prints():
    net, state, x, y = batch()
    algorithm = FedAlign(0.45, 0.5, None, rescaled=False)
    ce, lip = algorithm.terms(net, state, x, y)
    expected = gradient(ce + 0.45 * lip, state)
    same(gradient(algorithm.objective(net, state, x, y, Context(state)), state), expected, 1e-13)


def test_at_full_width_nothing_is_left_to_align():
    """Both norms are equal: 0 / 0 without a guard, and with it the step of FedAvg."""
    net, state, x, y = batch()
    algorithm = FedAlign(0.45, 1.0, clip=None)
    assert float(algorithm.terms(net, state, x, y)[1].detach()) == 0
    found = gradient(algorithm.objective(net, state, x, y, Context(state)), state)
    expected = gradient(FedAvg().objective(net, state, x, y, Context(state)), state)
    same(found, expected, 1e-13)


# --- clipping ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [0.05, 1e3])
def test_both_gradients_are_clipped_together(most):
    net, state, x, y = batch()
    free = gradient(FedAlign(0.45, 0.5, None).objective(net, state, x, y, Context(state)), state)
    found = gradient(FedAlign(0.45, 0.5, most).objective(net, state, x, y, Context(state)), state)
    same(found, clip_norm(free, most), 1e-13)
    size = math.sqrt(sum(float(t.square().sum()) for t in found.values()))
    assert size <= most + 1e-9
    if most == 0.05:
        assert size == pytest.approx(most, rel=1e-4)


def test_clipping_keeps_the_loss_and_a_large_bound_is_the_base():
    one, two = federation(Clipped(FedProx(0.3), 1e6)), federation(FedProx(0.3))
    one.run(2), two.run(2)
    same(everything(one), everything(two), 1e-12)
    tight = federation(Clipped(FedProx(0.3), 1e-3))
    tight.run(1)
    assert tight.history[0]["loss"] == pytest.approx(two.history[0]["loss"], rel=0.5)
    moved = max(float((tight.state[n] - t).abs().max()) for n, t in federation(FedAvg()).state.items())
    assert 0 < moved < 1e-3 * 0.1 * 8 * 3


def test_no_step_of_the_clients_is_longer_than_the_bound():
    """One step of plain SGD: the weights move by the rate times the clipped gradient."""
    fed = federation(Clipped(most=0.01), local=Local(1, 64, 0.5))
    before = fed.state
    fed.run(1)
    moved = math.sqrt(sum(float((fed.state[n] - t).square().sum()) for n, t in before.items()))
    assert 0 < moved <= 0.5 * 0.01 + 1e-12


def test_clipping_wraps_state_and_contrast():
    one, two = federation(Clipped(Moon(1.0), 1e9)), federation(Moon(1.0))
    one.run(3), two.run(3)
    same(everything(one), everything(two), 1e-11)


def test_what_is_more_than_one_objective_is_not_clipped():
    class Twice(FedAvg):
        def phases(self, fed):
            return super().phases(fed) * 2

    with pytest.raises(ValueError, match="Twice is more than one objective"):
        federation(Clipped(Twice())).run(1)


# --- a federation --------------------------------------------------------------------------------------------------


def test_without_mu_and_clipping_it_is_fedavg_bit_for_bit():
    one, two = federation(FedAlign(0.0, 0.5, None)), federation(FedAvg())
    one.run(3), two.run(3)
    same(everything(one), everything(two))


def test_without_mu_it_is_fedavg_with_the_same_clipping():
    one, two = federation(FedAlign(0.0, 0.5, 0.1)), federation(Clipped(FedAvg(), 0.1))
    one.run(3), two.run(3)
    same(everything(one), everything(two))


@pytest.mark.parametrize("options", [{}, {"clip": 0.3}, {"clip": None, "rescaled": False, "mu": 0.01}])
def test_executors_agree(options):
    made = [federation(FedAlign(**{"width": 0.5} | options), executor=e) for e in ("sequential", "batched")]
    for fed in made:
        fed.run(2)
    same(*map(everything, made), 1e-10)


def test_clients_are_clipped_and_rescaled_by_themselves():
    """In a stack, too: with one factor for all clients the small ones would be others than alone."""
    one, two = (federation(Clipped(FedAlign(0.45, 0.5, None), 0.2), executor=e) for e in ("sequential", "batched"))
    one.run(2), two.run(2)
    same(everything(one), everything(two), 1e-10)


def test_what_travels_is_fedavgs():
    one, two = federation(FedAlign(width=0.5)), federation(FedAvg())
    one.run(2), two.run(2)
    assert (one.ledger.up, one.ledger.down) == (two.ledger.up, two.ledger.down)
    assert one.ledger.up[0] == 4 * sum(t.numel() * t.element_size() for t in one.state.values())


def test_the_gap_closes():
    """What it is for: trained along, the narrow stage stretches more like the whole one."""

    def left(algorithm):
        fed = federation(algorithm, local=Local(4, 8, 0.1))
        fed.run(3)
        x, y, _ = pictures()
        return float(FedAlign(width=0.5).terms(fed.net, fed.state, x, y)[1])

    assert left(FedAlign(0.45, 0.5)) < 0.7 * left(Clipped(FedAvg(), 10.0))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: torch.nn.Sequential(torch.nn.Flatten(), MLP(24, (4,), 3)), "a Sequential has one width"),
        (lambda: slim(group=4), r"width 0\.5 keeps 2 of 4 channels; expected whole groups of 4"),
        (lambda: slim(widths=(4, 6, 8, 12)), "of one place, its transmitting matrix has rank one"),
    ],
)
def test_networks_that_cannot_be_aligned_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        federation(FedAlign(width=0.5), model=model)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("name", ["mu", "width", "clip", "iterations"])
def test_settings_that_cannot_work_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a"):
        FedAlign(**{name: value})


def test_clipping_wraps_the_servers_step():
    one, two = federation(Clipped(FedAvgM(0.9, 0.5), 1e9)), federation(FedAvgM(0.9, 0.5))
    one.run(3), two.run(3)
    same(everything(one), everything(two), 1e-11)
