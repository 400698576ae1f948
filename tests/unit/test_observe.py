"""Observers report what they say, against a direct computation on the states that they are shown."""

import pytest
import torch

from fedlib import devices, metrics, models, observe, partition, rng
from fedlib.algorithms import FedAvg
from fedlib.federation import Federation, Local


@pytest.fixture
def played():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(90, 4, generator=g), torch.arange(90) % 3
    seen = []
    observers = [
        observe.every(2, observe.server_accuracy(x, y, by_class=True)),
        observe.client_accuracy(x, y),
        observe.local_accuracies(x, y),
        observe.update_alignment(),
        lambda fed, round_: seen.append(round_) or {},
    ]
    fed = Federation(
        lambda: models.MLP(4, (5,), 3),
        x,
        y,
        partition.dirichlet(y, 6, 0.3, rng.stream(0, "split")),
        FedAvg(),
        local=Local(epochs=2, batch_size=8),
        participation=0.5,
        device="cpu",
        dtype=torch.float64,
        observers=observers,
    )
    fed.run(4)
    return fed, seen, x.double(), y


def test_columns_stand_in_the_rounds_asked_for(played):
    fed, *_ = played
    assert [("accuracy" in row) for row in fed.history] == [False, True, False, True]
    assert [row["round"] for row in fed.history] == [1, 2, 3, 4]


def test_accuracies_are_those_of_the_states_shown(played):
    fed, seen, x, y = played
    logits = [fed.net.predict(s, x) for s in seen[-1].states]
    row = fed.history[-1]
    assert row["accuracy"] == metrics.accuracy(fed.net.predict(fed.state, x), y)
    assert row["class_accuracy"] == pytest.approx(
        [metrics.accuracy(fed.net.predict(fed.state, x)[y == c], y[y == c]) for c in range(3)]
    )
    assert row["client_accuracy"] == pytest.approx(sum(metrics.accuracy(z, y) for z in logits) / 3)
    assert row["ensemble_accuracy"] == metrics.accuracy(sum(logits) / 3, y)
    inside = []
    for k, z in zip(seen[-1].clients, logits, strict=True):
        own = y[fed.split[k]]
        # In-local accuracy by its meaning: accuracy on test samples drawn with the client's own label frequencies.
        inside.append(sum(metrics.accuracy(z[y == c], y[y == c]) for c in own.tolist()) / len(own))
    assert row["in_local"] == pytest.approx(sum(inside) / 3)


def test_alignment_compares_updates_not_weights(played):
    fed, seen, *_ = played
    last = seen[-1]
    flat = [
        torch.cat([(s[n] - r[n]).flatten() for n in fed.net.parameters])
        for s, r in zip(last.states, last.received, strict=True)
    ]
    pairs = [torch.cosine_similarity(flat[i], flat[j], dim=0) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert fed.history[-1]["alignment"] == pytest.approx(float(sum(pairs) / 3))


def test_devices_are_picked_by_name_and_refused_by_name():
    assert devices.pick("cpu") == torch.device("cpu")
    assert devices.pick("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ValueError, match="auto, cpu, cuda"):
        devices.pick("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="not available here"):
            devices.pick("cuda")
    devices.pick("cpu")
    assert devices.describe().startswith("cpu")


def test_every_wants_a_whole_number_of_rounds():
    for k in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"k must be a whole number of at least 1, got {k}"):
            observe.every(k, observe.update_alignment())


def test_local_accuracies_of_a_class_that_the_test_set_lacks_are_not_made_up(played):
    """The last class was left out of the sums, or ended in an error about shapes: now it is said."""
    fed, seen, x, y = played
    for missing in (0, 2):
        kept = y != missing
        with pytest.raises(ArithmeticError, match="has every class test samples"):
            observe.local_accuracies(x[kept], y[kept])(fed, seen[-1])
