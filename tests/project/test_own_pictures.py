"""README's example: train on a folder of one's own PNGs, then draw from the checkpoint."""

import json

import numpy as np
from PIL import Image
from small_networks import small_networks

from spx.cli.sample import main as sample
from spx.cli.train import main as train

TINY = (
    "--preset=small-8x8 --vae-steps=2 --steps=2 --batch=8 --patches-per-image=2 --vae-batch=8 --refine=0 --components=1"
)


def pictures(folder) -> None:
    """Red and blue discs of several sizes and shapes, in a folder a colour."""
    for i in range(24):
        height, width = 20 + i % 3, 20 + i % 5
        y, x = np.mgrid[:height, :width]
        disc = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (5 + i % 4) ** 2
        colour = [230, 30, 30] if i % 2 else [30, 30, 230]
        path = folder / ("red" if i % 2 else "blue") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(disc[..., None] * np.uint8(colour)).save(path)


def test_train_on_a_folder_and_draw(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures(tmp_path / "mine")
    with small_networks():
        train_and_draw(tmp_path, capsys)


def train_and_draw(tmp_path, capsys):
    (tmp_path / "mine" / "red" / "bad.png").write_text("no picture")
    arguments = [
        "--data=folder",
        "--data-dir=mine",
        "--size=16",
        "--sizes",
        "16",
        "32",
        "--out=run",
        "--quiet",
        "--device=cpu",
    ]
    assert train([*arguments, *TINY.split()]) == 2
    assert "error: 1 of 25 files are bad: " in capsys.readouterr().err
    assert train([*arguments, *TINY.split(), "--bad=skip"]) == 0
    assert "1 bad files left out: red/bad.png" in capsys.readouterr().err
    saved = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert (saved["data"], saved["size"], saved["bad"]) == ("folder", 16, "skip")
    config = json.loads((tmp_path / "run" / "checkpoint" / "config.json").read_text())
    assert config["network"]["channels"] == 3
    assert config["about"]["classes"] == ["blue", "red"]
    for i, more in enumerate((["--class=1"], ["--reconstruct", "mine/red/1.png"], ["--complete", "mine/red/1.png"])):
        assert sample(["--checkpoint=run/checkpoint", f"--out={i}.png", *more]) == 0
        shape = np.asarray(Image.open(f"{i}.png")).shape
        assert shape == ((16, 16, 3) if i < 2 else np.asarray(Image.open("mine/red/1.png")).shape)
