"""Pieces of retinas by site and seed; segmenters that learn from pairs."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from fedlib import losses, retinas, rng, synthetic
from fedlib.data import scans
from fedlib.models.conditional import MapMaker, PatchJudge
from fedlib.models.unet import UNet
from fedlib.tdgan import TDGAN, Centre, Recipe

SEEDS, PIECES = (3, 5), retinas.PIECES


@pytest.fixture
def few(monkeypatch):
    """Three images of site 0 and four of site 1: the mask of a piece is where it is bright, its first pixel a name."""
    x = torch.randn(7 * PIECES, 1, 8, 8, generator=rng.stream("retinas"))
    y = (x[:, 0] > 0).float()
    x[:, 0, 0, 0] = torch.arange(len(x)) / 1000
    site = torch.tensor([0] * 3 + [1] * 4).repeat_interleave(PIECES)
    monkeypatch.setattr(scans, "vessels", lambda: (scans.Scans(x, y, x[:0], y[:0]), site))
    return x


def names(images):
    return [(1000 * 3 * row[:, 0, 0, 0]).round().int().tolist() for row in images]


def test_no_image_is_learnt_from_and_tested_on_and_seeds_hold_others(few):
    learn, test = retinas.pairs(SEEDS, 1)
    for k, every in ((0, range(48)), (1, range(48, 112))):
        for s in range(2):
            here, there = names(learn[k].images)[s], names(test[k].images)[s]
            assert sorted(here + there) == list(every)
            assert {n // PIECES for n in here}.isdisjoint(n // PIECES for n in there)
            assert len(there) == PIECES
    assert names(learn[1].images)[0] != names(learn[1].images)[1]


def test_no_test_image_tunes_its_own_seed(few):
    _, test = retinas.pairs(SEEDS, 1)
    learn, held = retinas.pairs(SEEDS, 1, tuning=True)
    for k, count in enumerate((3, 4)):
        for s in range(2):
            three = [{n // PIECES for n in names(part[k].images)[s]} for part in (test, learn, held)]
            assert [len(images) for images in three] == [1, count - 2, 1]
            assert len(set.union(*three)) == count


def test_masks_belong_to_their_images_which_lie_in_the_range_of_a_generator(few):
    learn, _ = retinas.pairs(SEEDS, 1)
    inner = (slice(None), slice(None), slice(None), slice(1, None))
    assert torch.equal(learn[0].conditions[inner], (learn[0].images[inner] > 0).float())
    assert learn[0].images.abs().max() <= 1
    assert learn[0].images.shape == learn[0].conditions.shape == (2, 2 * PIECES, 1, 8, 8)


def test_the_loss_is_that_of_each_run():
    z = torch.randn(2, 3, 1, 8, 8, generator=rng.stream("z"), dtype=torch.float64)
    y = (torch.rand(2, 3, 1, 8, 8, generator=rng.stream("y")) > 0.5).double()
    for row in range(2):
        expected = F.binary_cross_entropy_with_logits(z[row], y[row]) + losses.miss(z[row].sigmoid(), y[row]).mean()
        torch.testing.assert_close(retinas.ink(z, y)[row], expected)


def test_a_segmenter_learns_what_its_pairs_say(few):
    """Runs of a seed stand side by side: one learns from true masks, one from masks turned round."""
    learn, test = retinas.pairs(SEEDS, 1)
    images = learn[0].images.repeat_interleave(2, 0)
    masks = torch.stack([learn[0].conditions, 1 - learn[0].conditions], 1).flatten(0, 1)
    first, second = retinas.dice(partial(UNet, 1, 1, 4, 1), images, masks, test, SEEDS, 60)
    for scores in (first, second):
        assert (scores[::2] > 0.7).all()
        assert (scores[1::2] < 0.4).all()


@pytest.mark.parametrize("held", [0, 3, 1.5])
def test_some_images_are_held_and_some_are_left(few, held):
    with pytest.raises(ValueError, match="held must"):
        retinas.pairs(SEEDS, held)


def test_each_run_is_judged_on_the_images_of_its_own_seed(monkeypatch):
    """Two seeds of two runs each; what a run has learned fits its own seed's images only."""
    knows = torch.tensor([1.0, 1.0, -1.0, -1.0]).view(4, 1, 1, 1, 1)
    monkeypatch.setattr(synthetic, "fitted", lambda *_, **__: lambda x: x * knows)
    light = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1, 1).expand(2, 3, 1, 4, 4)
    test = Centre(torch.ones(2, 3, 1, 4, 4), light)
    learned = torch.zeros(4, 5, 1, 4, 4)
    (score,) = retinas.dice(lambda: None, learned, learned, [test], SEEDS, 1)
    assert score.tolist() == [1.0] * 4


def test_each_row_is_of_its_own_generator_after_both_sites(few, monkeypatch):
    """What is judged of a row, by masks of both sites, is what one run of one seed makes alone."""

    def told(make, images, masks, tests, seeds, steps):
        assert masks.shape == images.shape
        return [images.mean((1, 2, 3, 4)), (images * masks).mean((1, 2, 3, 4))]

    monkeypatch.setattr(retinas, "dice", told)
    recipe, remind = Recipe(steps=3, batch_size=3, noise=1, lr=0.01, paired=10.0), {"not": 0.0, "much": 300.0}
    exact = {"dtype": torch.float64}
    ends = retinas.worth(recipe, remind, SEEDS, 1, 1, **exact)
    for seed, own in zip(SEEDS, ends, strict=True):
        learn, _ = retinas.pairs([seed], 1)
        masks, images = (torch.cat(parts, 1) for parts in zip(*learn, strict=True))
        expected = {"real": images}
        for name, weight in remind.items():
            way = TDGAN(partial(MapMaker, 2, 1), partial(PatchJudge, 2), recipe, [seed], [weight], **exact)
            for site in learn:
                way.stage(site)
            expected[name] = way.made(masks)
        assert own.keys() == expected.keys()
        for name, made in expected.items():
            assert own[name] == pytest.approx([float(made.mean()), float((made * masks).mean())], abs=1e-5)
        assert abs(own["not"][0] - own["much"][0]) > 1e-3
