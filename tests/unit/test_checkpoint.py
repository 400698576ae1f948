"""A resumed federation ends with the bits of one that was never interrupted."""

import pytest
import torch
from safetensors.torch import save_file

from fedlib import checkpoint, models, observe, partition, rng
from fedlib.algorithms import FedAvg, FedAvgM, FedDF, FedMD
from fedlib.distill import Distillation
from fedlib.federation import Federation, Local


def federation(algorithm, seed=3, hidden=(7,)):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 5, generator=g), torch.randint(0, 3, (60,), generator=g)
    return Federation(
        lambda: models.MLP(5, hidden, 3),
        x,
        y,
        partition.iid(y, 6, rng.stream(0, "split")),
        algorithm,
        local=Local(epochs=2, batch_size=4, momentum=0.9),
        participation=0.5,
        seed=seed,
        device="cpu",
        observers=[observe.server_accuracy(x, y), observe.update_alignment()],
    )


ALGORITHMS = {
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "feddf": lambda: FedDF(torch.ones(8, 5), Distillation(steps=3, batch_size=4)),
    "fedmd": lambda: FedMD(torch.ones(8, 5)),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_resumed_run_has_the_bits_of_an_uninterrupted_one(name, tmp_path):
    whole = federation(ALGORITHMS[name]())
    whole.run(5)
    first = federation(ALGORITHMS[name]())
    first.run(2)
    checkpoint.save(first, tmp_path / "deep" / "two.safetensors")
    second = federation(ALGORITHMS[name]())
    checkpoint.restore(second, tmp_path / "deep" / "two.safetensors")
    second.run(3)
    assert all(torch.equal(whole.state[n], second.state[n]) for n in whole.state)
    assert whole.own.keys() == second.own.keys()
    assert all(torch.equal(t, second.own[k][n]) for k, kept in whole.own.items() for n, t in kept.items())
    timeless = [[{k: v for k, v in row.items() if k != "seconds"} for row in f.history] for f in (whole, second)]
    assert timeless[0] == timeless[1]
    assert whole.ledger == second.ledger
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["two.safetensors"]


def test_a_foreign_checkpoint_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    checkpoint.save(federation(FedAvg()), path)
    with pytest.raises(ValueError, match=r"'seed': 3.*'seed': 4"):
        checkpoint.restore(federation(FedAvg(), seed=4), path)
    with pytest.raises(ValueError, match="FedAvgM"):
        checkpoint.restore(federation(FedAvgM()), path)
    with pytest.raises(ValueError, match="another model"):
        checkpoint.restore(federation(FedAvg(), hidden=(8,)), path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="fedlib-federation-1"):
        checkpoint.restore(federation(FedAvg()), path)
