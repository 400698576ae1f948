"""What travels, in bytes: the ledger against the formulas of the papers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from fedlib.algorithms import FedAvg, FedAvgM, FedDF, FedMD, FedNTD, FedProx
from fedlib.distill import Distillation
from fedlib.federation import Federation, Local
from fedlib.ledger import Ledger, payload_bytes
from fedlib.models import MLP, McMahanCNN

SIZES = {torch.float64: 8, torch.float32: 4, torch.float16: 2, torch.int64: 8, torch.int32: 4, torch.bool: 1}
quick = settings(deadline=None, max_examples=30)


def public():
    return torch.randn(11, 5, generator=torch.Generator().manual_seed(9))


def federation(algorithm, clients=6, participation=0.5, dtype=torch.float32, model=lambda: MLP(5, (6,), 3), **options):
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(60, 5, generator=g), torch.randint(3, (60,), generator=g)
    return Federation(
        model, x, y, torch.arange(60).tensor_split(clients), algorithm,
        local=Local(1, 5, 0.1), participation=participation, dtype=dtype, device="cpu", **options,
    )  # fmt: skip


@quick
@given(
    st.dictionaries(
        st.text("abc", min_size=1, max_size=3),
        st.tuples(st.sampled_from(sorted(SIZES, key=str)), st.lists(st.integers(0, 5), max_size=3)),
        max_size=4,
    )
)
def test_payload_is_elements_times_bytes(spec):
    payload = {n: torch.zeros(shape, dtype=kind) for n, (kind, shape) in spec.items()}
    expected = 0
    for kind, shape in spec.values():
        elements = 1
        for side in shape:
            elements *= side
        expected += elements * SIZES[kind]
    assert payload_bytes(payload) == expected


def test_a_view_counts_what_it_shows():
    assert payload_bytes({"w": torch.zeros(10, 10)[:2]}) == 4 * 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("participation", "m"), [(0.1, 1), (0.5, 3), (1.0, 6)])
@pytest.mark.parametrize("algorithm", [FedAvg, FedProx, FedAvgM, FedNTD, lambda: FedDF(public(), Distillation(2))])
def test_weights_travel_both_ways(algorithm, participation, m, dtype):
    """Bytes per number, times d parameters, times m clients, each way and every round."""
    fed = federation(algorithm(), participation=participation, dtype=dtype)
    fed.run(3)
    d = 5 * 6 + 6 + 6 * 3 + 3
    expected = SIZES[dtype] * d * m
    assert fed.ledger.down == fed.ledger.up == [expected] * 3
    assert [(row["down"], row["up"]) for row in fed.history] == [(expected, expected)] * 3
    assert fed.ledger.total == 6 * expected


def test_fedmd_sends_logits_only():
    fed = federation(FedMD(public()))
    fed.run(3)
    logits = 4 * 11 * 3 * 3  # bytes, samples, classes, clients
    assert fed.ledger.down == [0, logits, logits], "there is no consensus before the first round"
    assert fed.ledger.up == [logits] * 3


def test_personal_parameters_stay_at_home():
    class Headless(FedAvg):
        personal = ("head.*",)

    fed = federation(Headless())
    fed.run(2)
    assert fed.ledger.up == fed.ledger.down == [4 * (5 * 6 + 6) * 3] * 2


def test_buffers_travel_only_when_they_are_averaged():
    def normed():
        return nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))

    d = 5 * 6 + 6 + 2 * 6 + 6 * 3 + 3
    statistics = 4 * 2 * 6 + 8  # mean and variance in float32, the counter in int64
    averaged, local = (federation(FedAvg(), model=normed, buffers=b) for b in ("average", "local"))
    averaged.run(1)
    local.run(1)
    assert averaged.ledger.up == [3 * (4 * d + statistics)]
    assert local.ledger.up == [3 * 4 * d]


def test_the_papers_networks_in_bytes():
    """199,210 and 1,663,370 parameters (McMahan et al. 2017, section 3): 4 bytes each."""
    two_layers, cnn = MLP(784, (200, 200)), McMahanCNN()
    assert payload_bytes(dict(two_layers.named_parameters())) == 4 * 199_210
    assert payload_bytes(dict(cnn.named_parameters())) == 4 * 1_663_370


def test_entries_add_up():
    ledger = Ledger()
    assert ledger.total == 0
    assert ledger.enter([{"w": torch.zeros(3)}] * 2, [{"w": torch.zeros(1)}, {}]) == (24, 4)
    assert ledger.enter([], [{"w": torch.zeros(2, dtype=torch.int64)}]) == (0, 16)
    assert (ledger.down, ledger.up, ledger.total) == ([24, 0], [4, 16], 44)
