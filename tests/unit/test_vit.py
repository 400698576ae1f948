"""A vision transformer in pieces: patches, tokens, answers; and the Dice loss of masks."""

import pytest
import torch

from fedlib import losses, rng
from fedlib.models.transformer import Block
from fedlib.models.vit import DenseTail, Encoder, FlatTail, PatchHead


def images(n=2, side=6):
    return torch.randn(n, 1, side, side, generator=rng.stream("images"), dtype=torch.float64)


def test_a_token_sees_its_patch_alone():
    head, x = rng.build(lambda: PatchHead(1, 3, 8), 0).double(), images()
    moved = x.clone()
    moved[:, :, 3:, :3] += 1  # the patch below the first
    same = (head(x) == head(moved)).all(-1)
    assert same.tolist() == [[True, True, False, True]] * 2


def test_the_head_is_a_convolution_whose_stride_is_its_width():
    head, x = rng.build(lambda: PatchHead(2, 3, 8), 0).double(), torch.cat([images(), -(images() ** 2)], 1)
    first, act, last = head.embed
    maps = torch.nn.functional.conv2d(x, first.weight.view(-1, 2, 3, 3), first.bias, stride=3)
    torch.testing.assert_close(head(x), last(act(maps.flatten(2).transpose(1, 2))), rtol=1e-12, atol=1e-13)


def test_a_dense_tail_puts_each_pixel_where_its_patch_was():
    tail = DenseTail(9, 3).double()
    with torch.no_grad():
        tail.out.weight.copy_(torch.eye(9))
        tail.out.bias.zero_()
    x = images()
    cells = x.unflatten(3, (2, 3)).unflatten(2, (2, 3)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    assert torch.equal(tail(cells), x[:, 0])


def test_an_encoder_without_places_treats_tokens_alike_and_with_them_it_does_not():
    body = rng.build(lambda: Encoder(4, 8, 2, 2), 0).double()
    h = torch.randn(3, 4, 8, generator=rng.stream("tokens"), dtype=torch.float64)
    turned = [2, 0, 3, 1]
    assert not torch.allclose(body(h[:, turned]), body(h)[:, turned])
    with torch.no_grad():
        body.place.zero_()
    torch.testing.assert_close(body(h[:, turned]), body(h)[:, turned], rtol=1e-11, atol=1e-12)


def test_an_encoder_is_its_blocks_in_order_and_its_looks_are_the_last_ones():
    body = rng.build(lambda: Encoder(5, 8, 2, 3), 0).double()  # not as many tokens as numbers in a head
    h = torch.randn(3, 5, 8, generator=rng.stream("tokens"), dtype=torch.float64)
    assert len(body.blocks) == 3
    x, seen, looks = h + body.place, torch.ones(3, 5, dtype=torch.bool), []
    for block in body.blocks:
        x, own = Block.forward(block, x, seen)  # where all are seen, what is seen makes no difference
        looks.append(own.mean(1))
    torch.testing.assert_close(body(h), torch.nn.functional.layer_norm(x, (8,), body.norm.weight, body.norm.bias))
    torch.testing.assert_close(body.looks(h), looks[-1])
    assert not torch.allclose(looks[-1], looks[0])


def test_a_flat_tail_lays_tokens_end_to_end():
    tail = rng.build(lambda: FlatTail(4, 8, 3), 0).double()
    h = torch.randn(2, 4, 8, generator=rng.stream("tokens"), dtype=torch.float64)
    by_token = tail.out.weight.view(3, 4, 8)
    torch.testing.assert_close(tail(h), torch.einsum("otd,btd->bo", by_token, h) + tail.out.bias)


def test_looks_are_shares():
    body = rng.build(lambda: Encoder(4, 8, 2, 1), 0).double()
    looks = body.looks(torch.randn(3, 4, 8, generator=rng.stream("tokens"), dtype=torch.float64))
    assert looks.shape == (3, 4, 4)
    torch.testing.assert_close(looks.sum(-1), torch.ones(3, 4, dtype=torch.float64))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PatchHead(1, 0, 8), "patch must be a whole number of at least 1"),
        (lambda: PatchHead(0, 3, 8), "channels must be"),
        (lambda: PatchHead(1, 3, 8)(torch.zeros(1, 1, 7, 6)), "in whole patches of 3 x 3 are needed"),
        (lambda: PatchHead(1, 3, 8)(torch.zeros(1, 6, 6)), "are needed, got"),
        (lambda: Encoder(0, 8), "tokens must be"),
        (lambda: Encoder(4, 8, 3), "width 8 cannot be shared out evenly among 3 heads"),
        (lambda: Encoder(4, 8, 2, 0), "layers must be"),
        (lambda: Encoder(4, 8)(torch.zeros(1, 5, 8)), r"tokens \[B, 4, 8\] are needed"),
        (lambda: FlatTail(4, 8, 0), "outputs must be"),
        (lambda: FlatTail(4, 8, 3)(torch.zeros(1, 5, 8)), "tokens of 32 numbers in all are needed"),
        (lambda: DenseTail(8, 0), "patch must be"),
        (lambda: PatchHead(1, 3, 0), "width must be a whole number of at least 1, got 0"),
        (lambda: Encoder(4, 0), "width must be a whole number of at least 1, got 0"),
        (lambda: FlatTail(4, 0, 3), "width must be a whole number of at least 1, got 0"),
        (lambda: DenseTail(0, 3), "width must be a whole number of at least 1, got 0"),
        (lambda: PatchHead(2, 3, 8)(torch.zeros(1, 1, 6, 6)), r"images \[B, 2, H, W\] in whole patches of 3 x 3"),
        (lambda: DenseTail(8, 3)(torch.zeros(4, 8)), r"tokens of a square image are needed, got \[4, 8\]"),
        (lambda: DenseTail(8, 3)(torch.zeros(1, 5, 8)), "tokens of a square image are needed, got 5"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_dice_from_the_definition():
    logits = torch.randn(2, 3, 4, 5, generator=rng.stream("logits"), dtype=torch.float64)
    target = (torch.rand(2, 3, 4, 5, generator=rng.stream("mask")) > 0.5).double()
    p = 1 / (1 + (-logits).exp())
    each = [[1 - (2 * (p[i, j] * target[i, j]).sum() + 0.5) / (p[i, j].sum() + target[i, j].sum() + 0.5)
             for j in range(3)] for i in range(2)]  # fmt: skip
    torch.testing.assert_close(losses.dice(logits, target, 0.5), torch.tensor(each).mean(1).double())


def test_dice_of_a_perfect_an_empty_and_a_wrong_mask():
    mask = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)
    sure = 100 * (2 * mask - 1)
    assert losses.dice(sure, mask).item() == pytest.approx(0, abs=1e-12)
    assert losses.dice(torch.full_like(mask, -100), 0 * mask).item() == pytest.approx(0, abs=1e-12)
    assert losses.dice(-sure, mask, 1e-6).item() == pytest.approx(1, abs=1e-5)


def test_dice_has_the_gradient_of_its_differences():
    logits = torch.randn(1, 3, 3, generator=rng.stream("grad"), dtype=torch.float64, requires_grad=True)
    target = (torch.rand(1, 3, 3, generator=rng.stream("mask")) > 0.5).double()
    assert torch.autograd.gradcheck(lambda z: losses.dice(z, target), (logits,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"smooth": 0.0}, "smooth must be a finite number > 0"),
        ({"target": torch.zeros(1, 2, 3)}, "of one shape are needed"),
        ({"target": torch.full((1, 2, 2), 2.0)}, r"a mask has shares in \[0, 1\]"),
        ({"target": torch.full((1, 2, 2), float("nan"))}, "a mask has shares"),
    ],
)
def test_dice_refuses_what_is_no_mask(change, message):
    with pytest.raises(ValueError, match=message):
        losses.dice(**{"logits": torch.zeros(1, 2, 2), "target": torch.zeros(1, 2, 2)} | change)
