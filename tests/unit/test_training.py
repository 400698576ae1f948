"""Training a network in one place."""

import copy
import math

import pytest
import torch
from torch import nn

from fedlib import losses, rng, study
from fedlib.data import glyphs
from fedlib.study import Method, grid
from fedlib.training import Objective, Trainer, Training, interpolated, predict, recordable


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def samples(count: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    draws = rng.stream("samples")
    return torch.randn(count, 4, generator=draws, dtype=torch.float64), torch.randint(3, (count,), generator=draws)


SHORT = Training(epochs=3, batch_size=16)


def trainer(objective: Objective | None = None, how: Training = SHORT, **options) -> Trainer:
    return Trainer(network, *samples(), objective or Objective(), how, dtype=torch.float64, device="cpu", **options)


def weights(module: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach()


class Mapped(Objective):
    """A further module that is trained along."""

    def setup(self, trainer: Trainer) -> None:
        self.modules = {"map": trainer.build(lambda: nn.Linear(3, 3), "map")}

    def loss(self, network, x, y):
        return losses.cross_entropy(self.modules["map"](network(x)), y)


class Idle(Mapped):
    """The same module, which nobody asks."""

    def loss(self, network, x, y):
        return losses.cross_entropy(network(x), y)


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


class Weighed(Objective):
    """Cross-entropy times a number of many."""

    def __init__(self, by: torch.Tensor):
        self.by = by

    def loss(self, network, x, y):
        return self.by[600] * super().loss(network, x, y)


class Distil(Objective):
    def __init__(self, temperature: float = 1.0):
        self.temperature = temperature

    def setup(self, trainer: Trainer) -> None:
        self.teacher = trainer.trained("teacher")

    def loss(self, network, x, y):
        return losses.kd(network(x), self.teacher(x), self.temperature)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "steps"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_equals_sgd_written_by_hand(schedule: str, nesterov: bool) -> None:
    how = Training(4, 16, 0.2, 0.8, nesterov, 1e-2, schedule)
    one = trainer(how=how, seed=3)
    w = {n: p.detach().clone() for n, p in one.network.named_parameters()}
    one.run()
    x, y = samples()
    velocity, step, steps = {n: torch.zeros_like(p) for n, p in w.items()}, 0, 4 * 4
    for epoch in range(4):
        order = torch.randperm(50, generator=rng.stream(3, "network", "batches", epoch))
        for rows in order.split(16):
            leaves = {n: p.clone().requires_grad_() for n, p in w.items()}
            h = torch.tanh(x[rows] @ leaves["0.weight"].T + leaves["0.bias"])
            z = h @ leaves["2.weight"].T + leaves["2.bias"]
            loss = (z.logsumexp(-1) - z[torch.arange(len(z)), y[rows]]).mean()
            grads = torch.autograd.grad(loss, list(leaves.values()))
            done = step / steps
            rate = {
                "constant": 0.2,
                "cosine": 0.1 * (1 + math.cos(math.pi * done)),
                "steps": 0.2 if done < 0.5 else 0.02 if done < 0.75 else 0.002,
            }[schedule]
            for n, g in zip(w, grads, strict=True):
                g = g + 1e-2 * w[n]
                velocity[n] = 0.8 * velocity[n] + g
                w[n] = w[n] - rate * (g + 0.8 * velocity[n] if nesterov else velocity[n])
            step += 1
    assert torch.allclose(weights(one.network), torch.cat([p.flatten() for p in w.values()]), rtol=1e-10, atol=1e-12)


def test_same_key_same_bits_and_another_seed_others() -> None:
    one, two, other = (trainer(seed=s) for s in (0, 0, 1))
    for each in (one, two, other):
        each.run()
    assert torch.equal(weights(one.network), weights(two.network))
    assert not torch.equal(weights(one.network), weights(other.network))


def test_the_objective_of_a_comparison_is_left_as_it_is() -> None:
    shared = Mapped()
    trainer(shared).run()
    assert not shared.modules


def test_a_module_that_is_trained_along_moves_nobodys_draws() -> None:
    plain, idle = trainer(), trainer(Idle())
    plain.run(), idle.run()
    assert torch.equal(weights(plain.network), weights(idle.network))


def test_a_module_that_is_trained_along_is_trained() -> None:
    one = trainer(Mapped())
    before = weights(one.objective.modules["map"]).clone()
    one.run()
    assert not torch.equal(before, weights(one.objective.modules["map"]))


def test_a_teacher_is_trained_once_on_the_same_samples_and_frozen() -> None:
    one, two = trainer(Distil()), trainer(Distil(4.0))
    assert one.objective.teacher is two.objective.teacher
    teacher = one.objective.teacher
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    before = weights(teacher).clone()
    one.run()
    assert torch.equal(before, weights(teacher))
    assert not torch.equal(weights(trainer().network), weights(trainer(name="teacher").network))


def test_teachers_of_other_samples_seeds_or_ways_are_others() -> None:
    x, y = samples()
    one = trainer().trained("teacher")
    others = [
        trainer(seed=1).trained("teacher"),
        trainer().trained("teacher", samples=(x[:40], y[:40])),
        trainer().trained("teacher", samples=(x, (y + 1) % 3)),
        trainer().trained("teacher", how=Training(epochs=1)),
        trainer().trained("other"),
    ]
    assert all(other is not one and not torch.equal(weights(other), weights(one)) for other in others)


def test_teachers_of_other_objectives_networks_or_precisions_are_others() -> None:
    one, by = trainer().trained("teacher"), torch.ones(2000, dtype=torch.float64)
    weighed = trainer().trained("teacher", objective=Weighed(by))
    by = by.clone()
    by[600] = 0.1  # printed, this tensor looks the same
    others = [
        trainer().trained("teacher", model=normed),
        trainer().trained("teacher", objective=Weighed(by)),
    ]
    assert weighed is not one
    assert weighed is trainer().trained("teacher", objective=Weighed(torch.ones(2000, dtype=torch.float64)))
    for other in others:
        assert not any(torch.equal(weights(other), weights(known)) for known in (one, weighed))


def test_a_teacher_learns_at_the_precision_of_whoever_asks() -> None:
    one, half = (
        Trainer(network, *samples(), Objective(), SHORT, device="cpu", precision=p).trained("teacher")
        for p in (None, "bf16")
    )
    assert not torch.equal(weights(one), weights(half))


def test_a_teacher_of_another_teacher_is_another() -> None:
    """Printed, two networks of one kind look the same."""

    class Taught(Objective):
        def __init__(self, teacher: nn.Module):
            self.teacher = teacher

        def loss(self, network, x, y):
            return losses.kd(network(x), self.teacher(x))

    first, second = (trainer().trained(name) for name in ("teacher", "other"))
    one, two = (trainer().trained("student", objective=Taught(t)) for t in (first, second))
    assert not torch.equal(weights(one), weights(two))


def test_the_last_batch_is_never_a_single_sample() -> None:
    x, y = samples(33)
    seen: list[int] = []

    class Count(Objective):
        def loss(self, network, x, y):
            seen.append(len(x))
            return super().loss(network, x, y)

    Trainer(network, x, y, Count(), Training(1, 16), dtype=torch.float64, device="cpu").run()
    assert seen == [16, 17]


def test_watchers_see_every_epoch_in_evaluation_mode() -> None:
    def watch(one: Trainer, epoch: int) -> dict:
        assert not one.network.training
        return {"seen": epoch}

    one = trainer(watchers=[watch])
    assert [row["seen"] for row in one.run()] == [0, 1, 2]
    assert not one.network.training


def test_all_that_is_trained_is_in_training_mode_in_steps_and_in_evaluation_mode_for_watchers() -> None:
    steps, watched = [], []

    class Spy(Mapped):
        def loss(self, network, x, y):
            steps.append((network.training, self.modules["map"].training))
            return super().loss(network, x, y)

    def watch(one: Trainer, epoch: int) -> None:
        watched.append((one.network.training, one.objective.modules["map"].training))

    trainer(Spy(), watchers=[watch]).run()
    assert set(steps) == {(True, True)}
    assert set(watched) == {(False, False)}


def test_a_column_with_two_authors_is_refused() -> None:
    with pytest.raises(ValueError, match="two authors"):
        trainer(watchers=[lambda one, epoch: {"loss": 0.0}]).run()


def test_divergence_is_an_arithmetic_error() -> None:
    with pytest.raises(ArithmeticError, match="diverged"):
        Trainer(
            lambda: nn.Linear(4, 3), *samples(), Objective(), Training(20, 16, 1e308), dtype=torch.float64, device="cpu"
        ).run()


def test_a_last_step_that_diverges_is_an_arithmetic_error() -> None:
    x, y = samples()
    with pytest.raises(ArithmeticError, match="epoch 1: training diverged, weights"):
        Trainer(lambda: nn.Linear(4, 3), 10 * x, y, Objective(), Training(1, 64, 3e38), device="cpu").run()


def test_augmentation_is_keyed_by_step() -> None:
    def shift(x: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
        return x + torch.randn(len(x), 1, generator=draws, dtype=x.dtype)

    how = Training(2, 16, augment=shift)
    one, two, plain = trainer(how=how), trainer(how=how), trainer(how=Training(2, 16))
    for t in (one, two, plain):
        t.run()
    assert torch.equal(weights(one.network), weights(two.network))
    assert not torch.equal(weights(one.network), weights(plain.network))


def test_every_step_of_every_seed_has_draws_of_its_own() -> None:
    seen = []

    def note(x: torch.Tensor, draws: torch.Generator) -> torch.Tensor:
        seen.append(float(torch.rand(1, generator=draws)))
        return x

    for seed in (0, 1):
        trainer(how=Training(2, 16, augment=note), seed=seed).run()
    assert len(seen) == len(set(seen)) == 16


def test_the_loss_of_an_epoch_is_the_mean_over_its_samples() -> None:
    class Mean(Objective):
        def loss(self, network, x, y):
            return super().loss(network, x, y) * 0 + x.mean()

    x, y = samples()
    one = Trainer(network, x, y, Mean(), SHORT, dtype=torch.float64, device="cpu")
    assert [row["loss"] for row in one.run()] == pytest.approx([float(x.mean())] * 3, abs=1e-12)


@pytest.mark.parametrize(
    "wrong", [{"epochs": -1}, {"batch_size": 0}, {"lr": 0.0}, {"momentum": 1.0}, {"weight_decay": -1.0},
              {"schedule": "linear"}, {"lr": float("nan")}],
)  # fmt: skip
def test_numbers_that_cannot_work_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Training(**wrong)


def test_samples_that_cannot_work_are_refused() -> None:
    x, y = samples()
    with pytest.raises(ValueError, match="finite"):
        Trainer(network, x / 0, y, Objective(), Training(1), dtype=torch.float64)
    with pytest.raises(ValueError, match="y must be classes"):
        Trainer(network, x, y + 0.6, Objective(), Training(1), dtype=torch.float64)


def test_interpolated_networks() -> None:
    start, end = network(), network()
    assert torch.equal(weights(interpolated(start, end, 1.0)), weights(end))
    assert torch.equal(weights(interpolated(start, end, 0.0)), weights(start))
    middle = interpolated(start, end, 0.25)
    assert torch.allclose(weights(middle), 0.25 * weights(end) + 0.75 * weights(start))
    with pytest.raises(ValueError, match="same parameters"):
        interpolated(nn.Linear(2, 2), end, 0.5)


def test_predictions_in_parts_leave_the_mode() -> None:
    one, (x, _) = network().double().train(), samples()
    assert torch.allclose(predict(one, x, batch=7), one(x), rtol=1e-12)
    assert one.training


def test_statistics_of_batches_are_neither_used_nor_moved_by_predictions_and_go_with_the_end() -> None:
    start, end, (x, _) = normed().double(), normed().double(), samples()
    start(x), end(3 * x)  # the running means differ
    kept = end[1].running_mean.clone()
    torch.testing.assert_close(predict(end, x, batch=7), predict(end, x), rtol=1e-12, atol=1e-14)
    assert torch.equal(end[1].running_mean, kept)
    assert torch.equal(interpolated(start, end, 0.5)[1].running_mean, kept)


@pytest.fixture
def experiment() -> study.Experiment:
    quick = study.Central(
        data="digits", model=lambda: nn.Linear(64, 10), flat=True, samples=200, test=100, seeds=2,
        training=Training(3, 32, 0.05),
    )  # fmt: skip
    return study.begin({"quick": quick}, "quick", device="cpu")


def test_methods_are_compared_as_those_of_federations_are(experiment: study.Experiment) -> None:
    runs = experiment.compare({"plain": Objective(), "slow": Method(Objective(), lr=1e-4)})
    assert runs.mean("plain", "accuracy") > runs.mean("slow", "accuracy")
    assert experiment.run.setting["of methods"] == {"slow": {"lr": 1e-4}}
    by_hand = experiment.trainer(Objective(), 1)
    by_hand.run()
    assert runs["plain"][1].last["accuracy"] == by_hand.history[-1]["accuracy"]


def test_they_are_tuned_as_those_of_federations_are(experiment: study.Experiment) -> None:
    best = experiment.tune({"plain": grid(Objective, lr=(1e-5, 0.05))}, seeds=2)
    assert best["plain"].changes == {"lr": 0.05}
    assert experiment.run.tuning["plain"]["seeds"] == [1000, 1001]


def test_a_run_that_diverges_scores_chance(experiment: study.Experiment) -> None:
    runs = experiment.compare({"wild": Method(Objective(), lr=1e38, momentum=0.0)}, chance={"accuracy": 0.1})
    assert runs.mean("wild", "accuracy") == 0.1


def test_letters_are_rendered_anew_for_each_seed_and_once_for_all_methods() -> None:
    setting = study.Central(
        data="glyphs", look=glyphs.Domain(noise=0.1), side=8, model=nn.Identity, samples=40, test=20, seeds=2
    )
    one, other = setting.draw(0), setting.draw(1)
    assert one.x.shape == (40, 1, 8, 8)
    assert len(one.y_test) == 20
    assert one.x is setting.draw(0).x
    assert not torch.equal(one.x, other.x)


def test_federations_and_networks_do_not_mix(experiment: study.Experiment) -> None:
    from fedlib.algorithms import FedAvg

    with pytest.raises(TypeError, match="Objective"):
        experiment.compare({"fedavg": FedAvg()})
    with pytest.raises(TypeError, match="nothing to federate"):
        experiment.federation(FedAvg(), 0)
    with pytest.raises(TypeError, match="one place already"):
        experiment.compare({"plain": Objective()}, "ceiling", ceiling=True)


def test_only_steps_that_stay_the_same_are_recorded() -> None:
    class Promised(Distil):
        capturable = True

    class ByEpoch(Promised):
        def begin(self, epoch: int) -> None:
            self.epoch = epoch

    assert recordable(Objective())
    assert recordable(Promised())
    assert not recordable(Distil())
    assert not recordable(ByEpoch())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_recorded_step_is_the_step(schedule: str) -> None:
    """50 samples in batches of 16: the last of an epoch, of two, is taken unrecorded in between."""

    class Slow(Objective):
        """Plain cross-entropy that has promised nothing."""

    x, y = samples()
    how, ends = Training(6, 16, 0.2, 0.8, True, 1e-2, schedule), []
    for objective in (Objective(), Slow()):
        one = Trainer(network, x, y, objective, how, device="cuda")
        history = one.run()
        ends.append((weights(one.network), [row["loss"] for row in history]))
    assert torch.allclose(ends[0][0], ends[1][0], rtol=1e-4, atol=1e-5)
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-4)


def test_products_in_bfloat16_are_near() -> None:
    x, y = samples()
    exact, half = (
        Trainer(network, x, y, Objective(), SHORT, device="cpu", precision=p).run()[-1]["loss"] for p in (None, "bf16")
    )
    assert exact != half
    assert half == pytest.approx(exact, rel=0.05)


def test_two_trainers_share_no_weights() -> None:
    one = trainer()
    two = copy.deepcopy(one.network)
    one.run()
    assert not torch.equal(weights(one.network), weights(two))


class TestACopyOfTheTeacher:
    """A student that starts as its teacher (Stanton et al. 2021, lambda = 1)."""

    class Student(Objective):
        def setup(self, trainer):
            self.teacher = trainer.trained("teacher")
            trainer.network = interpolated(trainer.network, self.teacher, 1.0).requires_grad_(True).train()
            trainer.y = predict(self.teacher, trainer.x)

        def loss(self, network, x, y):
            return losses.kd(network(x), y, 4.0)

    def moved(self, **changes):
        how = Training(3, 20, 0.1, **changes)
        trainer = Trainer(network, *samples(60), self.Student(), how, dtype=torch.float64, device="cpu")
        history = trainer.run()
        teacher = trainer.objective.teacher
        gap = max((a - b).abs().max() for a, b in zip(trainer.network.parameters(), teacher.parameters(), strict=True))
        return history, float(gap.detach())

    def test_has_no_gradient_and_stays(self):
        history, gap = self.moved()
        assert max(abs(row["loss"]) for row in history) < 1e-12
        assert gap < 1e-12

    def test_drifts_with_weight_decay(self):
        assert self.moved(weight_decay=0.05)[1] > 1e-3
