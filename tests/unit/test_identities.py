"""Drawn identities: views and cameras do what they say, and nonsense is refused."""

import math

import numpy as np
import pytest
import torch
from federations import FLOAT

from fedlib import rng
from fedlib.data import identities
from fedlib.data.dataset import from_arrays
from fedlib.data.identities import Look, Scene, cameras, smooth, views

PLAIN = Look(size=9, shift=0.0, turn=0.0, noise=0.0)


def test_the_same_stream_draws_the_same_people_and_another_draws_others():
    one, again, other = (smooth(3, 9, 4, rng.stream(s)) for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert one.shape == (3, 1, 9, 9)


def test_a_view_without_change_is_the_pattern():
    patterns = smooth(4, 9, 4, rng.stream(0))
    torch.testing.assert_close(views(patterns, PLAIN, rng.stream(1)), patterns, rtol=0, atol=1e-12)


def test_noise_has_the_deviation_that_is_asked_for():
    patterns = smooth(400, 9, 4, rng.stream(0))
    noise = views(patterns, Look(size=9, shift=0.0, turn=0.0, noise=0.3), rng.stream(1)) - patterns
    assert float(noise.std()) == pytest.approx(0.3, rel=0.02)


def test_a_view_is_turned_about_the_middle():
    """A ramp, turned: its slope keeps its length, and its angle is at most the largest."""
    ramp = torch.linspace(-1, 1, 9, dtype=FLOAT).expand(1, 1, 9, 9).repeat(50, 1, 1, 1)
    seen = views(ramp, Look(size=9, shift=0.0, turn=20.0, noise=0.0), rng.stream(1))[:, 0, 3:6, 3:6]
    across, down = (seen[:, 1, 2] - seen[:, 1, 0]), (seen[:, 2, 1] - seen[:, 0, 1])
    slope = 2 * (ramp[0, 0, 0, 1] - ramp[0, 0, 0, 0])
    torch.testing.assert_close(torch.hypot(across, down), slope.expand(50), rtol=0, atol=1e-12)
    angles = torch.atan2(down, across).rad2deg()
    assert 10 < float(angles.abs().max()) <= 20
    # A turn and not a shear: a ramp from top to bottom tilts the other way round.
    tilt = torch.zeros(1, 1, 9, 9, dtype=FLOAT) + torch.linspace(-1, 1, 9, dtype=FLOAT)[:, None]
    turned = views(tilt.repeat(50, 1, 1, 1), Look(size=9, shift=0.0, turn=20.0, noise=0.0), rng.stream(1))[:, 0]
    torch.testing.assert_close((turned[:, 4, 5] - turned[:, 4, 3]), -down, rtol=0, atol=1e-12)


def test_a_view_is_shifted_by_at_most_so_many_pixels():
    ramp = torch.arange(9, dtype=FLOAT).expand(1, 1, 9, 9).repeat(200, 1, 1, 1)
    seen = views(ramp, Look(size=9, shift=1.5, turn=0.0, noise=0.0), rng.stream(1))
    moved = seen[:, 0, 4, 4] - 4
    assert 1.4 < float(moved.abs().max()) <= 1.5


def test_a_view_moves_up_and_down_as_well_as_sideways():
    across = torch.arange(9, dtype=FLOAT).expand(1, 1, 9, 9).repeat(200, 1, 1, 1)
    look = Look(size=9, shift=1.5, turn=0.0, noise=0.0)
    moves = torch.stack([views(x, look, rng.stream(1))[:, 0, 4, 4] - 4 for x in (across, across.transpose(2, 3))])
    assert float(moves.abs().amax(1).min()) > 1.4
    assert abs(float(torch.corrcoef(moves)[0, 1])) < 0.2


def test_styles_have_the_deviations_that_are_told():
    for strength in (1.0, 2.0):
        style = cameras(4000, 3, rng.stream(0), strength)
        found = [style.contrast.log().std(), style.brightness.std(), style.light[:, 0, 0, 0].std()]
        assert [float(f) for f in found] == pytest.approx([0.3 * strength, 0.5 * strength, 0.5 * strength], rel=0.05)


def test_a_camera_is_contrast_brightness_and_light():
    style, x = cameras(3, 9, rng.stream(0), channels=2), torch.randn(4, 2, 9, 9, dtype=FLOAT)
    camera = torch.tensor([2, 0, 1, 1])
    for i, c in enumerate(camera.tolist()):
        expected = x[i] * style.contrast[c] + style.brightness[c] + style.light[c]
        torch.testing.assert_close(style(x, camera)[i], expected, rtol=0, atol=0)
    assert float(style.light.std()) > 0.1
    none = cameras(3, 9, rng.stream(0), strength=0.0, channels=2)
    assert torch.equal(none(x, camera), x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Look(size=1), "size must be a whole number of at least 2, got 1"),
        (lambda: Look(detail=0), "detail must be a whole number"),
        (lambda: Look(turn=math.nan), "turn must be a finite number >= 0, got nan"),
        (lambda: Look(noise=-1.0), "noise must be a finite number >= 0, got -1.0"),
        (lambda: cameras(0, 9, rng.stream(0)), "count must be a whole number of at least 1, got 0"),
        (lambda: cameras(1, 9, rng.stream(0), -1.0), "strength must be a finite number >= 0"),
        (lambda: views(torch.zeros(0, 1, 9, 9), PLAIN, rng.stream(0)), r"patterns \[M, 1, H, W\] with M >= 1, got \[0"),
        (lambda: cameras(2, 9, rng.stream(0))(torch.zeros(1, 1, 9, 9), torch.tensor([2])), "a camera from 0 to 1"),
        (lambda: cameras(2, 9, rng.stream(0))(torch.zeros(2, 1, 9, 9), torch.tensor([1])), r"got \[2, 1, 9, 9\] and"),
        (lambda: cameras(2, 9, rng.stream(0))(torch.zeros(0, 1, 9, 9), torch.zeros(0).long()), "with M >= 1"),
        (lambda: cameras(2, 9, rng.stream(0))(torch.zeros(1, 1, 9, 9), torch.zeros(1)), r"torch.float32 \[1\]"),
        (
            lambda: cameras(2, 9, rng.stream(0))(torch.zeros(1, 1, 8, 8), torch.zeros(1).long()),
            r"pictures \[M, 1, 9, 9\]",
        ),
        (lambda: cameras(2, 9, rng.stream(0), channels=0), "channels must be a whole number of at least 1, got 0"),
        (lambda: smooth(0, 9, 4, rng.stream(0)), "count must be a whole number of at least 1, got 0"),
        (lambda: smooth(1, 0, 4, rng.stream(0)), "size must be a whole number of at least 1, got 0"),
        (lambda: smooth(1, 9, 0, rng.stream(0)), "detail must be a whole number of at least 1, got 0"),
        (lambda: SMALL.draw(0, torch.int64), "dtype must be a floating-point type, got torch.int64"),
    ],
)
def test_nonsense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


SMALL = Scene((2, 3), (4, 2), others=3, looks=4, public=5)


def test_a_scene_deals_people_out_and_nobody_is_seen_twice():
    seen = SMALL.draw(0)
    assert SMALL.pictures == [8, 6]
    assert seen.y.tolist() == [0] * 4 + [1] * 4 + [2] * 2 + [3] * 2 + [4] * 2
    assert seen.home.tolist() == [0] * 8 + [1] * 6
    assert seen.x.shape == (14, 1, 12, 12)
    assert seen.public.shape == (5, 1, 12, 12)
    assert [len(rows) for rows in seen.rows] == [12, 12]
    tested = [set(seen.ids[rows].tolist()) for rows in seen.rows]
    assert not tested[0] & tested[1]
    assert not (tested[0] | tested[1]) & set(seen.y.tolist())
    assert seen.cameras[:4].tolist() == [0, 1, 0, 1]
    assert not torch.equal(seen.x, SMALL.draw(1).x)
    assert torch.equal(seen.x, SMALL.draw(0).x)


def test_each_client_has_cameras_of_its_own():
    """Without views, noise and light of the cameras, all pictures of a person are one; with them, a client has two."""
    still = Scene((1, 1), (4, 4), others=1, noise=0.0, strength=0.0)
    plain, styled = (Scene((1, 1), (4, 4), others=1, noise=0.0, strength=s).draw(0, FLOAT) for s in (0.0, 2.0))
    assert torch.equal(plain.x, still.draw(0, FLOAT).x)
    gap = styled.x - plain.x
    centre = gap.mean((1, 2, 3))
    assert len({round(float(c), 1) for c in centre[:2]}) == 2  # two cameras
    assert float((centre[0::2].diff()).abs().max()) > 0.05  # and others at the next client


def test_every_picture_is_that_of_its_own_camera():
    """Clients have two each, whose turn it is by the number of the shot, and the server two of its own."""
    plain, styled = (Scene((2, 3), (4, 2), 3, 4, 5, strength=s).draw(7, FLOAT) for s in (0.0, 0.7))
    style = cameras(6, 12, rng.stream(7, "cameras"), 0.7)
    shots = torch.tensor([0, 1, 0, 1] * 2 + [0, 1] * 3)
    torch.testing.assert_close(styled.x, style(plain.x, 2 * plain.home + shots))
    place = torch.arange(2).repeat_interleave(12)
    torch.testing.assert_close(styled.x_test, style(plain.x_test, 2 * place + plain.cameras))
    torch.testing.assert_close(styled.public, style(plain.public, 4 + torch.tensor([0, 1, 0, 1, 0])))


def test_a_scene_is_as_noisy_as_asked():
    clean, noisy = (Scene((8,), (8,), 3, noise=n, strength=0.0).draw(0, FLOAT) for n in (0.0, 2.0))
    for part in ("x", "x_test", "public"):
        assert float((getattr(noisy, part) - getattr(clean, part)).std()) == pytest.approx(2, rel=0.05)


def photos(monkeypatch):
    pixels = torch.arange(8, dtype=torch.uint8).repeat_interleave(3) * 20
    x = pixels[:, None, None].expand(-1, 4, 4).numpy()
    y = (pixels // 20).numpy()
    arrays = {"x_train": x[::2], "y_train": y[::2], "x_test": x[1::2], "y_test": y[1::2]}
    own = from_arrays("photos", arrays | {"class_names": np.array(list("abcdefgh"))}, "", mean=[0.0], std=[1.0])
    monkeypatch.setattr(identities, "load", lambda name: own)
    identities._seen.cache_clear()
    return own


def test_nobody_who_judges_trains_and_those_who_tune_never_judge(monkeypatch):
    photos(monkeypatch)
    scene = Scene((1, 2), (3, 2), 2, looks=2, public=4, strength=0.0, photos="photos", pool=2, trials=1)
    shown = [scene.draw(s) for s in range(6)] + [scene.draw(s, trial=True) for s in range(6, 9)]
    judge, tune = ({v for one in some for v in one.ids.tolist()} for some in (shown[:6], shown[6:]))
    assert len(tune) == 1
    assert not judge & tune
    values, tested, public = (
        [{round(float(v), 4) for v in x.mean((1, 2, 3))} for x in some]
        for some in ([s.x for s in shown], [s.x_test for s in shown], [s.public for s in shown])
    )
    assert all(not a & b and not a & c and not b & c for a, b, c in zip(values, tested, public, strict=True))
    assert not set().union(*values, *public) & set().union(*tested[6:])
    assert len({frozenset(v) for v in values}) > 1
    assert shown[0].x.shape == (7, 1, 2, 2)
    assert len(shown[0].public) == 4
    identities._seen.cache_clear()


def test_classes_and_pictures_that_judge_are_drawn_for_each_seed(monkeypatch):
    """Pictures that are all different: class 10 times, and the number of a picture in its class."""
    y = np.arange(8).repeat(6)
    x = (10 * y + np.arange(48) % 6).astype(np.uint8)[:, None, None].repeat(4, 1).repeat(4, 2)
    arrays = {"x_train": x[::2], "y_train": y[::2], "x_test": x[1::2], "y_test": y[1::2]}
    own = from_arrays("photos", arrays | {"class_names": np.array(list("abcdefgh"))}, "", mean=[0.0], std=[1.0])
    monkeypatch.setattr(identities, "load", lambda name: own)
    identities._seen.cache_clear()
    scene = Scene((1, 2), (3, 2), 2, looks=2, public=4, strength=0.0, photos="photos", trials=1)
    seen = [scene.draw(s, FLOAT) for s in range(8)]
    assert len({tuple(one.ids.unique().tolist()) for one in seen}) > 1
    pictures = [(255 * one.x_test[one.rows[0], 0, 0, 0]).round().int().tolist() for one in seen]
    for one, shown in zip(seen, pictures, strict=True):
        assert [v // 10 for v in shown] == one.ids[one.rows[0]].tolist()
        assert len(set(shown)) == len(shown)
    of_class = {c: {tuple(v for v in shown if v // 10 == c) for shown in pictures} - {()} for c in range(8)}
    assert any(len(shots) > 1 for shots in of_class.values())  # of one class two seeds show other pictures
    identities._seen.cache_clear()


def test_a_scene_that_no_set_of_photos_can_show_is_refused(monkeypatch):
    photos(monkeypatch)
    scene = Scene((2, 3), (3, 2), 2, photos="photos", trials=1)
    with pytest.raises(ValueError, match="photos has 8 classes: 5 for the clients and 3 for tests leave none"):
        scene.draw(0)
    for wrong, message in (
        ({"people": ()}, "one number for each client"),
        ({"people": [2, 3]}, r"people and shots must be tuples, got \[2, 3\]"),
        ({"shots": (1,)}, "one number for each client"),
        ({"people": (1, 0)}, "people must be a whole number of at least 1, got 0"),
        ({"looks": 1}, "looks must be a whole number of at least 2"),
        ({"public": 0}, "public must be a whole number of at least 1"),
        ({"noise": math.inf}, "noise must be a finite number"),
        ({"strength": -1.0}, "strength must be a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            Scene(**{"people": (2, 3), "shots": (4, 2)} | wrong)
