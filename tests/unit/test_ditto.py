"""Ditto: its two ends of the scale in bits, the pull of the received model, and what travels."""

import pytest
import torch
from federations import FLOAT, Twinned, everything, federation, small
from torch.nn.functional import cross_entropy

from fedlib.algorithms import Ditto, FedAvg, LocalOnly
from fedlib.federation import Local
from fedlib.models import Twin


def played(algorithm, rounds=3, **options):
    fed = federation(algorithm, **options)
    fed.run(rounds)
    return fed


@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_the_shared_part_is_fedavg_whatever_the_pull(mu):
    ours, plain = played(Twinned(mu)), played(FedAvg())
    for n, t in plain.state.items():
        torch.testing.assert_close(ours.state[f"shared.{n}"], t, rtol=0, atol=1e-14)
    assert ours.ledger.total == plain.ledger.total


def test_without_a_pull_the_own_part_is_training_alone():
    ours, alone = played(Twinned(0.0), participation=1.0), played(LocalOnly(), participation=1.0)
    for k in range(6):
        for n, t in alone.own[k].items():
            torch.testing.assert_close(ours.own[k][f"own.{n}"], t, rtol=0, atol=1e-14)


def test_a_step_is_pulled_to_the_model_that_was_received():
    """v <- v - eta (g + mu (v - w_received)), by hand, in the second round: in the first both are the same."""
    local = Local(1, 100, 0.05)
    fed = played(Twinned(0.7), 1, local=local, participation=1.0)
    own, shared, rows = fed.own[2], dict(fed.state), fed.split[2]
    v = {n.removeprefix("own."): t.clone().requires_grad_() for n, t in own.items() if n.startswith("own.")}
    loss = cross_entropy(torch.func.functional_call(small().to(FLOAT), v, fed.x[rows]), fed.y[rows])
    grads = dict(zip(v, torch.autograd.grad(loss, list(v.values())), strict=True))
    fed.run(1)
    for n, w in v.items():
        expected = w.detach() - 0.05 * (grads[n] + 0.7 * (w.detach() - shared[f"shared.{n}"]))
        torch.testing.assert_close(fed.own[2][f"own.{n}"], expected, rtol=0, atol=1e-13)


def test_a_strong_pull_keeps_own_models_together():
    free, held = (played(Twinned(mu), participation=1.0, local=Local(2, 8, 0.05)) for mu in (0.0, 10.0))
    apart = [float((fed.own[0]["own.head.weight"] - fed.own[4]["own.head.weight"]).norm()) for fed in (free, held)]
    assert apart[1] < 0.5 * apart[0]
    assert any("own." in n for n in everything(free))


def test_a_network_without_the_two_parts_is_refused():
    with pytest.raises(ValueError, match=r"models\.Twin"):
        federation(Ditto())


def test_twins_are_alike_at_first_and_answer_as_the_own():
    twin, x = Twin(small), torch.randn(4, 5)
    assert all(torch.equal(a, b) for a, b in zip(twin.own.parameters(), twin.shared.parameters(), strict=True))
    with torch.no_grad():
        twin.own.head.bias += 1
    torch.testing.assert_close(twin(x), twin(x, part="own"))
    torch.testing.assert_close(twin(x) - twin(x, part="shared"), torch.ones(4, 3))
    with pytest.raises(ValueError, match="part must be 'own' or 'shared', got 'training'"):
        twin(x, part="training")
