"""spx-sample on files: completion, masks, kinds of files; and that every option of a request changes what is drawn."""

import json
from dataclasses import fields

import numpy as np
import pytest
from helpers import QUICK, digits
from PIL import Image

from spx.cli.request import unseen
from spx.cli.sample import UNSEEN, main, parser
from spx.request import Request


@pytest.fixture
def draw(checkpoint, tmp_path, monkeypatch, capsys):
    """Run the command beside two small pictures, a.png and b.png: what it drew, or its refusal."""
    monkeypatch.chdir(tmp_path)
    for name, image in zip("ab", digits(2, side=14)[0]):
        Image.fromarray(image[:10]).save(f"{name}.png")

    def run(*arguments):
        code = main(
            [f"--checkpoint={checkpoint}", f"--engine={QUICK}", "--out=out.npy", "--json", *map(str, arguments)]
        )
        out, err = capsys.readouterr()
        if code == 0:
            assert json.loads(out)["n"] == len(np.load("out.npy")) and err in ("", UNSEEN + "\n")
            run.told = err
            return np.load("out.npy")
        assert code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
        return err

    return run


def pictures() -> np.ndarray:
    return digits(2, side=14)[0][:, :10, :, None]


@pytest.mark.parametrize(
    ("where", "part"),
    [
        ("top:0.5", np.s_[:5]), ("bottom:0.3", np.s_[7:]), ("left:0.25", np.s_[:, :4]), ("right:0.5", np.s_[:, 7:]), ("top:1", np.s_[:]),
        ("left:0", np.s_[:0]),
    ],
)  # fmt: skip
def test_complete(draw, model, where, part):
    mask = np.zeros((10, 14), bool)
    mask[part] = True
    drawn = draw("--complete", "a.png", "--given", where, "--seed=3")
    np.testing.assert_array_equal(drawn, model.complete(pictures()[:1], mask, seed=3, engine=QUICK))
    np.testing.assert_array_equal(drawn[0][mask], pictures()[0][mask])
    assert (drawn[0] != pictures()[0]).any() == (not mask.all())
    side, share = where.split(":")
    assert bool(draw.told) == (side != "top" and float(share) > 0)


def test_what_the_network_cannot_see():
    mask = np.zeros((3, 4), bool)
    assert not unseen(mask) and not unseen(~mask)
    mask[0], mask[1, :2] = True, True
    assert not unseen(mask)
    for place in ((1, 3), (2, 0), (2, 3)):
        one = mask.copy()
        one[place] = True
        assert unseen(one)


def test_complete_by_a_mask_file_and_several(draw, model):
    mask = np.random.default_rng(0).random((10, 14)) < 0.5
    Image.fromarray(np.where(mask, 128, 127).astype(np.uint8)).save("mask.png")
    drawn = draw("--complete", "a.png", "b.png", "--given", "mask.png", "--n=2", "--class=3")
    both = pictures()[[0, 0, 1, 1]]
    np.testing.assert_array_equal(drawn, model.complete(both, mask, digit=3, engine=QUICK))
    np.testing.assert_array_equal(drawn[:, mask], both[:, mask])
    assert (drawn[0] != drawn[1]).any()


def test_half_from_the_top_is_given_unless_told_otherwise(draw):
    np.testing.assert_array_equal(
        draw("--complete", "a.png"), draw("--complete", "a.png", "--given", "top:0.5", "--alpha=black")
    )


REFUSED = {
    "no file": (["--complete", "none.png"], "none.png: no such file"),
    "given alone": (["--given=top:0.5"], "given: goes with --complete"),
    "alpha alone": (["--alpha=black"], "alpha: goes with --reconstruct or --complete"),
    "a size": (["--complete", "a.png", "--res=28"], "size: goes with drawing new images, not with --complete"),
    "no mask": (["--complete", "a.png", "--given=middle"], "given: expected top:SHARE, bottom:SHARE, left:SHARE, right:SHARE or a mask"),
    "a mask's size": (["--complete", "a.png", "--given=small.png"], "small.png: expected a mask of 10x14, as the picture, got (8, 8)"),
    "other sizes": (["--complete", "a.png", "small.png"], "small.png: expected the size of the first file, (10, 14), got (8, 8)"),
    "refine": (["--complete", "a.png", "--refine=2"], "refine: goes with --reconstruct"),
    "invert": (["--complete", "a.png", "--invert"], "invert: goes with --reconstruct"),
    "too small": (["--complete", "tiny.png"], "height: expected at least the patch size 8, got 3"),
    "transparent": (["--reconstruct", "clear.png", "--res=8"], "clear.png: expected a picture without transparent pixels"),
    "32 bits": (["--reconstruct", "deep.tiff", "--res=8"], "deep.tiff: expected 8 or 16 bits"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(draw, tmp_path, case):
    Image.new("L", (8, 8)).save("small.png")
    Image.new("L", (3, 3)).save("tiny.png")
    Image.new("RGBA", (8, 8), (255, 0, 0, 9)).save("clear.png")
    Image.fromarray(np.full((8, 8), 70_000, np.int32)).save("deep.tiff")
    arguments, message = REFUSED[case]
    assert message in draw(*arguments) and not (tmp_path / "out.npy").exists()


@pytest.mark.parametrize("where", ["top:1.5", "left:-1", "top:x", "right:nan", "top:"])
def test_shares_that_are_none(draw, where, capsys):
    with pytest.raises(SystemExit):
        draw("--complete", "a.png", "--given", where)
    side = where.split(":")[0]
    assert f"expected a share from 0 to 1 such as {side}:0.5, got '{where}'" in capsys.readouterr().err


def test_class_and_digit_are_one_option(draw):
    np.testing.assert_array_equal(draw("--res=8", "--class=3"), draw("--res=8", "--digit=3"))


def test_files_of_other_kinds_are_drawn_alike(draw):
    image = np.asarray(Image.open("a.png"))
    Image.fromarray(image.astype(np.uint16) * 257).save("deep.png")
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.ascontiguousarray(image[::-1, ::-1])).save("turned.png", exif=exif)
    alpha = np.concatenate([np.full((10, 14, 3), 255, np.uint8), image[..., None]], axis=2)
    Image.fromarray(alpha).save("alpha.png")
    expected = draw("--reconstruct", "a.png", "--res=8")
    for name, *more in (("deep.png",), ("turned.png",), ("alpha.png", "--alpha=black")):
        np.testing.assert_array_equal(draw("--reconstruct", name, "--res=8", *more), expected, err_msg=name)
    assert (draw("--reconstruct", "alpha.png", "--res=8", "--alpha=white") != expected).any()


# For each option of a request: what is drawn without it, and with it.
CHANGES = {
    "height": ([], ["--res=9"]),
    "width": (["--res=8"], ["--size=8x9"]),
    "n": (["--res=8"], ["--res=8", "--n=2"]),
    "seed": (["--res=8"], ["--res=8", "--seed=1"]),
    "label": (["--res=8", "--class=3"], ["--res=8", "--class=5"]),
    "source": (["--res=8"], ["--res=8", "--reconstruct", "a.png"]),
    "refine": (["--res=8", "--reconstruct", "a.png"], ["--res=8", "--reconstruct", "a.png", "--refine=3"]),
    "given": (["--size=10x14"], ["--complete", "a.png"]),
    "where": (["--complete", "a.png"], ["--complete", "a.png", "--given=left:0.5"]),
    "invert": (["--res=8", "--reconstruct", "a.png"], ["--res=8", "--reconstruct", "a.png", "--invert"]),
    "temperature": (["--res=8"], ["--res=8", "--temperature=0.5"]),
    "mode": (["--res=8"], ["--res=8", "--mode"]),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_option_changes_what_is_drawn(draw, name):
    without, with_it = (draw(*arguments) for arguments in CHANGES[name])
    assert without.shape != with_it.shape or (without != with_it).any()


def test_the_options_are_the_fields_of_a_request():
    """None is forgotten, here or above: a field that is not hidden is an option, with its help."""
    known = {action.dest: action for action in parser()._actions}
    wanted = {f.name: f for f in fields(Request) if f.metadata and not f.metadata.get("hidden")}
    assert {*wanted, "temperature", "mode"} <= known.keys() and wanted.keys() <= CHANGES.keys()
    for name, f in wanted.items():
        assert known[name].help.startswith(f.metadata["help"])
        if "options" in f.metadata:
            assert tuple(known[name].option_strings) == f.metadata["options"]


@pytest.mark.parametrize("suffix", ["png", "npy"])
def test_files_have_the_mode_that_the_umask_gives(draw, tmp_path, monkeypatch, suffix):
    import os

    old = os.umask(0o022)
    try:
        main([f"--out=m.{suffix}", "--res=8", f"--engine={QUICK}"])
    finally:
        os.umask(old)
    assert (tmp_path / f"m.{suffix}").stat().st_mode & 0o777 == 0o644
