"""A folder of pictures, and picture files of every kind: read rightly, or refused with a sentence."""

import argparse
import os

import numpy as np
import pytest
from PIL import Image

from spx import data
from spx.cli import options
from spx.data import Reading, cache
from spx.data import folder as room
from spx.io.pictures import read_image
from spxcore.errors import SpxError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def picture(seed: int = 0, height: int = 12, width: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def save(array: np.ndarray, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


@pytest.fixture
def classes(tmp_path):
    """Two classes of ten pictures, one file a hidden one, one no picture."""
    root = tmp_path / "mine"
    for i in range(20):
        save(picture(i), root / ("cats", "dogs")[i % 2] / f"{i:02}.png")
    (root / "cats" / ".hidden.png").write_text("x")
    (root / "README.txt").write_text("x")
    return root


def both(*arguments, **options) -> list[data.Images]:
    return [data.load("folder", arguments[0], part, Reading(**options)) for part in ("train", "test")]


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_sub_folders_are_classes(classes):
    train, test = both(classes)
    assert (len(train), len(test)) == (18, 2) and train.classes == test.classes == ("cats", "dogs")
    of = {picture(i).transpose(2, 0, 1).tobytes(): i % 2 for i in range(20)}
    for part in (train, test):
        assert [of[image.tobytes()] for image in part.images] == part.labels.tolist()
    assert sorted(test.labels) == [0, 1]
    assert {image.tobytes() for part in (train, test) for image in part.images} == set(of)


def test_train_and_test_folders(tmp_path):
    for part, seeds in (("train", (0, 1, 2)), ("test", (3, 4))):
        for seed in seeds:
            save(picture(seed), tmp_path / "d" / part / str(10 if seed % 2 else 9) / f"{seed}.png")
    train, test = both(tmp_path / "d")
    assert (len(train), len(test)) == (3, 2)
    assert train.classes == ("9", "10") and train.labels.tolist() == [0, 0, 1]  # by number
    np.testing.assert_array_equal(test.images[1], picture(3).transpose(2, 0, 1))
    (tmp_path / "d" / "test" / "10").rename(tmp_path / "d" / "test" / "11")
    with pytest.raises(SpxError, match=r"the sub-folders of train/: 9, 10, got 9, 11"):
        data.load("folder", tmp_path / "d", "test")


def test_a_flat_folder(tmp_path):
    for i in range(10):
        save(picture(i), tmp_path / f"{i}.png")
    train, test = both(tmp_path)
    assert (len(train), len(test), train.classes) == (9, 1, None) and not train.labels.any()


def test_folders_that_are_refused(tmp_path, classes):
    (tmp_path / "empty").mkdir()
    save(picture(), classes / "loose.png")
    (tmp_path / "half" / "none").mkdir(parents=True)
    save(picture(), tmp_path / "half" / "some" / "a.png")
    for folder, message in (
        ("nowhere", "a folder of pictures, got none"), ("empty", r"expected pictures \(.png"),
        ("mine", "loose.png beside cats, dogs"), ("half", "got none in none"),
    ):  # fmt: skip
        with pytest.raises(SpxError, match=message):
            data.load("folder", tmp_path / folder, "train")


def test_size_and_fit(tmp_path):
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 200  # the centre square
    save(wide, tmp_path / "a" / "0.png")
    save(picture(1), tmp_path / "a" / "1.png")
    with pytest.raises(
        SpxError, match=r"1.png: expected a size of \(8, 16\) as the first file's, got \(12, 12\) .give --size"
    ):
        data.load("folder", tmp_path / "a", "train")
    crop = room.read_folder(room.listing(tmp_path / "a"), Reading(size=4)).images
    assert crop.shape == (2, 3, 4, 4) and (crop[0] == 200).all()
    save(wide.transpose(1, 0, 2), tmp_path / "tall" / "0.png")
    assert (room.read_folder(room.listing(tmp_path / "tall"), Reading(size=4)).images == 200).all()
    squeezed = room.read_folder(room.listing(tmp_path / "a"), Reading(size=4, fit="resize")).images
    assert squeezed[0, 0, :, 0].max() < 40 and squeezed[0, 0, :, 1].min() > 160
    same = room.read_folder(room.listing(tmp_path / "a"), Reading(size=12)).images
    np.testing.assert_array_equal(same[1], picture(1).transpose(2, 0, 1))  # not resampled
    means = picture(1).reshape(4, 3, 4, 3, 3).mean((1, 3))  # it averages where it shrinks
    assert np.abs(crop[1].transpose(1, 2, 0) - means).mean() < 20


def test_colour(tmp_path):
    grey = picture()[..., 0]
    save(grey, tmp_path / "a" / "0.png")
    save(np.stack([grey] * 3, 2), tmp_path / "a" / "1.png")
    files = room.listing(tmp_path / "a")
    assert room.read_folder(files, Reading()).images.shape[1] == 1  # no file has colour
    assert room.read_folder(files, Reading(colour="rgb")).images.shape[1] == 3
    for channel in range(3):  # one channel that differs is colour
        tinted = np.stack([grey] * 3, 2)
        tinted[3, 4, channel] ^= 1
        save(tinted, tmp_path / f"tinted {channel}" / "0.png")
        assert room.read_folder(room.listing(tmp_path / f"tinted {channel}"), Reading()).images.shape[1] == 3
    save(picture(1), tmp_path / "a" / "2.png")
    files = room.listing(tmp_path / "a")
    assert room.read_folder(files, Reading()).images.shape[1] == 3
    luma = room.read_folder(files, Reading(colour="grey")).images
    np.testing.assert_array_equal(luma[0, 0], grey)
    np.testing.assert_allclose(luma[2, 0], picture(1) @ [0.299, 0.587, 0.114], atol=1)


def test_bad_files(classes, capsys):
    (classes / "cats" / "00.png").write_text("no picture")
    (classes / "dogs" / "01.png").write_bytes((classes / "dogs" / "03.png").read_bytes()[:100])
    with pytest.raises(SpxError, match=r"^2 of 20 files are bad: .*00.png: cannot be read.*; .*01.png.*--bad skip"):
        data.load("folder", classes, "train")
    for _ in range(2):  # read, and from the cache
        train, test = both(classes, bad="skip")
        assert len(train) + len(test) == 18
        of = {picture(i).transpose(2, 0, 1).tobytes(): i % 2 for i in range(20)}
        for part in (train, test):  # each good one with its own label
            assert [of[image.tobytes()] for image in part.images] == part.labels.tolist()
        assert "2 bad files left out: cats/00.png, dogs/01.png" in capsys.readouterr().err
    for path in classes.glob("*/*.png"):
        path.write_text("x")
    with pytest.raises(SpxError, match=r"at least one good picture"):
        both(classes, bad="skip")


def test_transparent_files(tmp_path):
    clear = np.zeros((4, 4, 4), np.uint8)
    save(clear, tmp_path / "a" / "0.png")
    files = room.listing(tmp_path / "a")
    with pytest.raises(SpxError, match=r"1 of 1 files are bad: .*without transparent pixels"):
        room.read_folder(files, Reading())
    for alpha, level in (("black", 0), ("white", 255)):
        assert (room.read_folder(files, Reading(alpha=alpha)).images == level).all()


def test_commands_read_as_their_options_say(classes, tmp_path):
    """Each option of how a folder is read, as spx-eval and spx-train-lenet have them, beside the reading that it asks for."""
    parser = argparse.ArgumentParser()
    options.add_data(parser)
    common = ["--data=folder", f"--data-dir={classes}"]
    save(picture(50, 9, 15), classes / "cats" / "wide.png")
    save(np.zeros((9, 9, 4), np.uint8), classes / "cats" / "clear.png")
    (classes / "cats" / "bad.png").write_text("x")
    asked = ["--size=6", "--fit=resize", "--colour=grey", "--bad=skip", "--alpha=white"]
    reading = Reading(6, "resize", "grey", "skip", "white")
    got = options.load_data(parser.parse_args([*common, *asked]), "train")
    np.testing.assert_array_equal(got.images, data.load("folder", classes, "train", reading).images)
    for left_out in asked:
        arguments = parser.parse_args([*common, *(option for option in asked if option != left_out)])
        try:
            other = options.load_data(arguments, "train")
        except SpxError:
            continue
        assert other.images.shape != got.images.shape or (other.images != got.images).any(), left_out


# ---- the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch):
    """The files that were read, one by one."""
    found, read = [], room.read_picture
    monkeypatch.setattr(room, "read_picture", lambda path, reading: found.append(path.name) or read(path, reading))
    return found


def test_the_cache_is_used_and_noticed_changes(classes, reads):
    first = both(classes)
    assert len(reads) == 20
    second = both(classes)
    assert len(reads) == 20
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)
    both(classes, colour="grey")
    assert len(reads) == 40
    os.utime(classes / "cats" / "00.png", ns=(1, 1))
    both(classes)
    assert len(reads) == 60
    save(picture(99), classes / "cats" / "99.png")
    assert sum(map(len, both(classes))) == 21 and len(reads) == 81
    (classes / "cats" / "99.png").rename(classes / "dogs" / "99.png")
    assert sum(part.labels.sum() for part in both(classes)) == 11


def test_a_damaged_cache_is_made_anew(classes, reads):
    whole = both(classes)[0]
    (path,) = cache.cache_folder().iterdir()  # nothing temporary is left
    raw = path.read_bytes()
    for damage in (b"", raw[:-100], raw[:2000] + bytes([raw[2000] ^ 1]) + raw[2001:]):
        path.write_bytes(damage)
        reads.clear()
        np.testing.assert_array_equal(both(classes)[0].images, whole.images)
        assert len(reads) == 20
    assert path.read_bytes() == raw


def test_a_cache_that_cannot_be_written_is_done_without(classes, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(both(classes)[0]) == 18


# ---- files -----------------------------------------------------------------------------------------------------------


def test_sixteen_bits_are_scaled(tmp_path):
    deep = (np.arange(256 * 256).reshape(256, 256)).astype(np.uint16)
    expected = np.round(deep / 257)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(deep).save(tmp_path / name)
        got = read_image(tmp_path / name, 1)[..., 0]
        assert np.abs(got - expected).max() == 0, name
        np.testing.assert_array_equal(read_image(tmp_path / name, 3)[..., 2], got)


def test_floats_and_32_bits(tmp_path):
    unit = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    Image.fromarray(unit).save(tmp_path / "unit.tiff")
    np.testing.assert_array_equal(read_image(tmp_path / "unit.tiff", 1)[..., 0], np.floor(unit * 255.0 + 0.5))
    for name, array in (
        ("large", unit * 255), ("nan", unit * np.nan), ("negative", unit - 1), ("wide", (unit * 2**20).astype(np.int32)),
    ):  # fmt: skip
        Image.fromarray(array).save(tmp_path / f"{name}.tiff")
        with pytest.raises(
            SpxError, match=f"{name}.tiff: expected (floats from 0 to 1|8 or 16 bits), got .*what is white"
        ):
            read_image(tmp_path / f"{name}.tiff", 1)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_shape_in_alpha(tmp_path, mode):
    alpha = np.zeros((8, 8), np.uint8)
    alpha[2:6, 2:6] = 255
    shape = Image.fromarray(np.stack([alpha * 0] * 3 + [alpha], 2))  # black on nothing
    if mode == "P":
        shape = Image.fromarray((alpha > 0).astype(np.uint8), "P")
        shape.putpalette([0, 0, 0] * 2)
        shape.info["transparency"] = 0
    elif mode == "LA":
        shape = shape.convert("LA")
    shape.save(tmp_path / "a.png")
    with pytest.raises(SpxError, match=r"without transparent pixels, got some .*--alpha black or --alpha white"):
        read_image(tmp_path / "a.png", 1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 1, "white")[..., 0], 255 - alpha)
    assert not read_image(tmp_path / "a.png", 3, "black").any()


def test_half_transparent_and_opaque(tmp_path):
    half = np.full((4, 4, 4), 128, np.uint8)
    save(half, tmp_path / "half.png")
    assert abs(int(read_image(tmp_path / "half.png", 3, "white")[0, 0, 0]) - (128 * 128 + 255 * 127) / 255) <= 1
    half[..., 3] = 255
    save(half, tmp_path / "whole.png")
    assert (read_image(tmp_path / "whole.png", 3) == 128).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    """How a file must be turned: EXIF 2.3, the tag Orientation, written out in NumPy."""
    a = picture(0, 6, 10)
    stored = {  # what a camera writes of the upright picture a
        1: a, 2: a[:, ::-1], 3: a[::-1, ::-1], 4: a[::-1], 5: a.transpose(1, 0, 2), 6: np.rot90(a, 1), 7: a[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(a, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(np.ascontiguousarray(stored), tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", 3), a)


def test_other_modes(tmp_path):
    a = picture()
    for name, mode in (("bit.png", "1"), ("cmyk.tiff", "CMYK"), ("palette.png", "P")):
        Image.fromarray(a).convert(mode).save(tmp_path / name)
        expected = np.asarray(Image.fromarray(a).convert(mode).convert("RGB"))
        np.testing.assert_array_equal(read_image(tmp_path / name, 3), expected)


def test_files_that_are_refused(tmp_path, monkeypatch):
    frames = [Image.fromarray(picture(i)) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(SpxError, match=r"one picture, got 3 in one file"):
        read_image(tmp_path / "a.gif", 3)
    save(picture(), tmp_path / "large.png")
    monkeypatch.setattr("spx.io.pictures.LARGEST", 143)
    with pytest.raises(SpxError, match=r"at most 143 pixels, got 12x12"):
        read_image(tmp_path / "large.png", 3)
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in (
        ("pipe.png", "a file, got a folder or a device"),
        (".", "a file"),
        ("x\0y", "no such file|null"),
    ):
        with pytest.raises((SpxError, ValueError), match=message):
            read_image(tmp_path / name, 3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "webp", "ppm"])
def test_damaged_files_are_read_or_refused(tmp_path, ending):
    """Bytes changed anywhere, or cut off: an image or a sentence, never another exception, never a warning."""
    path = save(picture(0, 10, 14), tmp_path / f"a.{ending}")
    whole, g, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(150):
        raw = bytearray(whole)
        for place in g.integers(0, min(len(raw), 300), g.integers(1, 4)):
            raw[place] = g.integers(256)
        path.write_bytes(raw[: g.integers(len(raw))] if g.random() < 0.2 else raw)
        try:
            assert read_image(path, 3).ndim == 3
        except SpxError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ")
    assert refused > 20
