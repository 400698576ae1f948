"""MNIST-1D: the numbers of the author's package, a fresh set for every seed, and nobody's random state is touched."""

import numpy as np
import pytest
import torch

from fedlib import data, models, rng
from fedlib.data import mnist1d, packs
from fedlib.models import Net
from fedlib.optim import SGD

# Checksums of what the package mnist1d 0.0.2.post1 makes (NumPy 2.4.6, SciPy 1.17.1), by seed.
PACKAGE = {
    42: "cfc8bf4f89178c37415f307e12b4c28865a4cfe6c57eda0f20cc79d3886006a8",
    0: "3428292b0aa21bfbb5270ff826f930492fbda1c43a3801933e0a6a3cfd422c11",
    7: "7489317bd5d5ab5f66c7fc96ac9f25e8a0c6c1323b031f93f56c980ca76f454d",
}
FIRST_LABELS = [2, 6, 4, 5, 6, 6, 6, 0]
FIRST_TRAIN = [-0.33200566736939013, 0.6830780818315106, 0.25410828809924857, 0.09805558923634938, -1.093485710822378]
LAST_TEST = [-0.5193287078205188, -0.13949271059302198, -0.6893183078535029, -0.32793801500521963, -0.5400119928423919]


@pytest.mark.parametrize("seed", PACKAGE)
def test_samples_are_those_of_the_package(seed):
    assert mnist1d.checksum(mnist1d.arrays(seed=seed)) == PACKAGE[seed]


def test_the_first_samples_are_the_packages_to_rounding():
    raw = mnist1d.arrays()
    assert raw["y_train"][:8].tolist() == FIRST_LABELS
    assert np.allclose(raw["x_train"][0, 0, ::8], FIRST_TRAIN, rtol=0, atol=1e-12)
    assert np.allclose(raw["x_test"][-1, 0, ::8], LAST_TEST, rtol=0, atol=1e-12)


def test_the_loaded_set_is_the_default_one_in_the_form_of_images():
    d, raw = data.load("mnist1d"), mnist1d.arrays()
    assert (d.x_train.shape, d.x_test.shape, d.num_classes) == ((4000, 1, 1, 40), (1000, 1, 1, 40), 10)
    assert (d.x_train.dtype, d.y_train.dtype) == (torch.float32, torch.int64)
    assert torch.equal(d.x_test[:, :, 0], torch.from_numpy(raw["x_test"]).float())
    both = torch.cat([data.load("mnist1d", dtype=torch.float64).x_train, torch.from_numpy(raw["x_test"])[:, :, None]])
    assert abs(float(both.mean())) < 1e-12
    assert float(both.std(correction=0)) == pytest.approx(1, abs=1e-12)
    assert torch.bincount(torch.cat([d.y_train, d.y_test])).tolist() == [500] * 10


def test_every_seed_has_a_training_and_a_test_part_of_its_own():
    one, same, other = (mnist1d.dataset(40, 20, seed) for seed in (3, 3, 4))
    assert torch.equal(one.x_test, same.x_test)
    assert (one.sha256, one.shape) == (same.sha256, (1, 1, 40))
    assert one.sha256 != other.sha256
    rows = torch.cat([d.x_test.flatten(1) for d in (one, other)] + [one.x_train.flatten(1)])
    assert len(rows.unique(dim=0)) == 80, "a sample stands in two parts"


def test_random_generators_of_numpy_and_torch_are_left_alone():
    np.random.seed(5)  # noqa: NPY002
    before, torchs = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    mnist1d.dataset(10, 10)
    after = np.random.get_state()  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(torchs, torch.get_rng_state())


def test_the_checksum_sees_a_change_and_not_the_last_bits():
    raw = mnist1d.arrays(10, 10)
    last = raw | {"x_train": raw["x_train"] * (1 + 1e-14)}
    assert packs.content_sha256(last) != packs.content_sha256(raw)
    assert mnist1d.checksum(last) == mnist1d.checksum(raw)
    assert mnist1d.checksum(raw | {"x_train": raw["x_train"] + 2e-4}) != mnist1d.checksum(raw)


@pytest.mark.parametrize(("train", "test"), [(0, 10), (10, 0), (7, 4), (-10, 20)])
def test_sizes_that_cannot_be_are_refused(train, test):
    with pytest.raises(ValueError, match=f"{train} training and {test} test samples; both must be positive"):
        mnist1d.dataset(train, test)


def test_there_are_no_bytes_to_be_had():
    with pytest.raises(ValueError, match="mnist1d has no bytes, its samples are float64: leave raw out"):
        data.load("mnist1d", raw=True)


def test_the_network_of_the_set_learns_it():
    d = mnist1d.dataset(1000, 500, seed=1)
    net, memory, rule = Net(rng.build(models.Cnn1d, 0)), {}, SGD(0.1, momentum=0.9)
    state = net.initial()
    leaves = {n: state[n].requires_grad_() for n in net.parameters}
    order = torch.Generator().manual_seed(0)
    for _ in range(15):
        for rows in torch.randperm(1000, generator=order).split(50):
            loss = torch.nn.functional.cross_entropy(net(state, d.x_train[rows], train=True), d.y_train[rows])
            grads = torch.autograd.grad(loss, list(leaves.values()))
            rule.step({n: w.detach() for n, w in leaves.items()}, dict(zip(leaves, grads, strict=True)), memory)
    right = net.predict({n: w.detach() for n, w in state.items()}, d.x_test).argmax(1) == d.y_test
    assert float(right.float().mean()) > 0.6
    assert torch.equal(net.predict(state, d.x_test), net.predict(state, d.x_test.squeeze(2)))
