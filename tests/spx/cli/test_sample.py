"""spx-sample: what it writes, what it says, what it refuses."""

import hashlib
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from helpers import QUICK, digits, tiny_model
from PIL import Image

import spx
from spx.checkpoints import save_checkpoint
from spx.cli.sample import main
from spx.io import pictures
from spxcore import native

needs_native = pytest.mark.skipif(not native.have_native(), reason=native.why_no_native() or "built")


@pytest.fixture
def draw(checkpoint, tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, engine: str | None = QUICK) -> tuple[int, str, str]:
        arguments = [f"--checkpoint={checkpoint}", *map(str, arguments)]
        if engine:
            arguments.append(f"--engine={engine}")
        try:
            code = main(arguments)
        except SystemExit as stop:  # argparse's own
            code = stop.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def files(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


# ---- what it draws ---------------------------------------------------------------------------------------------------


def test_json_and_the_picture(draw, model, tmp_path):
    code, out, err = draw("--size=9x12", "--seed=5", "--out=a.png", "--json")
    assert (code, err) == (0, "") and out.count("\n") == 1
    record = json.loads(out)
    assert record.keys() == {"engine", "height", "width", "n", "seed", "seconds", "pixels_per_second", "out", "sha256"}
    assert (record["engine"], record["height"], record["width"], record["n"], record["seed"]) == (QUICK, 9, 12, 1, 5)
    assert record["out"] == "a.png" and record["seconds"] > 0
    rate = record["pixels_per_second"]  # seconds are rounded to milliseconds
    assert 9 * 12 / (record["seconds"] + 0.0006) <= rate <= 9 * 12 / max(record["seconds"] - 0.0006, 1e-9)
    expected = model.sample(9, 12, seed=5, engine=QUICK)
    picture = read(tmp_path / "a.png")
    assert picture.shape == (9, 12) and picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, expected[0, ..., 0])
    assert record["sha256"] == [hashlib.sha256(picture.tobytes()).hexdigest()]
    assert files(tmp_path) == ["a.png"]


def test_reference_and_torch_print_the_same_sha256(draw):
    results = [draw("--res=8", "--n=2", "--seed=7", "--json", engine=engine)[1] for engine in ("reference", "torch")]
    a, b = map(json.loads, results)
    assert a["sha256"] == b["sha256"] and (a["engine"], b["engine"]) == ("reference", "torch")


def test_npy_and_names(draw, model, tmp_path):
    _, out, _ = draw("--res=8", "--n=3", "--out=all.npy", "--json")
    images = np.load(tmp_path / "all.npy")
    assert images.shape == (3, 8, 8, 1) and images.dtype == np.uint8
    np.testing.assert_array_equal(images, model.sample(8, n=3, engine=QUICK))
    assert json.loads(out)["sha256"] == [hashlib.sha256(image.tobytes()).hexdigest() for image in images]

    _, out, _ = draw("--res=8", "--n=3", "--out=one-{}.png", "--json")
    assert json.loads(out)["out"] == ["one-0.png", "one-1.png", "one-2.png"]
    for i in range(3):
        np.testing.assert_array_equal(read(tmp_path / f"one-{i}.png"), images[i, ..., 0])

    draw("--res=8", "--n=3", "--out=grid.png")
    grid = read(tmp_path / "grid.png")  # two columns, two rows, a line of one pixel between
    assert grid.shape == (17, 17)
    for i, (y, x) in enumerate([(0, 0), (0, 9), (9, 0)]):
        np.testing.assert_array_equal(grid[y : y + 8, x : x + 8], images[i, ..., 0])
    assert (grid[9:, 9:] == 0).all() and (grid[8] == grid[0, 8]).all() and 0 < grid[8, 0] < 255
    for side, line in ((56, 1), (112, 2)):
        sheet = pictures.grid(np.full((2, side, side, 1), 255, np.uint8), columns=2)
        assert sheet.size == (2 * side + line, side)
    assert files(tmp_path) == ["all.npy", "grid.png", "one-0.png", "one-1.png", "one-2.png"]


def test_the_sentence_without_json(draw, tmp_path):
    code, out, err = draw("--res=8", "--n=2", "--out=a.png")
    assert (
        (code, err) == (0, "") and out.startswith("a.png: 2 images of 8x8, ") and out.endswith(f" pixels/s ({QUICK})\n")
    )
    assert draw("--res=8")[1].startswith("sample.png: 1 image of 8x8, ") and "sample.png" in files(tmp_path)


def test_the_seed_decides(draw):
    one, same, other = (json.loads(draw("--res=8", f"--seed={seed}", "--json")[1])["sha256"] for seed in (1, 1, 2))
    assert one == same != other
    largest = draw("--res=8", f"--seed={2**64 - 1}", "--json")
    assert largest[0] == 0 and json.loads(largest[1])["seed"] == 2**64 - 1


def test_digit(draw, model, tmp_path):
    drawn = {}
    for name, digit in (("any", []), ("three", ["--digit=3"]), ("five", ["--digit=5"])):
        assert draw("--res=8", "--n=4", "--out=a.npy", "--seed=4", *digit)[0] == 0
        drawn[name] = np.load(tmp_path / "a.npy")
    np.testing.assert_array_equal(drawn["three"], model.sample(8, n=4, seed=4, digit=3, engine=QUICK))
    assert (drawn["three"] != drawn["five"]).any(axis=(1, 2, 3)).all()
    codes = {digit: model.module.prior.sample(4, np.arange(4), digit) for digit in (None, 3, 5)}
    assert (codes[3][:, 0] < 0).all() and (codes[5][:, 0] > 0).all()
    assert (codes[None] != codes[3]).any() and len(np.unique(codes[3], axis=0)) == 4


def test_temperature_and_map(draw):
    hashes = [
        json.loads(draw("--res=8", "--json", *options)[1])["sha256"][0]
        for options in ([], ["--temperature=0.5"], ["--map"], ["--temperature=1e-6"])
    ]
    assert len(set(hashes[:3])) == 3 and hashes[2] == hashes[3]


def test_auto_and_fast_take_the_fastest(draw, monkeypatch):
    from spxcore import engines

    monkeypatch.setattr(engines, "why_not", lambda name: None if name in ("reference", "torch") else "not today")
    for options in ([], ["--fast"], ["--engine=auto", "--fast"]):
        assert json.loads(draw("--res=8", "--json", *options, engine=None)[1])["engine"] == "torch"


def test_rgb(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tiny_model(channels=3), tmp_path / "rgb")
    Image.fromarray(digits(1, channels=3)[0][0]).save(tmp_path / "in.png")
    for more in ([], ["--reconstruct", "in.png"]):
        assert main(["--checkpoint=rgb", f"--engine={QUICK}", "--res=8", "--n=2", "--out=a-{}.png", *more]) == 0
        assert read(tmp_path / "a-1.png").shape == (8, 8, 3)


# ---- reconstructions -------------------------------------------------------------------------------------------------


@pytest.fixture
def picture(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i, image in enumerate(digits(2)[0]):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


@pytest.mark.filterwarnings("error")
def test_reconstruct(draw, model, picture, tmp_path):
    code, out, err = draw(
        "--reconstruct", picture / "0.png", picture / "1.png", "--res=8", "--n=2", "--out=r.npy", "--json"
    )
    assert (code, err) == (0, "")
    assert json.loads(out)["n"] == 4
    codes = model.encode(digits(2)[0][..., None])
    expected = model.draw(spx.Request(8, code=codes[[0, 0, 1, 1]]), engine=QUICK)
    np.testing.assert_array_equal(np.load(tmp_path / "r.npy"), expected)
    np.testing.assert_array_equal(model.reconstruct(digits(2)[0][..., None], 8, engine=QUICK)[0], expected[0])


def test_reconstruct_from_refined_codes(draw, model, picture, tmp_path):
    draw("--reconstruct", picture / "0.png", "--refine=3", "--res=8", "--out=r.npy")
    images = digits(1)[0][..., None]
    assert not np.allclose(model.encode(images, 3), model.encode(images))
    np.testing.assert_array_equal(np.load(tmp_path / "r.npy"), model.reconstruct(images, 8, refine=3, engine=QUICK))


def test_reconstruct_inverted_and_of_other_sizes(draw, picture, tmp_path):
    image = Image.open(picture / "0.png")
    Image.fromarray(255 - np.asarray(image)).save(picture / "dark.png")
    image.convert("RGBA").save(picture / "rgba.png")
    image.resize((56, 40)).save(picture / "large.png")

    def drawn(name, *options):
        assert draw("--reconstruct", picture / name, "--res=8", "--out=r.npy", *options)[0] == 0
        return np.load(tmp_path / "r.npy")

    expected = drawn("0.png")
    np.testing.assert_array_equal(drawn("dark.png", "--invert"), expected)
    np.testing.assert_array_equal(drawn("rgba.png"), expected)
    assert drawn("large.png").shape == (1, 8, 8, 1)


def test_files_that_are_no_pictures(draw, picture, tmp_path):
    whole = (picture / "0.png").read_bytes()
    (picture / "text.png").write_text("hello")
    (picture / "empty.png").write_bytes(b"")
    (picture / "half.png").write_bytes(whole[: len(whole) // 2])
    for name in ("none.png", "text.png", "empty.png", "half.png", "."):
        code, out, err = draw("--reconstruct", picture / name, "--res=8")
        assert (code, out) == (2, "") and err.startswith(f"error: {picture / name}: ") and err.count("\n") == 1
    assert files(tmp_path) == ["in"]


def test_a_picture_with_a_flipped_byte_is_read_or_refused(picture):
    """Wherever the damage is: an image or a sentence, never another exception."""
    from spx.io.pictures import read_image
    from spxcore.errors import SpxError

    whole, refused = (picture / "0.png").read_bytes(), 0
    for place in range(len(whole)):
        (picture / "bad.png").write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            assert read_image(picture / "bad.png", 1).ndim == 3
        except SpxError:
            refused += 1
    assert refused > 20


# ---- refusals --------------------------------------------------------------------------------------------------------

REFUSED = {
    "seed": (["--seed", 2**64], "seed: expected a whole number, 0 to 2^64 - 1, got 18446744073709551616"),
    "negative seed": (["--seed=-1"], "seed: expected a whole number, 0 to"),
    "res under the patch": (["--res=4"], "height: expected at least the patch size 8, got 4"),
    "res 0": (["--res=0"], "res: expected at least"),
    "negative res": (["--res=-8"], "res: expected at least"),
    "narrow": (["--size=28x7"], "width: expected at least the patch size 8, got 7"),
    "size of nothing": (["--size=0x0"], "height: expected at least the patch size 8, got 0"),
    "huge": (["--res=2000000"], "height: expected at most 1048576, got 2000000"),
    "more than the memory": (["--res=1048576", "--n=10000"], "memory"),
    "digit 12": (["--digit=12"], "digit: expected a class of this checkpoint, 3 to 5, got 12"),
    "digit 4": (["--digit=4"], "digit: expected a class"),
    "n": (["--n=0"], "n: expected at least 1, got 0"),
    "threads": (["--threads=0"], "threads: expected a whole number, 1 to 65536, got 0"),
    "temperature": (["--temperature=0"], "temperature: expected more than 0, got 0"),
    "negative temperature": (["--temperature=-1"], "temperature: expected"),
    "NaN temperature": (["--temperature=nan"], "temperature: expected"),
    "infinite temperature": (["--temperature=inf"], "temperature: expected"),
    "suffix": (["--out=a.jpg"], "out: expected a name ending in .png or .npy, got 'a.jpg'"),
    "no suffix": (["--out=a"], "out: expected a name ending in"),
    "no such folder": (["--out=none/a.png"], "out: none/a.png cannot be written (No such file or directory)"),
    "not writable": (["--out=/proc/a.png"], "out: /proc/a.png cannot be written"),
    "below a file": (["--out=/etc/hostname/a.png"], "out: /etc/hostname/a.png cannot be written (Not a directory)"),
    "checkpoint": (["--checkpoint=mnist-9x9"], "checkpoint: expected one of"),
    "device": (["--device=gpu"], "device: expected cpu"),
    "refine alone": (["--refine=3"], "refine: goes with --reconstruct"),
    "refine": (["--refine=-1"], "refine: expected 0 or more, got -1"),
    "invert alone": (["--invert"], "invert: goes with --reconstruct"),
    "digit and reconstruct": (["--digit=3", "--reconstruct", "a.png"], "digit: goes with drawing new images"),
    "fast and an engine": (["--fast"], f"fast: picks the engine by itself; leave it or --engine {QUICK} out"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(draw, tmp_path, case):
    """One sentence on standard error, exit code 2, nothing written, nothing on standard output."""
    arguments, message = REFUSED[case]
    code, out, err = draw("--json", *arguments)
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1, err
    assert message in err
    assert files(tmp_path) == []


def test_out_that_is_a_folder(draw, tmp_path):
    (tmp_path / "a.png").mkdir()
    code, _, err = draw("--res=8", "--out=a.png")
    assert code == 2 and "out: expected a file's name, got the folder a.png" in err and files(tmp_path) == ["a.png"]


def test_a_refused_run_leaves_the_old_picture(draw, tmp_path):
    (tmp_path / "sample.png").write_bytes(b"old")
    assert draw("--digit=12")[0] == 2
    assert (tmp_path / "sample.png").read_bytes() == b"old" and files(tmp_path) == ["sample.png"]


@pytest.mark.parametrize("arguments", [["--size=28"], ["--size=axb"], ["--res=a"], ["--res=8", "--size=8x8"], ["--engine=fast"],
                                       ["--precision=fp16"], ["--unknown"]])  # fmt: skip
def test_arguments_argparse_refuses(draw, arguments, tmp_path):
    code, out, err = draw(*arguments, engine=None)
    assert (code, out) == (2, "") and err.startswith("usage: spx-sample") and files(tmp_path) == []


@pytest.mark.parametrize("engine", ["cpp", "triton", "cuda"])
def test_engines_that_cannot_run(draw, tmp_path, engine, monkeypatch):
    from spxcore import engines

    why_not, reason = engines.why_not, engines.why_not(engine) or "not today, says the test; use another"
    monkeypatch.setattr(engines, "why_not", lambda name: reason if name == engine else why_not(name))
    code, out, err = draw("--res=8", engine=engine)
    assert (code, out, err) == (2, "", f"error: engine: {engine} cannot run here: {reason}\n") and files(tmp_path) == []


@pytest.mark.parametrize(
    ("engine", "precision", "has"),
    [
        ("reference", "bf16", "fp32"),
        ("torch", "tf32", "fp32 or bf16"),
        pytest.param("cpp", "tf32", "fp32 or bf16", marks=needs_native),
    ],
)
def test_precisions_that_an_engine_does_not_have(draw, tmp_path, engine, precision, has):
    code, out, err = draw("--res=8", f"--precision={precision}", engine=engine)
    message = f"error: precision: expected {has} for the {engine} engine, got '{precision}'\n"
    assert (code, out, err) == (2, "", message) and files(tmp_path) == []


def test_the_engine_is_given_the_precision(draw, monkeypatch):
    from spxcore import engines

    asked, torch = {}, engines.get("torch")
    monkeypatch.setattr(engines, "get", lambda name, job=None, **options: asked.update({name: options}) or torch)
    assert draw("--res=8", "--precision=tf32", engine="triton")[0] == 0
    assert asked["triton"]["precision"] == "tf32"


def test_auto_weighs_all_images(draw, monkeypatch):
    """Not the first one alone: a hundred small images may be work for a GPU."""
    from spxcore import engines

    weighed, torch = [], engines.get("torch")
    monkeypatch.setattr(engines, "get", lambda name, job=None, **options: weighed.append(len(job.images)) or torch)
    assert draw("--res=8", "--n=3", engine="auto")[0] == 0 and weighed[0] == 3


def test_a_checkpoint_without_a_latent_code(tmp_path, monkeypatch, capsys, picture):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tiny_model(conditioning="paper", latent=0, coordinates=False), tmp_path / "plain")
    common = ["--checkpoint=plain", f"--engine={QUICK}", "--res=8", "--out=a.png"]
    assert main([*common, "--digit=3"]) == 2
    assert "digit: this checkpoint's model does not understand it" in capsys.readouterr().err
    assert main([*common, "--reconstruct", str(picture / "0.png")]) == 2
    assert "reconstruct: this checkpoint's model does not understand it" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()
    assert main(common) == 0 and read(tmp_path / "a.png").shape == (8, 8)


# ---- Ctrl-C, --help --------------------------------------------------------------------------------------------------


def test_ctrl_c_writes_what_is_finished(draw, model, tmp_path, monkeypatch):
    from spxcore.engines.torch import Torch

    whole, pixel_params, calls = model.sample(16, seed=1, engine="torch"), Torch.pixel_params, []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 90:
            raise KeyboardInterrupt
        return pixel_params(self, *arguments)

    monkeypatch.setattr(Torch, "pixel_params", interrupted)
    code, out, err = draw("--res=16", "--seed=1", "--out=a.png", "--json", engine="torch")
    assert (
        (code, out) == (130, "")
        and err.startswith("stopped after ")
        and err.endswith("what was drawn so far is in a.png\n")
    )
    picture, r, c = read(tmp_path / "a.png"), *np.indices((16, 16))
    finished = 8 * r + c < 89
    np.testing.assert_array_equal(picture, np.where(finished, whole[0, ..., 0], 0))
    assert files(tmp_path) == ["a.png"]


def test_ctrl_c_to_the_process(checkpoint, tmp_path):
    """The real signal, in the middle of a picture that would take hours."""
    command = [
        sys.executable,
        "-m",
        "spx.cli.sample",
        f"--checkpoint={checkpoint}",
        "--engine=torch",
        "--res=1400",
        "--out=a.npy",
    ]
    # The signal is sent from inside, once the first pixels are drawn: no waiting for a moment that may not come.
    code = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born ignoring it
from spxcore.engines.torch import Torch
pixel_params, calls = Torch.pixel_params, []
def counted(*arguments):
    calls.append(1)
    if len(calls) == 20:
        os.kill(os.getpid(), signal.SIGINT)
    return pixel_params(*arguments)
Torch.pixel_params = counted
from spx.cli.sample import main
sys.exit(main({command[3:]!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 130 and done.stdout == "", done.stderr
    assert "what was drawn so far is in a.npy" in done.stderr and "Traceback" not in done.stderr
    image = np.load(tmp_path / "a.npy")
    assert image.shape == (1, 1400, 1400, 1) and image[0, 0, :15].any() and not image[0, 8:].any()


def test_help_imports_nothing_heavy():
    """What makes --help instant is that nothing heavy is imported for it."""
    for command in ("sample", "train"):
        code = f"""
import sys
from spx.cli.{command} import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
heavy = {{"torch", "sklearn", "scipy", "PIL", "safetensors", "huggingface_hub", "tensorboard"}} & sys.modules.keys()
print("heavy:", sorted(heavy))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"usage: spx-{command}") and done.stdout.endswith("heavy: []\n"), done.stdout[
            -200:
        ]


@needs_native
@pytest.mark.parametrize(("engine", "channels"), [("--engine=cpp", 3), ("--fast", 1)])
def test_on_processor_cores_it_draws_without_torch(tmp_path, engine, channels):
    """New images and reconstructions, of files of the VAE's size and of another; and what it takes stays small."""
    save_checkpoint(tiny_model(channels=channels), tmp_path / "checkpoint")
    image = Image.fromarray(digits(1, channels=channels)[0][0])
    image.save(tmp_path / "a.png")
    image.resize((50, 41)).save(tmp_path / "b.png")
    code = f"""
import re, sys
from spx.cli.sample import main
common = ["--checkpoint=checkpoint", {engine!r}]
assert main([*common, "--size=8x1400", "--out=new.png"]) == 0
assert main([*common, "--reconstruct", "a.png", "b.png", "--res=9", "--out=r.npy"]) == 0
assert "torch" not in sys.modules
status = open("/proc/self/status").read()  # getrusage would count what the parent had when it forked
assert int(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1]) < 300_000, status
"""
    # No GPU, and none pretended, so that --fast is cpp.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TRITON_INTERPRET": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("pixels/s (cpp)") == 2
    model = spx.load(tmp_path / "checkpoint")
    inputs = [
        np.asarray(Image.open(tmp_path / name)).reshape(1, h, w, channels)
        for name, h, w in (("a.png", 28, 28), ("b.png", 41, 50))
    ]
    codes = np.concatenate([model.encode(image) for image in inputs])
    np.testing.assert_array_equal(np.load(tmp_path / "r.npy"), model.draw(spx.Request(9, code=codes), engine="cpp"))


def test_version(draw, capsys):
    assert draw("--version") == (0, f"spx-sample {spx.__version__}\n", "")


def test_a_reader_that_goes_away(checkpoint, tmp_path):
    """`spx-sample --json | head -0`: no stack trace."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    arguments = [f"--checkpoint={checkpoint}", f"--engine={QUICK}", "--res=8", "--json", "--out=a.png"]
    done = subprocess.run(
        [sys.executable, "-u", "-m", "spx.cli.sample", *arguments],
        cwd=tmp_path,
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write_end)
    assert "Traceback" not in done.stderr and done.returncode in (141, -signal.SIGPIPE)
    assert (tmp_path / "a.png").exists()
