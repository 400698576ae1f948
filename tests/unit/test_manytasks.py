"""Tasks that share a body: who has which samples, what nobody trains on, and the scores from their definitions."""

import pytest
import torch

from fedlib import manytasks
from fedlib.data import scans
from fedlib.manytasks import QUESTIONS, Who, held, near, of_scans, of_scenes, overlap, right

FEW = Who(clients=3, samples=20, helpers=10, test=50)


def prints(x):
    """Images as things to compare."""
    return {tuple(image.flatten().tolist()) for image in x.flatten(0, -4)}


def test_clients_have_samples_of_their_own_and_the_same_digits_judge():
    clean = Who(clients=3, samples=20, helpers=10, test=50, noise=0.0)
    one, two, tunes = of_scenes(3, clean), of_scenes(4, clean), of_scenes(3, clean, tuning=True)
    assert one["classes"][0].shape == (3, 20, 1, 12, 12)
    assert one["masks"][1].shape == (2, 10, 12, 12)
    assert one["other"][1].shape == (2, 10, 2)
    assert one["labels"][0].shape == (4, 10, 1, 12, 12)
    assert torch.equal(one["labels"][0][2:], one["other"][0])
    judges = one["classes"][3].bincount(minlength=10)
    assert (judges.sum(), len(tunes["classes"][3])) == (100, 1797 - 50 - 60 - 40)
    assert torch.equal(judges, two["classes"][3].bincount(minlength=10))
    assert not torch.equal(one["classes"][2], two["classes"][2])  # other scenes of them

    def digits(x):
        """The middle of what is not empty says which digit it is, wherever it lies."""
        return {tuple(v for v in image.flatten().tolist() if v) for image in x.flatten(0, -4)}

    used = [digits(own[name][0]) for own in (one, two, tunes) for name in ("classes", "labels")]
    assert all(not digits(one["classes"][2]) & seen for seen in used)
    assert not digits(tunes["classes"][2]) & (used[4] | used[5] | digits(one["classes"][2]))
    assert len(prints(torch.cat([one["classes"][0].flatten(0, 1), one["labels"][0].flatten(0, 1)]))) >= 98


def test_more_scenes_than_digits_are_refused():
    with pytest.raises(ValueError, match=r"1350 scenes to train on and 447 digits that judge are more"):
        of_scenes(0, Who(samples=150, helpers=225, test=447))
    for name in ("clients", "samples", "helpers", "test"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number of at least 1"):
            Who(**{name: 0})


def test_medical_images_that_tune_are_training_images_of_nobody(monkeypatch):
    def numbered(n, test, classes=3):
        """Images whose pixels are their number."""
        x = torch.arange(n + test).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
        y = torch.arange(n + test) % classes
        return scans.Scans(x[:n], y[:n], x[n:], y[n:])

    eyes = numbered(520, 8)
    made = numbered(60, 7), (eyes, torch.arange(520) % 2), numbered(40, 6, 2)
    monkeypatch.setattr(manytasks, "packs", lambda: made)
    who = Who(clients=2, samples=5, helpers=9)
    judged, tunes = of_scans(77, who), of_scans(77, who, tuning=True)
    assert judged["classes"][0].shape == (2, 5, 1, 2, 2)
    assert judged["labels"][0].shape == (4, 5, 1, 2, 2)
    assert (judged["masks"][0].shape[:2], tunes["masks"][0].shape[:2]) == ((2, 260), (2, 256))
    poor = prints(torch.cat([judged[n][0].flatten(0, 1) for n in ("classes", "labels")]))
    assert len(poor) == 30
    for name, many in {"classes": 60, "masks": 520, "other": 40}.items():
        own = poor if name == "classes" else prints(tunes[name][0])
        assert len(prints(tunes[name][2])) == many - len(own)
        assert not prints(tunes[name][2]) & (own | prints(judged[name][2]))


def test_scores_from_their_definitions():
    z = torch.tensor([[[2.0, 1.0], [0.0, 1.0]]])
    assert right(z, torch.tensor([[0, 0]])).tolist() == [0.5]
    assert near(z, torch.tensor([[[1.6, 1.4], [0.0, 0.5]]])).tolist() == [0.5]
    full = torch.ones(1, 3, 2, 2)
    truth = torch.stack([torch.ones(2, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.zeros(2, 2)])[None]
    assert overlap(full, truth).item() == pytest.approx((1 + 2 / 5 + 0) / 3)
    assert overlap(-full, torch.zeros(1, 3, 2, 2)).item() == 1  # nothing there, and nothing found


def test_seeds_lie_side_by_side_with_classes_whole():
    own = held("scenes", FEW, ("classes", "masks"), [3, 4], False, torch.float64, "cpu")
    assert list(own) == ["classes", "masks"]
    assert (own["classes"].x.dtype, own["classes"].y.dtype) == (torch.float64, torch.int64)
    assert torch.equal(own["masks"].x[1].float(), of_scenes(4, FEW)["masks"][0])
    with pytest.raises(ValueError, match="images"):
        held("films", FEW, ("classes",), [3], False, torch.float64, "cpu")
    with pytest.raises(ValueError, match="task"):
        held("scenes", FEW, ("colours",), [3], False, torch.float64, "cpu")


@pytest.mark.parametrize("images", QUESTIONS)
def test_a_network_answers_each_question(images):
    for name, question in QUESTIONS[images].items():
        task = question.task(name, 2, patch=4, width=8, tokens=4)
        z = task.tail()(task.head()(torch.zeros(5, 1, 8, 8)))
        assert z.shape == ((5, question.numbers) if question.numbers else (5, 8, 8))
        assert (task.name, task.clients, task.loss) == (name, 2, question.loss)


def test_losses_fall_where_answers_are_right():
    masks = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    for loss, good, y in (
        (manytasks.ink, 20 * masks - 10, masks),
        (manytasks.apart, torch.ones(1, 1, 2), torch.ones(1, 1, 2)),
    ):
        assert loss(good, y).shape == (1,)
        assert loss(good, y).item() < 0.01 < 0.5 < loss(-good, y).item()
