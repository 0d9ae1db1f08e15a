"""spx-score: the bits it prints are those of the Python interface, picture by picture, and its map is theirs pixel by pixel."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from helpers import QUICK, digits
from PIL import Image

from spx.cli.score import main


@pytest.fixture
def pictures(tmp_path, monkeypatch) -> np.ndarray:
    """Three pictures uint8 [3, 10, 14, 1]: a.png, b.png, and all in all.npy. c.png has another size."""
    monkeypatch.chdir(tmp_path)
    images, other = digits(3, side=14)[0][:, :10], digits(1, side=9)[0]
    for name, image in zip("abc", (*images[:2], other[0])):
        Image.fromarray(image).save(f"{name}.png")
    np.save("all.npy", images)
    return images[..., None]


@pytest.fixture
def run(checkpoint, capsys):
    """Run the command: what it printed, or its refusal."""

    def run(*arguments) -> str:
        code = main([f"--checkpoint={checkpoint}", f"--engine={QUICK}", *arguments])
        out, err = capsys.readouterr()
        if code == 0:
            assert err == ""
            return out
        assert code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
        return err

    return run


def test_each_picture(run, pictures, model):
    """Files of several sizes and kinds, in the order they were named."""
    found = json.loads(run("all.npy", "c.png", "b.png", "--json", "--seed=3"))
    expected, other = model.score(pictures, seed=3, engine=QUICK), digits(1, side=9)[0][..., None]
    assert [record["name"] for record in found["images"]] == [
        "all.npy[0]",
        "all.npy[1]",
        "all.npy[2]",
        "c.png",
        "b.png",
    ]
    bits = [*expected.bits, model.score(other, seed=3, engine=QUICK).bits[0], expected.bits[1]]
    np.testing.assert_allclose([record["bits_per_dimension"] for record in found["images"]], bits, rtol=1e-6)
    code = [record["code_bits_per_dimension"] for record in found["images"]]
    np.testing.assert_allclose(code[:3], expected.code_bits, rtol=1e-6)
    nats = [record["nats"] for record in found["images"]]
    np.testing.assert_allclose(nats[:3], expected.bits * 140 * math.log(2), rtol=1e-6)
    assert found["upper_bound"] and found["engine"] == QUICK and found["seed"] == 3
    assert [(r["height"], r["width"]) for r in found["images"][2:4]] == [(10, 14), (9, 9)]


def test_the_words(run, pictures, model):
    lines, expected = run("a.png", "b.png").splitlines(), model.score(pictures[:2], engine=QUICK)
    for line, name, bits, code in zip(lines, "ab", expected.bits, expected.code_bits):
        assert line == f"{name}.png: {bits:.4f} bits per dimension ({code:.4f} of them its code's)"
    assert lines[2:] == [
        f"mean of 2: {expected.bits.mean():.4f} bits per dimension", "upper bounds: a picture may cost less by another code",
    ]  # fmt: skip


def test_a_map(run, pictures, model):
    expected = model.score(pictures[:1], engine=QUICK).pixel_bits
    most = json.loads(run("a.png", "--map=bits.npy", "--json"))["most"]
    np.testing.assert_allclose(np.load("bits.npy"), expected, rtol=1e-5)
    assert most == pytest.approx(expected.max())
    assert run("a.png", "--map=bits.png").splitlines()[-1] == f"bits.png: the bits of each pixel, at most {most:.2f}"
    grey = np.asarray(Image.open("bits.png")).astype(int)
    assert grey.max() == 255 and np.abs(grey - expected[0] / most * 255).max() < 0.51


def test_inverted(run, pictures):
    Image.fromarray(255 - pictures[0, ..., 0]).save("dark.png")
    assert run("dark.png", "--invert").split(": ")[1] == run("a.png").split(": ")[1] != run("dark.png").split(": ")[1]


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (["nothing.png"], "nothing.png: no such file"),
        (["a.png", "c.png", "--map=m.png"], "map: expected pictures of one size, got 2 sizes"),
        (["a.png", "--map=./a.png"], "map: expected another file than those that are read"),
        (["a.png", "--map=m.txt"], "map: expected a name ending in .png or .npy"),
        (["colour.npy"], "colour.npy: expected 1 channels, as the model's, got 3"),
        (["floats.npy"], "floats.npy images: expected uint8"),
        (["small.npy"], "height: expected at least the patch size 8, got 4"),
    ],
)
def test_refused(run, pictures, arguments, refusal):
    np.save("colour.npy", np.zeros((2, 9, 9, 3), np.uint8))
    np.save("floats.npy", np.zeros((2, 9, 9)))
    np.save("small.npy", np.zeros((4, 9), np.uint8))
    before = Path("a.png").read_bytes()
    assert run(*arguments).startswith(f"error: {refusal}")
    assert Path("a.png").read_bytes() == before
