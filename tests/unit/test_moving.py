"""Films: the moments are in them, all with one palette, and they stop."""

import io

import pytest
import torch
from PIL import Image

from fedlib import rng
from fedlib.plots import moving


def moments(count=3, beside=2):
    return torch.rand(count, beside, 3, 8, 8, generator=rng.stream(0))


def test_a_film_has_every_moment_one_palette_and_an_end():
    red = torch.zeros(3, 2, 3, 8, 8)
    red[0, :, 0], red[1, :, 1], red[2, :, 2] = 1.0, 1.0, 1.0  # red, green, blue
    with Image.open(io.BytesIO(moving.film(red, seconds=1.5, plays=3, titles=["a", "b"]))) as film:
        assert (film.format, film.mode, film.n_frames, film.info["loop"]) == ("PNG", "P", 3, 3)
        wide, tall = film.size
        assert wide == 720
        seen = []
        for i in range(3):
            film.seek(i)
            assert film.info["duration"] == 500
            seen.append(film.convert("RGB").getpixel((wide // 4, tall // 2)))
    assert seen == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_equal_pictures_give_equal_bytes():
    assert moving.film(moments()) == moving.film(moments())


def test_what_cannot_be_a_film_is_refused():
    with pytest.raises(ValueError, match=r"expected \[T, N, 3, H, W\] of two moments"):
        moving.film(moments()[:1])
    with pytest.raises(ValueError, match="seconds"):
        moving.film(moments(), seconds=3.0, plays=2)
    with pytest.raises(ValueError, match="plays"):
        moving.film(moments(), plays=0)
    with pytest.raises(ValueError, match="alternative text"):
        moving.show(moving.film(moments()), " ")
