"""Optimiser rules against torch.optim, in float64, and on stacks of models."""

import pytest
import torch

from fedlib.optim import SGD, AdaDelta, AdaGrad, Adam, clip_norm

PAIRS = [
    (SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
    (SGD(0.1, 0.9), lambda p: torch.optim.SGD(p, 0.1, 0.9)),
    (SGD(0.1, 0.9, 0.01), lambda p: torch.optim.SGD(p, 0.1, 0.9, weight_decay=0.01)),
    (SGD(0.1, 0.0, 0.01), lambda p: torch.optim.SGD(p, 0.1, weight_decay=0.01)),
    (Adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
    (Adam(0.02, 0.5, 0.9, 1e-3), lambda p: torch.optim.Adam(p, 0.02, (0.5, 0.9), 1e-3)),
    (AdaGrad(0.1), lambda p: torch.optim.Adagrad(p, 0.1)),
    (AdaDelta(), lambda p: torch.optim.Adadelta(p)),
    (AdaDelta(0.5, 0.95, 1e-4), lambda p: torch.optim.Adadelta(p, 0.5, 0.95, 1e-4)),
]


def problem():
    g = torch.Generator().manual_seed(1)
    params = {n: torch.randn(shape, generator=g, dtype=torch.float64) for n, shape in (("a", (3, 2)), ("b", (4,)))}
    gradients = [
        {n: torch.randn(w.shape, generator=g, dtype=torch.float64) for n, w in params.items()} for _ in range(9)
    ]
    return params, gradients


@pytest.mark.parametrize(("rule", "make"), PAIRS, ids=lambda v: repr(v) if not callable(v) else "")
def test_rule_equals_torch(rule, make):
    params, gradients = problem()
    theirs = {n: w.clone().requires_grad_() for n, w in params.items()}
    optimiser, memory = make(list(theirs.values())), {}
    for grads in gradients:
        rule.step(params, grads, memory)
        for n, w in theirs.items():
            w.grad = grads[n].clone()
        optimiser.step()
    for n, w in params.items():
        torch.testing.assert_close(w, theirs[n].detach(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("rule", [r for r, _ in PAIRS], ids=repr)
def test_a_stack_of_models_is_updated_as_each_alone(rule):
    params, gradients = problem()
    alone, stacked = (
        {n: w.clone() for n, w in params.items()},
        {n: torch.stack([w, 2 * w]) for n, w in params.items()},
    )
    memory_alone, memory_stacked = {}, {}
    for grads in gradients:
        rule.step(alone, grads, memory_alone)
        rule.step(stacked, {n: torch.stack([g, -g]) for n, g in grads.items()}, memory_stacked)
    assert all(torch.equal(alone[n], stacked[n][0]) for n in alone)


def test_the_rate_can_be_overridden_for_a_step():
    params, gradients = problem()
    slow, fast = {n: w.clone() for n, w in params.items()}, {n: w.clone() for n, w in params.items()}
    SGD(0.1).step(slow, gradients[0], {}, lr=0.3)
    SGD(0.3).step(fast, gradients[0], {})
    assert all(torch.equal(slow[n], fast[n]) for n in slow)


def test_clip_norm_equals_torch_and_leaves_small_gradients_alone():
    _, (grads, *_) = problem()
    leaves = [torch.zeros_like(g) for g in grads.values()]
    for leaf, g in zip(leaves, grads.values(), strict=True):
        leaf.grad = g.clone()
    torch.nn.utils.clip_grad_norm_(leaves, 0.5)
    for clipped, leaf in zip(clip_norm(grads, 0.5).values(), leaves, strict=True):
        torch.testing.assert_close(clipped, leaf.grad, rtol=1e-12, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(clip_norm(grads, 1e9).values(), grads.values(), strict=True))


WRONG = {
    "lr must be a finite number >= 0": [{"lr": -0.1}, {"lr": float("nan")}, {"lr": float("inf")}, {"lr": "0.1"}],
    "momentum must be a finite number >= 0 and < 1": [{"momentum": 5}, {"momentum": -1}, {"momentum": 1.0}],
    "weight_decay must be a finite number >= 0": [{"weight_decay": -3}, {"weight_decay": float("nan")}],
    "beta1 must be a finite number >= 0 and < 1": [{"beta1": 1.0}, {"beta1": -0.1}],
    "beta2 must be a finite number >= 0 and < 1": [{"beta2": 1.5}],
    "eps must be a finite number > 0": [{"eps": 0.0}, {"eps": float("nan")}],
}
CASES = [(message, given) for message, several in WRONG.items() for given in several]


@pytest.mark.parametrize(("message", "given"), CASES)
def test_rates_that_cannot_work_are_named(message, given):
    rules = [rule for rule in (SGD, Adam, AdaGrad) if set(given) <= set(rule.__dataclass_fields__)]
    assert rules
    for rule in rules:
        with pytest.raises(ValueError, match=message):
            rule(**{"lr": 0.1} | given)


@pytest.mark.parametrize("most", [0.0, -1.0, float("nan")])
def test_a_norm_to_clip_to_is_positive(most):
    with pytest.raises(ValueError, match="the largest norm must be positive, got"):
        clip_norm({"a": torch.ones(2)}, most)
