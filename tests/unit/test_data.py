"""Data sets: embedded ones are fixed, packs are verified, absence and damage are said clearly, downloads parse."""

import bz2
import gzip
import hashlib
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
import warnings
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from fedlib import _torchvision, data
from fedlib.data import dataset, digits, download, loading, packs, registry, toy

ROOT = Path(__file__).parents[2]
DATA = os.environ.get("FEDLIB_DATA", "")
pytestmark = pytest.mark.filterwarnings("ignore:The pack of .* is unknown data")
needs_packs = pytest.mark.skipif(not DATA, reason="FEDLIB_DATA is not set: no real data to test the loaders with")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder as $FEDLIB_DATA and another as the cache; cards of sets as small as those of :func:`small`."""
    folders = tmp_path / "data", tmp_path / "cache"
    for folder, name in zip(folders, ("FEDLIB_DATA", "FEDLIB_CACHE"), strict=True):
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    resized(monkeypatch, sizes=(12, 4))
    monkeypatch.setattr(loading, "_used", {})
    return folders


def resized(monkeypatch, **changes):
    """Let the cards of sets that are files say something else."""

    def card(name):
        found = registry.card(name)
        return found if found.loader == "embedded" else dataset.replace(found, **changes)

    monkeypatch.setattr(loading, "card", card)


def small(seed: int = 0, channels: int = 1) -> dict[str, np.ndarray]:
    """A pack of 12 + 4 random images in MNIST-M's or MNIST's form."""
    rng = np.random.default_rng(seed)
    size = (28, 28) if channels == 1 else (32, 32, 3)
    return {
        "x_train": rng.integers(0, 256, (12, *size), dtype=np.uint8),
        "y_train": np.arange(12, dtype=np.uint8) % 10,
        "x_test": rng.integers(0, 256, (4, *size), dtype=np.uint8),
        "y_test": np.arange(4, dtype=np.uint8),
        "class_names": np.array([str(c) for c in range(10)]),
    }


# --- embedded sets


def test_digits_are_the_documented_split_in_normal_form():
    d = data.load("digits")
    assert (d.x_train.shape, d.x_test.shape, d.num_classes) == ((1437, 1, 8, 8), (360, 1, 8, 8), 10)
    assert (d.x_train.dtype, d.y_train.dtype) == (torch.float32, torch.int64)
    assert abs(float(d.x_train.mean())) < 1e-3
    assert abs(float(d.x_train.std()) - 1) < 1e-3
    shares = d.y_test.bincount().double() / (d.y_train.bincount() + d.y_test.bincount())
    assert torch.allclose(shares, torch.full((10,), 360 / 1797, dtype=torch.float64), atol=0.006)  # one image of 178


def test_digits_split_is_disjoint_and_loses_nothing():
    from sklearn.datasets import load_digits

    raw, bunch = digits.arrays(), load_digits()
    test = digits.split(bunch.target, digits.TEST)
    assert test.sum() == 360
    rebuilt = np.empty((1797, 8, 8))
    rebuilt[test], rebuilt[~test] = raw["x_test"], raw["x_train"]
    assert (rebuilt == bunch.images).all()


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0, 1))
def test_split_gives_every_class_its_share_within_one(labels, share):
    y, wanted = np.array(labels), round(share * len(labels))
    mask = digits.split(y, wanted)
    assert mask.sum() == wanted
    for c in np.unique(y):
        assert abs(mask[y == c].sum() - (y == c).sum() * wanted / len(y)) < 1


def test_embedded_sets_are_the_same_bits_every_time():
    assert packs.content_sha256(digits.arrays()) == data.load("digits").sha256 == registry.card("digits").sha256[0]
    assert torch.equal(data.load("glyphs").x_train, data.load("glyphs").x_train)


def test_dtype_and_pixels_are_as_asked():
    plain = data.load("digits", dtype=torch.float64, normalise=False)
    assert plain.x_train.dtype == torch.float64
    assert (float(plain.x_train.min()), float(plain.x_train.max())) == (0.0, 1.0)
    normal = data.load("digits", dtype=torch.float64)
    assert torch.allclose(normal.standardise(plain.x_test), normal.x_test, atol=1e-12)


def test_an_altered_embedded_set_is_refused(monkeypatch):
    monkeypatch.setattr(digits, "TEST", 300)
    with pytest.raises(data.DataCorrupt, match=r"digits.*sha256\n.*\nexpected\n  45ea754e"):
        data.load("digits")


def test_another_process_loads_the_same_bits_and_no_other_sets_modules():
    """The modules in memory are what a chapter depends on: a set that it does not use must not be among them."""
    code = "import sys; from fedlib import data; print(data.load('digits').sha256, *sys.modules)"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    sha, *loaded = child.stdout.split()
    assert sha == registry.card("digits").sha256[0]
    assert {m for m in loaded if m.startswith("fedlib.")} == {
        *("fedlib.data", "fedlib.data.dataset", "fedlib.data.digits", "fedlib.data.loading", "fedlib.data.packs"),
        *("fedlib.data.registry", "fedlib.data.sets", "fedlib.data.sets.digits"),
        "fedlib.original",  # always there
    }
    assert "torchvision" not in loaded


# --- the value returned


def test_flat_is_a_view_and_to_moves_everything():
    d = data.load("digits")
    assert d.flat().x_train.shape == (1437, 64)
    assert d.flat().x_train.data_ptr() == d.x_train.data_ptr()
    moved = dataset.replace(d, extra={"domain_train": torch.zeros(1437)}).to("meta")
    assert {moved.x_train.device.type, moved.y_test.device.type, moved.extra["domain_train"].device.type} == {"meta"}


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 300), st.booleans(), st.integers(0, 5))
def test_subset_draws_distinct_samples_in_equal_numbers(count, balanced, seed):
    d = data.load("digits")
    rows = torch.arange(len(d.y_train))
    d = dataset.replace(d, extra={"row_train": rows})
    small_one = d.subset(count, rng=torch.Generator().manual_seed(seed), balanced=balanced)
    drawn = small_one.extra["row_train"]
    assert len(drawn.unique()) == count
    assert torch.equal(d.x_train[drawn], small_one.x_train)
    assert torch.equal(d.y_train[drawn], small_one.y_train)
    assert torch.equal(small_one.x_test, d.x_test)
    if balanced:
        sizes = small_one.y_train.bincount(minlength=10)
        assert int(sizes.max() - sizes.min()) <= 1
    again = d.subset(count, rng=torch.Generator().manual_seed(seed), balanced=balanced)
    assert torch.equal(again.extra["row_train"], drawn)


@pytest.mark.parametrize(
    ("count", "message"),
    [(0, "0 samples wanted, 1 to 1437"), (9999, "9999 samples"), (1437, "144 samples of class 0 wanted .* 142 there")],
)
def test_subset_says_what_cannot_be_drawn(count, message):
    with pytest.raises(ValueError, match=message):
        data.load("digits").subset(count, rng=torch.Generator())


def test_foreign_images_with_other_channels_are_refused():
    with pytest.raises(ValueError, match="have 1 channels, the statistics 3"):
        dataset.standardise(torch.zeros(2, 1, 8, 8), (0.1, 0.2, 0.3), (1, 1, 1))


# --- raw sets: pixels stay bytes until a batch is needed


class NoFloats(TorchDispatchMode):
    """Fails when an operation makes a floating-point tensor."""

    def __torch_dispatch__(self, function, _types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        assert not (isinstance(result, torch.Tensor) and result.is_floating_point()), function
        return result


RAW = {"digits": 0, "glyphs": 0, "mnist": 1, "mnist_m": 3}


def loaded(name, here, monkeypatch, **options):
    if RAW[name]:
        monkeypatch.setattr(packs, "content_sha256", lambda _: registry.card(name).sha256[0])
        np.savez(here[0] / f"{name}.npz", **small(channels=RAW[name]))
    return data.load(name, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("name", RAW)
def test_prepared_bytes_have_the_bits_of_load(name, normalise, dtype, here, monkeypatch):
    whole = loaded(name, here, monkeypatch, normalise=normalise, dtype=dtype)
    raw = loaded(name, here, monkeypatch, normalise=normalise, dtype=dtype, raw=True)
    assert raw.x_train.dtype == raw.x_test.dtype == torch.uint8
    assert (raw.shape, raw.sha256, raw.normalised) == (whole.shape, whole.sha256, normalise)
    for part in ("train", "test"):
        x, wanted = getattr(raw, f"x_{part}"), getattr(whole, f"x_{part}")
        assert x.is_contiguous()
        before = x.clone()
        found = raw.prepare(x)
        assert (found.dtype, found.stride()) == (dtype, wanted.stride())
        assert torch.equal(found, wanted)
        assert torch.equal(x, before)
        assert torch.equal(raw.flat().prepare(x.flatten(1)), wanted.flatten(1))
        assert torch.equal(whole.prepare(x), wanted)
        rows = torch.arange(len(x)).flip(0)[:3]
        assert torch.equal(raw.prepare(x[rows]), wanted[rows])
        assert torch.equal(raw.prepare(x[:4].unflatten(0, (2, 2))), wanted[:4].unflatten(0, (2, 2)))
    other = torch.float64 if dtype == torch.float32 else torch.float32
    again = loaded(name, here, monkeypatch, normalise=normalise, dtype=other)
    assert torch.equal(raw.prepare(raw.x_test, other), again.x_test)


def test_the_normal_form_is_that_of_the_definition():
    raw, card = data.load("digits", raw=True), registry.card("digits")
    exact = (raw.x_train.double() / 16 - card.mean[0]) / card.std[0]
    assert torch.allclose(raw.prepare(raw.x_train, torch.float64), exact, rtol=0, atol=1e-14)
    assert torch.allclose(raw.prepare(raw.x_train).double(), exact, rtol=0, atol=1e-6)


def test_a_raw_set_has_a_quarter_of_the_bytes_and_no_float_is_ever_made(here, monkeypatch):
    resized(monkeypatch, sizes=(500, 4))
    rng = np.random.default_rng(0)
    arrays = small(channels=3) | {"x_train": rng.integers(0, 256, (500, 32, 32, 3), dtype=np.uint8)}
    packs.write(here[0] / "mnist_m.npz", arrays | {"y_train": np.zeros(500, np.uint8)})
    with NoFloats():
        raw = data.load("mnist_m", raw=True)
        part = raw.subset(9, rng=torch.Generator().manual_seed(0), balanced=False).flat().to("cpu")
    with pytest.raises(AssertionError), NoFloats():  # the guard can fail
        data.load("mnist_m")
    assert part.x_train.untyped_storage().nbytes() == 9 * 3 * 32 * 32
    assert raw.x_train.untyped_storage().nbytes() == 500 * 3 * 32 * 32
    assert data.load("mnist_m").x_train.untyped_storage().nbytes() == 4 * 500 * 3 * 32 * 32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("normalise", [True, False])
def test_a_gpu_prepares_the_same_bits(normalise):
    mean, std, every = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), np.arange(256, dtype=np.uint8)
    arrays = small(channels=3) | {"x_train": np.broadcast_to(every[:, None, None, None], (256, 4, 4, 3)).copy()}
    raw = dataset.from_arrays("n", arrays, "", mean=mean, std=std, normalise=normalise, raw=True)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(raw.prepare(raw.x_train.cuda(), dtype).cpu(), raw.prepare(raw.x_train, dtype))


def test_preparing_makes_one_copy():
    mean, std, made = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), set()
    raw = dataset.from_arrays("n", small(channels=3), "", mean=mean, std=std, raw=True)

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, _types, arguments=(), options=None):
            result = function(*arguments, **(options or {}))
            made.add(result.untyped_storage().data_ptr())
            return result

    kept = [dataset._constant(v, torch.float32, torch.device("cpu")) for v in ((255.0,), mean, std)]
    with Count():
        out = raw.prepare(raw.x_train)
    assert made - {t.untyped_storage().data_ptr() for t in kept} == {out.untyped_storage().data_ptr()}


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 200), st.integers(0, 5), st.booleans())
def test_subsets_of_raw_sets_are_raw_and_the_same(count, seed, flat):
    whole, raw = data.load("digits"), data.load("digits", raw=True)
    drawn, bytes_ = (d.subset(count, rng=torch.Generator().manual_seed(seed)) for d in (whole, raw))
    if flat:
        drawn, bytes_ = drawn.flat(), bytes_.flat()
    assert bytes_.x_train.dtype == torch.uint8
    assert torch.equal(bytes_.prepare(bytes_.x_train), drawn.x_train)
    assert torch.equal(bytes_.y_train, drawn.y_train)


def test_a_raw_set_standardises_foreign_pixels_as_any_other():
    pixels = torch.rand(5, 1, 9, 7)
    whole, raw = data.load("digits"), data.load("digits", raw=True)
    assert torch.equal(raw.standardise(pixels), whole.standardise(pixels))
    with pytest.raises(ValueError, match=r"uint8 \[360, 1, 8, 8\]; expected floating point .* `prepare`"):
        raw.standardise(raw.x_test)
    with pytest.raises(ValueError, match=r"\[2, 64\]; expected floating point \[B, C, H, W\]"):
        raw.standardise(torch.zeros(2, 64))


@pytest.mark.parametrize(
    "wrong",
    [torch.zeros(2, 1, 8, 8), torch.zeros(2, 64, dtype=torch.uint8), torch.zeros(2, 1, 8, 9, dtype=torch.uint8)],
)
def test_only_bytes_of_the_sets_shape_are_prepared(wrong):
    with pytest.raises(ValueError, match=r"digits: samples to prepare are .*uint8 \[..., 1, 8, 8\], as load"):
        data.load("digits").prepare(wrong)


# --- packs


def test_a_pack_survives_the_round_trip(here):
    arrays = small(channels=3) | {"domain_train": np.arange(12) % 2, "domain_names": np.array(["day", "night"])}
    sha = packs.write(here[0] / "mnist_m.npz", arrays)
    d = data.load("mnist_m", normalise=False)
    assert (d.sha256, d.known, data.used()["mnist_m"]) == (sha, False, f"unknown:{sha}")
    assert torch.equal((d.x_train * 255).round().byte().permute(0, 2, 3, 1), torch.from_numpy(arrays["x_train"]))
    assert d.y_train.tolist() == arrays["y_train"].tolist()
    assert (d.extra["domain_names"], d.extra["domain_train"].tolist()) == (("day", "night"), [0, 1] * 6)
    assert sorted(p.name for p in here[0].iterdir()) == ["mnist_m.npz", "mnist_m.sha256"]  # nothing half-written


def test_the_checksum_is_of_contents_not_of_the_file(tmp_path):
    arrays = small()
    np.savez(tmp_path / "a.npz", **arrays)
    np.savez_compressed(tmp_path / "b.npz", **dict(reversed(arrays.items())))
    first, second = (packs.content_sha256(packs.read(tmp_path / f"{n}.npz")) for n in "ab")
    assert first == second
    assert (tmp_path / "a.npz").read_bytes() != (tmp_path / "b.npz").read_bytes()
    changed = small()
    changed["x_test"][0, 0, 0] ^= 1
    assert packs.content_sha256(changed) != first
    assert packs.content_sha256(small() | {"x_test": small()["x_test"].reshape(4, 14, 56)}) != first


def test_root_comes_before_the_environment_and_both_before_the_cache(here, tmp_path):
    for number, folder in enumerate([here[1], here[0], tmp_path / "root"]):
        sha = packs.write(folder / "mnist_m.npz", small(number, channels=3))
        root = folder if folder.name == "root" else None
        assert data.load("mnist_m", root).sha256 == sha
        assert data.available(root)["mnist_m"] == str(folder / "mnist_m.npz")


def test_available_reads_nothing_and_says_where_from(here):
    (here[0] / "mnist.npz").write_bytes(b"not read")
    found = data.available()
    assert found["digits"] == found["glyphs"] == "embedded"
    assert (found["mnist"], found["cifar10"], found["mnist_m"]) == (str(here[0] / "mnist.npz"), "download", "absent")
    assert sorted(found) == registry.names()


def test_a_mismatching_pack_of_the_user_is_named_and_left_alone(here):
    path = here[0] / "mnist.npz"
    np.savez(path, **small())
    before = path.read_bytes()
    with pytest.raises(data.DataCorrupt) as caught:
        data.load("mnist")
    found = packs.content_sha256(small())
    for part in (str(path), found, registry.card("mnist").sha256[0], "left as it is", "FEDLIB_DATA"):
        assert part in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["truncated", "other", "empty", "incomplete"])
def test_a_damaged_pack_in_the_cache_is_kept_aside(here, damage):
    path = here[1] / "mnist_m.npz"
    packs.write(path, small(channels=3))
    whole = path.read_bytes()
    if damage == "incomplete":
        np.savez(path, **{k: v for k, v in small(channels=3).items() if k != "y_test"})
    elif damage == "other":
        np.savez(path, **small(seed=1, channels=3))
    else:
        path.write_bytes(whole[: len(whole) // 2 if damage == "truncated" else 0])
    bad = path.read_bytes()
    with pytest.raises(data.DataCorrupt, match=r"kept as .*mnist_m\.npz\.corrupt") as caught:
        data.load("mnist_m")
    assert {"other": "sha256", "incomplete": "lacks y_test"}.get(damage, "truncated or damaged") in str(caught.value)
    assert (here[1] / "mnist_m.npz.corrupt").read_bytes() == bad
    assert not path.exists()


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_no_single_changed_byte_gets_through(here, place, flip):
    """The pack is refused, or its contents are still the same: some bytes of a zip archive say nothing."""
    path = here[0] / "mnist_m.npz"
    sha = packs.write(path, small(channels=3))
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= flip
    path.write_bytes(content)
    try:
        assert data.load("mnist_m").sha256 == sha
    except data.DataCorrupt:
        assert path.exists()


@pytest.mark.parametrize("header", ["{'descr': '|u1', 'shape': (12, 28", "{'shape':\n  1\n 2", "{'descr': 'unclosed"])
def test_a_header_that_is_no_dictionary_is_damage(header, here):
    """NumPy reads an array's header as Python does."""
    np.savez(here[0] / "mnist_m.npz", **small(channels=3))
    with zipfile.ZipFile(here[0] / "mnist_m.npz", "a") as archive:
        lead = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
        archive.writestr("more_train.npy", lead + b"0" * 99)
    with pytest.raises(data.DataCorrupt, match="cannot be read as a pack, it is truncated or damaged"):
        data.load("mnist_m")


def test_pickled_objects_are_refused(here):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was opened",))

    np.savez(here[0] / "mnist_m.npz", **small() | {"x_train": np.array([Bomb()], dtype=object)})
    with pytest.raises(data.DataCorrupt, match="cannot be read"):
        data.load("mnist_m")


def test_changed_bytes_are_found_whatever_the_clock_says(here):
    """A memory of size and time of a file vouched for it, and both are easily kept."""
    path = here[0] / "mnist_m.npz"
    packs.write(path, small(channels=3))
    data.load("mnist_m")
    stat, sidecar = path.stat(), path.with_suffix(".sha256").read_bytes()
    packs.write(path, small(seed=1, channels=3))
    path.with_suffix(".sha256").write_bytes(sidecar)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    with pytest.raises(data.DataCorrupt, match="not a known pack of mnist_m"):
        data.load("mnist_m")
    assert list(here[1].iterdir()) == [], "nothing is remembered"


def test_unknown_data_are_said_once_and_in_used(here):
    for folder, seed in ((here[0], 0), (here[1], 1)):
        packs.write(folder / "mnist_m.npz", small(seed, channels=3))
    with pytest.warns(UserWarning, match=r"'mnist_m' is unknown data: its card does not name \w{64}"):
        first = data.load("mnist_m")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.load("mnist_m")
    assert (first.known, data.used()["mnist_m"]) == (False, f"unknown:{first.sha256}")
    assert not first.subset(5, rng=torch.Generator(), balanced=False).flat().known
    with pytest.warns(UserWarning, match="unknown data"):  # another set under the same name
        data.load("mnist_m", here[1])


def test_the_cards_samples_are_known_in_whatever_order(here, monkeypatch):
    arrays = small()
    order = np.random.default_rng(1).permutation(12)
    turned = arrays | {"x_train": arrays["x_train"][order], "y_train": arrays["y_train"][order].astype(np.int64)}
    card = {
        "sizes": (12, 4),
        "sha256": (packs.content_sha256(arrays),),
        "samples_sha256": (packs.samples_sha256(arrays),),
    }
    resized(monkeypatch, **card)
    for pack in (arrays, turned):
        np.savez(here[0] / "mnist.npz", **pack)
        d = data.load("mnist")
        assert (d.known, d.sha256, data.used()["mnist"]) == (True, packs.content_sha256(pack), d.sha256)
    other = turned | {"y_train": turned["y_train"][::-1].copy()}
    renamed = turned | {"class_names": np.array([*"123456789", "0"])}
    swapped = turned | {"x_train": np.concatenate([turned["x_train"][:11], turned["x_test"][:1]])}
    extended = turned | {"weight_train": np.ones(12)}
    for pack in (other, renamed, swapped, extended):
        packs.write(here[0] / "mnist.npz", pack)
        with pytest.warns(UserWarning, match="unknown data"):
            assert not data.load("mnist").known


FORMS = {
    r"y_test float64 \(4,\).*expected .* N integer labels": {"y_test": np.zeros(4)},
    r"x_train is float32.*expected uint8 \[N, H, W\]": {"x_train": np.zeros((12, 28, 28), np.float32)},
    r"y_test int64 \(3,\)": {"y_test": np.zeros(3, np.int64)},
    r"y_train uint8 \(12, 1\)": {"y_train": np.zeros((12, 1), np.uint8)},
    r"mnist\.npz has 11 \+ 4 samples; mnist has 12 \+ 4": {
        "x_train": np.zeros((11, 28, 28), np.uint8), "y_train": np.zeros(11, np.uint8),
    },
    r"x_test is \(4, 27, 28\); images of mnist are \(28, 28, 1\)": {"x_test": np.zeros((4, 27, 28), np.uint8)},
    r"x_train is \(12, 28, 28, 3\); images": {"x_train": np.zeros((12, 28, 28, 3), np.uint8)},
    "y_test holds labels 0 to 10; mnist has 0 to 9": {"y_test": np.array([0, 1, 2, 10], np.uint8)},
    "y_test holds labels -1 to 2; mnist has 0 to 9": {"y_test": np.array([0, 1, 2, -1], np.int8)},
    r"names the classes \['a', 'b'\]; mnist has 10": {"class_names": np.array(["a", "b"])},
    r"names the classes .*; mnist has 10, all different": {"class_names": np.array(["a"] * 10)},
    r"when_train \(datetime64": {"when_train": np.zeros(12, "datetime64[s]")},
    "weight_train should have one entry for each of 12": {"weight_train": np.ones(11)},
}  # fmt: skip


@pytest.mark.parametrize("message", FORMS)
def test_a_pack_of_another_form_says_which_form_is_expected(here, message):
    """Its own sidecar does not make it the set: a pack has the form that the card says."""
    packs.write(here[0] / "mnist.npz", small() | FORMS[message])
    with pytest.raises(data.DataCorrupt, match=message):
        data.load("mnist")


def test_a_part_may_be_a_pack_and_the_whole_another(here, monkeypatch):
    resized(monkeypatch, sizes=(5, 5), whole=(12, 4))
    packs.write(here[0] / "mnist.npz", small())
    with pytest.warns(UserWarning, match="unknown data"):
        assert len(data.load("mnist").y_train) == 12
    resized(monkeypatch, sizes=(5, 5), whole=(6, 6))
    with pytest.raises(data.DataCorrupt, match=r"12 \+ 4 samples; mnist has 5 \+ 5 or 6 \+ 6"):
        data.load("mnist")
    assert registry.card("cifar100").whole == (50_000, 10_000), "a download is all of it"


def test_an_archive_that_unpacks_beyond_measure_is_not_unpacked(here, monkeypatch):
    np.savez_compressed(here[0] / "mnist.npz", **small() | {"x_train": np.zeros((10**6, 28, 28), np.uint8)})
    assert (here[0] / "mnist.npz").stat().st_size < 10**6
    monkeypatch.setattr(packs, "LARGEST", 10**8)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(data.DataCorrupt, match=r"unpacks to 784,\d{3},\d{3} bytes; a pack has 100,000,000 at most"):
        data.load("mnist")


def test_a_header_that_promises_more_than_memory_is_damage(here):
    path = here[0] / "mnist.npz"
    np.savez(path, **small())
    content = path.read_bytes().replace(b"(12, 28, 28), }" + 8 * b" ", b"(1234567890, 28, 28), }")
    assert content != path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(data.DataCorrupt, match="truncated or damaged"):
        data.load("mnist")


def test_nearly_a_pack_is_named_where_none_is_found(here):
    (here[0] / "MNIST_M.npz").touch()
    (here[1] / "mnist_m.npz").symlink_to(here[1] / "gone.npz")
    with pytest.raises(data.DataUnavailable) as caught:
        data.load("mnist_m")
    assert f"{here[0] / 'MNIST_M.npz'} is there: rename it to mnist_m.npz." in str(caught.value)
    assert f"{here[1] / 'mnist_m.npz'} is a link to nothing." in str(caught.value)


def test_a_link_to_a_pack_is_the_pack(here, tmp_path, monkeypatch):
    np.savez(tmp_path / "elsewhere.npz", **small())
    (here[0] / "mnist.npz").symlink_to(tmp_path / "elsewhere.npz")
    resized(monkeypatch, sizes=(12, 4), sha256=(packs.content_sha256(small()),))
    assert data.load("mnist").known


# --- absent sets and downloads


@pytest.mark.parametrize(("wrong", "near"), [("cfar10", "cifar10"), ("Fashion-MNIST", "fashion_mnist"), ("x" * 9, "")])
def test_an_unknown_name_gets_the_nearest_known_one(wrong, near):
    with pytest.raises(data.DataUnavailable, match=f"Unknown data set '{wrong}'") as caught:
        data.load(wrong)
    assert (f"Did you mean {near!r}?" in str(caught.value)) == bool(near)
    assert "Known: cifar10" in str(caught.value)


def test_an_absent_set_says_what_to_put_where(here, monkeypatch):
    monkeypatch.setenv("FEDLIB_DATA", "/nowhere/at/all")
    with pytest.raises(data.DataUnavailable) as caught:
        data.load("mnist_m")
    for part in ("mnist_m.npz", "/nowhere/at/all (no such folder)", str(here[1]), "export FEDLIB_DATA", "32, 32, 3"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", [n for n in registry.names() if registry.card(n).loader == "torchvision"])
def test_no_network_is_said_with_its_cause_and_leaves_nothing(here, monkeypatch, name):
    def offline(*_args, **_kwargs):
        raise URLError("Name or service not known")

    utils = sys.modules[_torchvision.datasets().__name__ + ".utils"]
    monkeypatch.setattr(utils.urllib.request, "urlopen", offline)
    with pytest.raises(data.DataUnavailable, match="Cause: ") as caught:
        data.load(name)
    for part in (name, "Name or service not known", str(here[0]), f"{name}.npz", "export FEDLIB_DATA"):
        assert part in str(caught.value)
    assert not [p for p in here[1].iterdir() if p.suffix != ".lock"]


def test_a_missing_torchvision_is_named(here, monkeypatch):
    def missing():
        raise ImportError("No module named 'torchvision'")

    monkeypatch.setattr(_torchvision, "datasets", missing)
    with pytest.raises(data.DataUnavailable, match="pip install torchvision"):
        data.load("mnist")


def test_a_cache_that_cannot_be_written_is_said(here, monkeypatch):
    blocked = here[1] / "file"
    blocked.write_text("")
    monkeypatch.setenv("FEDLIB_CACHE", str(blocked / "below"))
    with pytest.raises(data.DataUnavailable, match="Cause: NotADirectoryError"):
        data.load("mnist")


class Server:
    """A web server of this machine that stands in for the original one."""

    def __init__(self, folder: Path, address: str):
        self.folder, self.address = folder, address

    def put(self, name: str, content: bytes) -> str:
        """Offers a file under `address + name`; returns its md5."""
        (self.folder / name).write_bytes(content)
        return hashlib.md5(content).hexdigest()


@pytest.fixture
def server(tmp_path, here, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    folder = tmp_path / "server"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.01,))
        thread.start()
        yield Server(folder, f"http://127.0.0.1:{web.server_address[1]}/")
        web.shutdown()
        thread.join()


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return gzip.compress(head + array.tobytes())


@pytest.mark.parametrize(("name", "reader"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_mnist_files_are_downloaded_parsed_and_packed(server, here, monkeypatch, name, reader):
    raw, resources = small(), []
    for part, stem in (("train", "train"), ("test", "t10k")):
        for key, kind in ((f"x_{part}", "images-idx3"), (f"y_{part}", "labels-idx1")):
            name_there = f"{stem}-{kind}-ubyte.gz"
            resources.append((name_there, server.put(name_there, idx(raw[key]))))
    cls = getattr(_torchvision.datasets(), reader)
    monkeypatch.setattr(cls, "mirrors", [server.address])
    monkeypatch.setattr(cls, "resources", resources)
    d = data.load(name, normalise=False)
    assert torch.equal((d.x_train[:, 0] * 255).round().byte(), torch.from_numpy(raw["x_train"]))
    assert d.y_test.tolist() == raw["y_test"].tolist()
    assert d.classes[0] == {"mnist": "0", "fashion_mnist": "T-shirt/top"}[name]
    assert (here[1] / f"{name}.sha256").read_text().strip() == d.sha256
    monkeypatch.setattr(cls, "mirrors", ["http://127.0.0.1:1/"])  # the second time comes from the cache
    assert data.load(name).sha256 == d.sha256


def test_usps_text_is_downloaded_and_parsed(server, monkeypatch):
    resized(monkeypatch, sizes=(3, 3))
    images = np.random.default_rng(0).integers(0, 256, (3, 256))
    lines = [
        f"{c + 1} " + " ".join(f"{i + 1}:{v / 127.5 - 1:.6f}" for i, v in enumerate(image))
        for c, image in zip((9, 0, 4), images, strict=True)
    ]
    content, listed = bz2.compress("\n".join(lines).encode()), {}
    for part in ("train", "test"):
        listed[part] = [f"{server.address}{part}.bz2", f"{part}.bz2", server.put(f"{part}.bz2", content)]
    monkeypatch.setattr(_torchvision.datasets().USPS, "split_list", listed)
    d = data.load("usps", normalise=False)
    assert d.y_train.tolist() == [9, 0, 4]
    assert float((d.x_train.reshape(3, 256) * 255 - torch.from_numpy(images)).abs().max()) <= 1.001  # it rounds down


def cifar_archive(fine: bool) -> tuple[bytes, dict[str, bytes]]:
    rng, files = np.random.default_rng(0), {}
    for name in ("train", "test") if fine else ("data_batch_1", "test_batch"):
        rows = rng.integers(0, 256, (3, 3072), dtype=np.uint8)
        files[name] = pickle.dumps({"data": rows, "fine_labels" if fine else "labels": [2, 0, 1]})
    key = "fine_label_names" if fine else "label_names"
    files["meta" if fine else "batches.meta"] = pickle.dumps({key: ["ant", "bee", "cow"]})
    return tar({f"cifar-{'100-python' if fine else '10-batches-py'}/{n}": c for n, c in files.items()}), files


def tar(files: dict[str, bytes], **header) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in header.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request, server, monkeypatch):
    """A tiny CIFAR archive on the local server; returns (name, its card, the training file's rows)."""
    fine = request.param == "cifar100"
    archive, files = cifar_archive(fine)
    cls = getattr(_torchvision.datasets(), request.param.upper())
    names = list(files)
    sums = {n: hashlib.md5(c).hexdigest() for n, c in files.items()}
    monkeypatch.setattr(cls, "url", server.address + "archive.tar.gz")
    monkeypatch.setattr(cls, "tgz_md5", server.put("archive.tar.gz", archive))
    monkeypatch.setattr(cls, "train_list", [[names[0], sums[names[0]]]])
    monkeypatch.setattr(cls, "test_list", [[names[1], sums[names[1]]]])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": sums[names[2]]})
    sha = hashlib.sha256(archive).hexdigest()
    card = dataset.replace(registry.card(request.param), archive_sha256=sha, sizes=(3, 3), classes=3)
    monkeypatch.setattr(loading, "card", lambda name: card)
    return request.param, card, pickle.loads(files[names[0]])["data"]


def test_cifar_archives_are_downloaded_parsed_and_packed(cifar, here):
    name, _, rows = cifar
    d = data.load(name, normalise=False)
    assert torch.equal((d.x_train * 255).round().byte().flatten(1), torch.from_numpy(rows))  # planes: red, green, blue
    assert (d.y_train.tolist(), d.classes) == ([2, 0, 1], ("ant", "bee", "cow"))
    kept = {p.name for p in here[1].iterdir()}
    assert kept == {f"{name}.npz", f"{name}.sha256", f".{name}.lock"}  # no leftovers of the download


def test_an_archive_with_another_sha256_is_not_opened(cifar, here, monkeypatch):
    name, card, _ = cifar
    monkeypatch.setattr(loading, "card", lambda _: dataset.replace(card, archive_sha256="0" * 64))
    monkeypatch.setattr(download, "unpack", lambda *_: pytest.fail("the archive was opened"))
    with pytest.raises(data.DataUnavailable, match=r"has sha256 \w{64}, expected 0{64}; it was not opened"):
        data.load(name)


@pytest.mark.parametrize(
    ("member", "header"),
    [
        ("../outside", {}),
        ("inner/../../outside", {}),
        ("/tmp/outside-of-fedlib", {}),
        ("link", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}),
        ("link", {"type": tarfile.LNKTYPE, "linkname": "../outside"}),
        ("pipe", {"type": tarfile.FIFOTYPE}),
    ],
)
def test_no_archive_member_escapes(tmp_path, member, header):
    (tmp_path / "bad.tgz").write_bytes(tar({"good": b"1", member: b""}, **header))
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(tarfile.TarError, match="nothing was unpacked"):
        download.unpack(tmp_path / "bad.tgz", target)
    assert not list(target.iterdir())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.tgz", "target"]


# --- cards


@pytest.mark.parametrize("name", registry.names())
def test_the_readable_card_agrees_with_the_code(name):
    written = yaml.safe_load((ROOT / "data" / f"{name}.yml").read_text())
    card = registry.card(name)
    keys = {
        "name",
        "title",
        "source",
        "cite",
        "licence",
        "loader",
        "shape",
        "train",
        "test",
        "classes",
        "notes",
        "sha256",
    }
    assert set(written) == keys | ({"samples_sha256"} if card.samples_sha256 else set())
    assert tuple(written.get("samples_sha256", ())) == card.samples_sha256
    shape = written["shape"]
    assert (written["name"], written["loader"], tuple(written["sha256"])) == (name, card.loader, card.sha256)
    assert (shape["channels"], shape["height"], shape["width"]) == card.shape
    assert (written["train"], written["test"]) == card.sizes
    assert len(written["classes"]) == card.classes
    assert shape["values"] == ("real" if card.scale == 1 else f"0..{card.scale:.0f}")
    assert len(card.mean) == len(card.std) == card.shape[0]


def test_every_card_has_a_set():
    assert sorted(p.stem for p in (ROOT / "data").glob("*.yml")) == registry.names()


# --- real data


@needs_packs
@pytest.mark.data
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "usps", "mnist_m"])
def test_real_packs_are_what_their_cards_say(name):
    card = registry.card(name)
    if packs.find(name) is None:
        pytest.skip(f"{name}.npz is not in FEDLIB_DATA")
    arrays = packs.read(packs.find(name))
    assert packs.content_sha256(arrays) in card.sha256
    if card.samples_sha256:
        assert (packs.samples_sha256(arrays),) == card.samples_sha256
    d = data.load(name)
    assert d.known
    assert (len(d.y_train), len(d.y_test)) == card.sizes
    assert d.shape == card.shape
    assert d.x_train.isfinite().all()
    assert d.x_train.mean((0, 2, 3)).tolist() == pytest.approx([0] * len(card.mean), abs=1e-3)
    assert d.x_train.std((0, 2, 3)).tolist() == pytest.approx([1] * len(card.std), abs=1e-3)
    written = yaml.safe_load((ROOT / "data" / f"{name}.yml").read_text())
    assert list(d.classes) == [str(c) for c in written["classes"]]
    sizes = d.y_train.bincount(minlength=d.num_classes)
    assert len(sizes) == d.num_classes
    assert int(sizes.max()) <= (2.3 if name in ("mnist", "usps") else 1) * int(sizes.min())
    assert data.used()[name] in card.sha256


# --- points in the plane


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 40), min_size=3, max_size=3), st.floats(0.05, 2.0), st.integers(0, 9))
def test_blobs_have_their_counts_and_stay_in_the_square(counts, spread, seed):
    x, y = toy.blobs(counts, rng=torch.Generator().manual_seed(seed), spread=spread)
    assert y.bincount(minlength=3).tolist() == counts
    assert x.shape == (sum(counts), 2)
    assert (x.abs() < 3).all()
    again, _ = toy.blobs(counts, rng=torch.Generator().manual_seed(seed), spread=spread)
    assert torch.equal(x, again)


def test_points_cover_the_square_and_bad_blobs_are_refused():
    points = toy.uniform(4000, rng=torch.Generator().manual_seed(0))
    assert (points.abs() < 3).all()
    assert torch.allclose(points.var(0), torch.full((2,), 3.0), atol=0.15)  # (2 * 3)^2 / 12
    assert toy.grid(3).tolist()[:4] == [[-3, -3], [0, -3], [3, -3], [-3, 0]]
    with pytest.raises(ValueError, match="2 counts for 3 centres"):
        toy.blobs([1, 1], rng=torch.Generator())
    with pytest.raises(ValueError, match="outside"):
        toy.blobs([1], centres=[(5, 0)], rng=torch.Generator())
