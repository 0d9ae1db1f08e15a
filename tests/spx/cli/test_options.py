"""Every option of every command reaches what it is said to change, with its default where it is not given, and changes nothing else.

The options are the parsers' own: one without a line here fails a test. What is slow behind a command is replaced by a note of what it
was told; that it does what it is told is tested where it lives.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from dataclasses import asdict, fields, replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import digits, tiny_model
from PIL import Image

import spx
from spx.checkpoints import read_checkpoint
from spx.cli.train import settings_fields
from spx.data import Images
from spx.data.settings import DataSettings, Reading
from spx.models import registry
from spx.models.likelihood import Score
from spx.models.spatial.settings import preset
from spx.reproduce.run import Reproduction
from spx.reproduce.settings import Settings as Reproduced
from spxcore import engines
from spxcore.lower.summary import summary
from spxcore.plan import plan_at

ROOT = Path(__file__).parents[3]
SCRIPTS = dict(re.findall(r'^(spx-[\w-]+) = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
COMMANDS = (
    "spx-sample",
    "spx-eval",
    "spx-train",
    "spx-train-lenet",
    "spx-reproduce",
    "spx-plan",
    "spx-score",
    "spx-doctor",
)
NO_DRAWING = SimpleNamespace(job=lambda *_: None, rounds=(SimpleNamespace(bytes_an_image=0),), images=[0])
READING = {"size": 30, "fit": "resize", "colour": "grey", "bad": "skip", "alpha": "black"}


def module_of(command: str):
    own = command.removeprefix("spx-")
    return import_module("spx.cli." + {"eval": "evaluate", "train-lenet": "lenet"}.get(own, own))


def options_of(command: str) -> set[str]:
    """Names of what the parser knows, but for --help and --version."""
    actions = module_of(command).parser()._actions
    return {a.dest for a in actions if not isinstance(a, (argparse._HelpAction, argparse._VersionAction))}


class Watch:
    """What a command told those behind it.

    Attributes:
        told: by name.
    """

    def __init__(self, monkeypatch, capsys, folder: Path):
        self.patch, self.capsys, self.told = monkeypatch, capsys, {}
        monkeypatch.chdir(folder)
        self.replace("torch.set_num_threads", lambda count: self.told.update(threads=count))
        # What evaluates is made once for all tests of a process: by the real `get`.
        engines._evaluator("cpp" if engines.why_not("cpp") is None else "torch")
        self.replace("spxcore.engines.get", self.engine)

    def replace(self, name: str, by) -> None:
        """Replace a function of a module, by its whole name; the module may be hidden behind a function of its name."""
        place, name = name.rsplit(".", 1)
        import_module(place)
        self.patch.setattr(sys.modules[place], name, by)

    def engine(self, name="auto", job=None, **options):
        self.told |= {"engine": name, **options}
        return SimpleNamespace(name=f"engine {name}", why_not=lambda job: None)

    def load(self, name, folder, split, reading=None, progress=False):
        """`spx.data.load`: eight images of the data's own size."""
        read = {f.name: getattr(reading, f.name) for f in fields(Reading)} if reading is not None else {}
        self.told |= {"data": name, "data_dir": folder, **read}
        self.told.setdefault("splits", []).append(split)
        images, labels = digits(8, seed=split == "test")
        return Images(images[:, None], labels)

    def run(self, command: str, *arguments) -> dict:
        self.told.clear()
        code = module_of(command).main([str(a) for a in arguments])
        out, err = self.capsys.readouterr()
        assert code == 0, err
        return {**self.told, "printed": out}


@pytest.fixture
def watch(monkeypatch, capsys, tmp_path):
    return Watch(monkeypatch, capsys, tmp_path)


def compare(base: dict, found: dict, changes: dict, besides=()) -> None:
    """Nothing but `changes` changed, to those values; besides: names of what may follow from them."""
    for name in base.keys() | found.keys() | changes.keys():
        if name in changes:
            assert found.get(name) == changes[name] != base.get(name), name
        elif name not in besides:
            assert found.get(name) == base.get(name), name


def test_these_are_all_commands():
    assert {name: f"{module_of(name).__name__}:main" for name in COMMANDS} == SCRIPTS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_here(command):
    known = {
        "spx-sample": SAMPLE,
        "spx-eval": EVALUATE,
        "spx-train-lenet": LENET,
        "spx-reproduce": REPRODUCE,
        "spx-plan": PLAN,
        "spx-doctor": DOCTOR,
        "spx-score": SCORE,
    }
    if command == "spx-train":
        wanted = {f.name for f in settings_fields(registry.family("spatial").Settings)} | {*TRAIN}
    else:
        wanted = {*known[command]}
    assert options_of(command) == wanted


# ---- spx-sample --------------------------------------------------------------------------------------------------------

# Option: arguments, what of the watched they change and to what, and arguments of the base they are compared with.
ANEW, COMPLETE = ("--res=9", "--reconstruct", "a.png", "b.png"), ("--complete", "a.png", "b.png")
SAMPLE = {
    "height": (["--res=9"], {"size": (9, 9)}),
    "width": (["--size=8x9"], {"size": (8, 9)}),
    "n": (["--n=3"], {"n": 3}),
    "seed": (["--seed=4"], {"seed": 4}),
    "label": (["--class=3"], {"label": 3}),
    "temperature": (["--temperature=0.5"], {"temperature": 0.5}),
    "mode": (["--mode"], {"mode": True}),
    "checkpoint": (["--checkpoint=other"], {"checkpoint": "other"}),
    "engine": (["--engine=cpp"], {"engine": "cpp"}),
    "precision": (["--precision=tf32"], {"precision": "tf32"}),
    "threads": (["--threads=3"], {"threads": 3}),
    "device": (["--device=cuda:1"], {"device": "cuda:1"}),
    "fast": (["--fast"], {}),  # what auto does; another engine is refused
    "out": (["--out=x.npy"], {"files": ["x.npy"]}),
    "json": (["--json"], {"json": True}),
    "source": ([*ANEW], {"size": (9, 9), "n": 2, "code": ("a", "b")}),
    "refine": (["--refine=2"], {"code": ("a refined 2", "b refined 2")}, ANEW),
    "invert": (["--invert"], {"code": ("-a", "-b")}, ANEW),
    "alpha": (["--alpha=white"], {"alpha": "white"}, ANEW),
    "given": ([*COMPLETE], {"size": (10, 14), "n": 2, "kept": ("a", "b"), "rows": 5}),
    "where": (["--given=top:0.26"], {"rows": 3}, COMPLETE),
}  # fmt: skip


@pytest.fixture
def sampled(watch, checkpoint):
    """Run spx-sample beside a.png and b.png; what it asked for, by name."""
    pictures = dict(zip("ab", digits(2, side=14)[0][:, :10, :, None]))
    for name, picture in pictures.items():
        Image.fromarray(picture[..., 0]).save(f"{name}.png")
    model = spx.load(checkpoint)
    model.family, family = SimpleNamespace(**{n: getattr(model.family, n) for n in ("offers", "size")}), model.family

    def name_of(picture) -> str:
        known = {name: p for name, p in pictures.items()} | {f"-{name}": 255 - p for name, p in pictures.items()}
        return next(name for name, p in known.items() if np.array_equal(p, picture))

    def encode(images, refine=0):
        (picture,) = images
        return np.array([[name_of(picture) + (f" refined {refine}" if refine else "")]])

    def drawing(asked):
        numbers = {"n": asked.n, "seed": asked.seed, "label": asked.label, **asdict(asked.sampling)}
        watch.told |= {"size": (asked.height, asked.width), **numbers}
        watch.told["code"] = None if asked.code is None else tuple(asked.code[:, 0])
        if asked.given is not None:
            rows = asked.given.mask.all(axis=1)
            assert (rows == asked.given.mask.any(axis=1)).all() and rows[: rows.sum()].all()
            watch.told |= {"kept": tuple(map(name_of, asked.given.pixels)), "rows": int(rows.sum())}
        return NO_DRAWING

    model.encode, model.drawing = encode, drawing
    model.module = None  # it is not asked for
    from spx.io import pictures as files

    read = files.read_image

    def read_image(path, channels, alpha="refuse"):
        watch.told["alpha"] = alpha
        return read(path, channels, alpha)

    def draw(drawing, engine, out, report):
        out[...] = 7

    def load(name):
        watch.told["checkpoint"] = name
        return model

    watch.replace("spx.io.pictures.read_image", read_image)
    watch.replace("spxcore.draw.draw", draw)
    watch.replace("spx.api.load", load)

    def run(*arguments):
        before = set(Path().iterdir())
        found = watch.run("spx-sample", *arguments)
        new = sorted(set(Path().iterdir()) - before)
        text, found["files"] = found.pop("printed"), [path.name for path in new]
        found["json"] = text.startswith("{")
        for path in new:
            path.unlink()
        return found

    yield run
    assert family is not None


@pytest.mark.fault("unseen", "an option of spx-sample that is parsed and not handed on")
@pytest.mark.parametrize("name", SAMPLE)
def test_sample(sampled, name):
    arguments, changes, *more = SAMPLE[name]
    base = more[0] if more else ()
    defaults = {
        "size": (28, 28), "n": 1, "seed": 0, "label": None, "temperature": 1.0, "mode": False, "checkpoint": "mnist-8x8",
        "engine": "auto", "precision": "fp32", "threads": None, "device": None, "files": ["sample.png"], "json": False, "code": None,
    }  # fmt: skip
    without = sampled(*base)
    if not base:
        assert without == defaults
    compare(without, sampled(*base, *arguments), changes, besides=("alpha",) if name in ("source", "given") else ())


@pytest.mark.parametrize("base", [ANEW, COMPLETE])
@pytest.mark.parametrize("name", ["n", "seed", "temperature", "mode", "label", "height", "width"])
def test_sample_of_files(sampled, base, name):
    """What is said of new images holds for files too, or is refused; --n are drawings of each file, one file after the other."""
    arguments, changes = SAMPLE[name]
    if (name in ("label", "height", "width") and base is ANEW) or (name in ("height", "width") and base is COMPLETE):
        return
    if name == "n":
        which = {"code": ("a", "a", "a", "b", "b", "b")} if base is ANEW else {"kept": ("a", "a", "a", "b", "b", "b")}
        changes = {"n": 6, **which}
    compare(sampled(*base), sampled(*base, *arguments), changes)


def test_what_sample_tells(sampled, watch):
    """JSON and sentence by the numbers of the drawing."""
    watch.replace("time.perf_counter", iter([10.0, 14.0, 20.0, 24.0]).__next__)
    sampled_json = watch.run(
        "spx-sample", "--size=8x9", "--n=2", "--seed=6", "--engine=torch", "--json", "--out=a-{}.png"
    )["printed"]
    digest = hashlib.sha256(bytes([7] * 72)).hexdigest()
    assert json.loads(sampled_json) == {
        "engine": "engine torch", "height": 8, "width": 9, "n": 2, "seed": 6, "seconds": 4.0, "pixels_per_second": 36.0,
        "out": ["a-0.png", "a-1.png"], "sha256": [digest, digest],
    }  # fmt: skip
    assert watch.run("spx-sample", "--size=8x9", "--n=2", "--out=b.png")["printed"] == (
        "b.png: 2 images of 8x9, 4.0 s, 36 pixels/s (engine auto)\n"
    )


# ---- spx-eval ----------------------------------------------------------------------------------------------------------

DATA = {name: ([f"--{name}={value}"], {name: value}) for name, value in READING.items()}
DATA |= {"data": (["--data=arrays"], {"data": "arrays"}), "data_dir": (["--data-dir=there"], {"data_dir": "there"})}
EVALUATE = DATA | {
    "checkpoint": (["--checkpoint=other"], {"checkpoint": "other"}),
    "lenet": (["--lenet=judge"], {"lenet": "judge"}),
    "res": (["--res", "29", "31"], {"sizes": (29, 31)}),
    "contours": (["--contours", "30"], {"contour_sizes": (30,)}),
    "figures": (["--figures", "33"], {"figures": (33,)}),
    "samples": (["--samples=3"], {"samples": 3}),
    "reconstructions": (["--reconstructions=3"], {"reconstructions": 3}),
    "pairs_of": (["--pairs-of=3"], {"pairs_of": 3}),
    "subset": (["--subset=3"], {"subset": 3}),
    "large_pixels": (["--large-pixels=3"], {"large_pixels": 3}),
    "refine": (["--refine=3"], {"refine": 3}),
    "no_nearest": (["--no-nearest"], {"train": False, "splits": ["test"]}),
    "temperature": (["--temperature=0.5"], {"temperature": 0.5}),
    "seed": (["--seed=3"], {"seed": 3}),
    "engine": (["--engine=cpp"], {"engine": "cpp"}),
    "precision": (["--precision=bf16"], {"precision": "bf16"}),
    "threads": (["--threads=3"], {"threads": 3}),
    "device": (["--device=cuda:1"], {"device": "cuda:1", "of all else": ("of cuda:1", "of cuda:1")}),
    "out": (["--out=there"], {"files": ["report.json", "report.md"], "figures_in": Path("there")}),
    "json": (["--json"], {"json": True}),
}  # fmt: skip


@pytest.mark.fault("unseen", "an option of spx-eval that is parsed and not handed on, or has another default")
@pytest.mark.parametrize("name", EVALUATE)
def test_evaluate(watch, name):
    pytest.importorskip("skimage")
    pytest.importorskip("matplotlib")
    model = spx.Sampler(tiny_model())
    model.drawing = lambda request: NO_DRAWING  # nothing is drawn

    def load(name):
        watch.told["checkpoint"] = name
        return model

    def evaluated(e):
        d = e.drawings
        watch.told |= {
            **asdict(e.amounts),
            "train": e.train is not None,
            "drawings": {**d.options, "engine": d.engine.name},
            "of all else": (e.device, model.checkpoint.device),
        }
        assert (
            d.seed == d.options["seed"]
            and np.array_equal(d.originals[..., 0], digits(8, seed=1)[0])
            and e.lenet == "the judge"
        )
        assert np.array_equal(e.test.images[:, 0], digits(8, seed=1)[0]) and (e.train is None or len(e.train) == 8)
        return {"sizes": {}, "seconds": 1.0}

    def drawn(drawings, report, sizes, folder):
        watch.told |= {"figures": sizes, "figures_in": folder}

    watch.replace("spx.api.load", load)
    watch.replace("spx.data.load", watch.load)
    watch.replace("spx.evaluation.lenet.load_lenet", lambda folder=None: watch.told.update(lenet=folder) or "the judge")
    watch.replace("spx.evaluation.evaluate.evaluate", evaluated)
    watch.replace("spxcore.engines.base.torch_device", lambda name: f"of {name}")
    watch.replace("spx.evaluation.figures.paper_figures", drawn)
    watch.patch.setattr(
        model.family, "published", lambda config, data: watch.told.update(published_of=data), raising=False
    )

    def run(*arguments):
        found = watch.run("spx-eval", *arguments)
        text, folder = found.pop("printed"), found.get("figures_in", Path("nowhere"))
        found["json"] = text.startswith("{")
        report = json.loads(text) if found["json"] else None
        found["files"] = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        if folder.is_dir():
            report = json.loads((folder / "report.json").read_text())
        own = found.pop("drawings")
        found |= {"seed": own["seed"], "temperature": own["temperature"]}
        assert own["engine"] == f"engine {found['engine']}" and found.pop("published_of") == found["data"]
        if report:  # and says so
            for key in ("checkpoint", "precision", "seed", "temperature"):
                assert report[key] == found[key], key
            assert report["engine"] == own["engine"] and report["version"] == spx.__version__
        return found

    arguments, changes = EVALUATE[name]
    lenet = [] if name == "lenet" else ["--lenet=mine"]
    base = [*lenet, *([] if name == "out" else ["--out=out"])]  # where the report is
    without = run(*base)
    defaults = {
        "data": "mnist", "data_dir": "data", "size": 0, "fit": "crop", "colour": "auto", "bad": "refuse", "alpha": "refuse",
        "splits": ["test", "train"], "checkpoint": "mnist-8x8", "sizes": (28, 56), "contour_sizes": (112,), "samples": 1000,
        "reconstructions": 1000, "pairs_of": 500, "large_pixels": 1_000_000, "subset": None, "refine": 10, "train": True,
        "temperature": 1.0, "seed": 0, "engine": "auto", "precision": "fp32", "threads": None, "json": False,
        "device": None, "of all else": ("cpu", "cpu"),
    }  # fmt: skip
    assert {key: without[key] for key in defaults} == defaults and without["lenet"] == (
        None if name == "lenet" else "mine"
    )
    if "--out=out" in base:
        assert without["figures"] == (28, 56, 112, 224) and without["figures_in"] == Path("out")
    compare(without, run(*base, *arguments), changes, besides=("figures",) if name == "out" else ())


# ---- spx-train ---------------------------------------------------------------------------------------------------------

TRAIN = {
    "out": (["--out=other"], {"out": Path("other")}), "resume": None, "quiet": (["--quiet"], {"progress": False}),
    "device": (["--device=cpu"], {"device_asked": "cpu"}), "threads": (["--threads=3"], {"threads": 3}),
}  # fmt: skip
# Values of settings that cannot be guessed from the default.
VALUES = {
    "model": "spatial", "preset": "small-4x4", "batch": 256, "patches_per_image": 2, "sizes": (30, 100), "data_dir": "there",
    "init": "a checkpoint", "lr_decay": 0.5, "patience": 7, "size": 30,
}  # fmt: skip


def another(f, value):
    """A value of a setting, not its default."""
    if f.name in VALUES:
        return VALUES[f.name]
    if f.metadata.get("choices"):
        return next(choice for choice in f.metadata["choices"] if choice != value)
    return (not value) if isinstance(value, bool) else value + 3 if isinstance(value, int) else value / 2 + 0.1


def as_arguments(f, value) -> list[str]:
    option = "--" + f.name.replace("_", "-")
    if isinstance(value, bool):
        return [option if value else "--no-" + option[2:]]
    return [option, *map(str, value)] if isinstance(value, tuple) else [f"{option}={value}"]


@pytest.fixture
def trained(watch):
    """Run spx-train; what the trainer was told."""

    class Trainer:
        def __init__(self, settings, out, resume, device, progress):
            watch.told |= {"settings": settings, "out": out, "resume": resume, "progress": progress, "device": device}
            self.processes = SimpleNamespace(first=True)

        def train(self):
            return watch.told["out"]

    watch.replace("spx.training.trainer.Trainer", Trainer)
    watch.replace(
        "spxcore.engines.base.torch_device", lambda name: watch.told.update(device_asked=name) or torch.device("cpu")
    )

    def run(*arguments):
        found = watch.run("spx-train", *arguments)
        text = found.pop("printed")
        assert text == f"done: {found['out']} (draw with: spx-sample --checkpoint {found['out']})\n"
        return found

    return run


@pytest.mark.fault("unseen", "a setting that is parsed and not handed on, or changes another one")
def test_train(trained):
    """Each setting alone, away from its preset's value, and nothing else; and how it is run."""
    base = preset("small-8x8")
    without = trained("--out=run", "--preset=small-8x8")
    assert without == {
        "settings": base, "out": Path("run"), "resume": False, "progress": True, "device": torch.device("cpu"), "device_asked": None,
    }  # fmt: skip
    for case in TRAIN.values():
        if case:
            compare(without, trained("--out=run", "--preset=small-8x8", *case[0]), case[1])
    for f in settings_fields(type(base)):
        of = preset("paper-small-8x8") if f.name == "coordinates" else base  # ours cannot do without
        value = another(f, getattr(of, f.name))
        found = trained("--out=run", f"--preset={of.preset}", *as_arguments(f, value))["settings"]
        expected = preset("small-4x4") if f.name == "preset" else replace(of, **{f.name: value})
        assert found == expected and (f.name == "model" or found != of), f.name


def test_train_goes_on(trained, tmp_path):
    """--resume alone takes the run's own settings, all of them away from the preset's; only the data may have moved."""
    base, kept = preset("small-8x8"), {}
    for f in settings_fields(type(base)):
        if f.name not in ("model", "preset", "init", "coordinates"):
            kept[f.name] = another(f, getattr(base, f.name))
    own = preset("small-8x8", **kept)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(own.to_dict()))
    found = trained("--out=run", "--resume")
    assert (found["settings"], found["resume"]) == (own, True)
    assert trained("--out=run", "--resume", "--data-dir=moved")["settings"] == replace(own, data_dir="moved")


# ---- spx-train-lenet ---------------------------------------------------------------------------------------------------

LENET = DATA | {
    "out": (["--out=other"], {"out": Path("other")}), "epochs": (["--epochs=3"], {"epochs": 3}), "seed": (["--seed=3"], {"seed": 3}),
    "threads": (["--threads=3"], {"threads": 3}),
}  # fmt: skip


def test_a_run_that_goes_on_has_the_options_of_its_own_family(monkeypatch, tmp_path):
    module, asked = module_of("spx-train"), []
    (tmp_path / "run").mkdir()
    monkeypatch.setattr("spx.training.settings.saved_fields", lambda folder: {"model": f"that of {folder.name}"})
    monkeypatch.setattr(module, "parser", asked.append)
    module.parser_for(["--resume", f"--out={tmp_path / 'run'}"])
    module.parser_for(["--model=another", "--out=new"])
    module.parser_for(["--out=new"])
    assert asked == ["that of run", "another", None]


@pytest.mark.fault("unseen", "an option of spx-train-lenet that is parsed and not handed on")
@pytest.mark.parametrize("name", LENET)
def test_train_lenet(watch, name):
    def trained(train, test, epochs, seed, progress):
        for part, images in (("train", train), ("test", test)):
            assert np.array_equal(images.images[:, 0], digits(8, seed=part == "test")[0])
        watch.told |= {"epochs": epochs, "seed": seed}
        return "a model", 0.875

    def saved(model, folder, about):
        assert model == "a model"
        told = watch.told
        expected = {"data": told["data"], "epochs": told["epochs"], "seed": told["seed"], "test_accuracy": 0.875}
        assert about == expected
        told["out"] = folder

    watch.replace("spx.data.load", watch.load)
    watch.replace("spx.evaluation.lenet.train_lenet", trained)
    watch.replace("spx.evaluation.lenet.save_lenet", saved)

    def run(*arguments):
        found = watch.run("spx-train-lenet", *arguments)
        assert found.pop("printed") == f"{found['out']}: 87.50 % of the test set\n"
        return found

    without = run("--out=out")
    read = {f.name: f.default for f in fields(DataSettings)}
    assert without == {**read, "splits": ["train", "test"], "out": Path("out"), "epochs": 15, "seed": 0}
    compare(without, run("--out=out", *LENET[name][0]), LENET[name][1])


# ---- spx-reproduce -----------------------------------------------------------------------------------------------------

# Fields of its settings, which are options too.
SETTINGS = {
    "budget": "7", "data": "idx", "data_dir": "there", "lenet": "judge", "vae": "a checkpoint", "vae_steps": 7, "seed": 7,
    "precision": "bf16", "compile": True, "samples": 7, "reconstructions": 7, "pairs_of": 7, "large_pixels": 7, "subset": 7,
    "contours": (30,),
}  # fmt: skip
REPRODUCE = {
    name: (["--compile"] if value is True else ["--contours", "30"] if name == "contours" else [f"--{name.replace('_', '-')}={value}"],
           {f"settings {name}": value})
    for name, value in SETTINGS.items()
} | {
    "list": None, "out": (["--out=other"], {"out": Path("other")}), "rows": (["--rows", "ours-4"], {"rows": ["ours-4"]}),
    "device": (["--device=cuda"], {"device": "of cuda"}), "engine": (["--engine=cpp"], {"engine": "cpp"}),
    "threads": (["--threads=3"], {"threads": 3}),
}  # fmt: skip


@pytest.mark.fault("unseen", "an option of spx-reproduce that is parsed and not handed on")
@pytest.mark.parametrize("name", [name for name, case in REPRODUCE.items() if case])
def test_reproduce(watch, name):
    pytest.importorskip("skimage")

    class Work:
        def __init__(self, settings, folder, device, engine, tell):
            watch.told |= {f"settings {key}": value for key, value in asdict(settings).items()}
            watch.told |= {"out": folder, "device": device}
            assert engine.name == f"engine {watch.told['engine']}"

        def run(self, chosen):
            watch.told["rows"] = [row.name for row in chosen]
            return Path("results.md")

    Path("results.md").write_text("the table\n")
    watch.replace("spx.reproduce.run.Reproduction", Work)
    watch.replace("spx.data.load", watch.load)
    watch.replace("spx.evaluation.lenet.load_lenet", lambda folder=None: watch.told.update(lenet=folder))
    watch.replace("spx.checkpoints.read_checkpoint", lambda name: watch.told.update(resolved=name))
    watch.replace("spxcore.engines.base.torch_device", lambda name: f"of {name}")
    base = ["--out=out"] if name == "lenet" else ["--out=out", "--lenet=mine"]

    def run(*arguments):
        found = watch.run("spx-reproduce", *base, *arguments)
        assert found.pop("printed") == "the table\n" and found.pop("splits") == ["train", "test"]
        # What is looked at before hours of work is what is worked with.
        assert (found.pop("data"), found.pop("data_dir")) == (found["settings data"], found["settings data_dir"])
        assert (
            found.pop("lenet") == (found["settings lenet"] or None)
            and found.pop("resolved", "") == found["settings vae"]
        )
        return {key: value for key, value in found.items() if key not in READING}

    without = run()
    for f in fields(Reproduced):
        expected = {"budget": "2000", "lenet": "" if name == "lenet" else "mine"}.get(f.name, f.default)
        if f.name == "contours":
            expected = (112,)
        assert without[f"settings {f.name}"] == expected, f.name
    assert (without["engine"], without["threads"], without["device"]) == ("auto", None, "of None")
    compare(without, run(*REPRODUCE[name][0]), REPRODUCE[name][1])


@pytest.mark.fault("unseen", "a setting of spx-reproduce that reaches neither training nor evaluation")
def test_what_reproduce_does_with_its_settings(watch, tmp_path, checkpoint):
    """Row by row: what is trained, and what is measured of it, with every setting away from its default."""
    from spx.reproduce.rows import rows

    assert SETTINGS.keys() == {f.name for f in fields(Reproduced)}
    s, asked = Reproduced(**SETTINGS), {}
    work = Reproduction(s, tmp_path, "cpu", "an engine", lambda line: None)
    found = read_checkpoint(checkpoint)

    def trained(made, run):
        asked.setdefault("trained", []).append((made, run.parent.name))
        return checkpoint, 12.5

    def evaluated(e):
        d = e.drawings
        told = {"options": d.options, "lenet": e.lenet, "amounts": asdict(e.amounts), "model": d.model.checkpoint}
        asked.update(told)
        assert np.array_equal(d.originals[..., 0], digits(8, seed=1)[0]) and e.train is None
        return {"sizes": {}, "likelihood": {"map": [], "patch_bits": 1.5}}

    watch.replace("spx.data.load", watch.load)
    watch.replace("spx.evaluation.lenet.load_lenet", lambda folder=None: f"judge of {folder}")
    watch.replace("spx.evaluation.evaluate.evaluate", evaluated)
    watch.patch.setattr(work, "_trained", trained)
    watch.patch.setattr(work, "_started", lambda start: tmp_path / start.name)
    every = {row.name: row for row in rows()}
    common = dict(data="idx", data_dir="there", seed=7, precision="bf16", compile=True, validation=0.0, sample_every=0, validate_every=0,
                  patience=0, save_every=100)  # fmt: skip
    for name in ("ours-8", "paper-4", "ablation-half-budget", "ablation-double-budget", "ablation-wide-prior", "ablation-normal-prior",
                 "ablation-temperature-0.9", "ablation-refined-codes"):  # fmt: skip
        row = every[name]
        source = every[row.of or name]
        report = work._finished(row)
        made, folder = asked["trained"].pop()
        steps = round(7 * {"ablation-half-budget": 0.5, "ablation-double-budget": 2}.get(name, 1))
        settings = {**source.settings, **common, "steps": steps}
        if source.start:
            settings |= {"vae_steps": 0, "init": str(tmp_path / source.start.name)}
        assert (
            made == preset(settings.pop("preset"), **{k: v for k, v in settings.items() if k != "model"})
            and folder == source.name
        )
        temperature = 0.9 if name == "ablation-temperature-0.9" else 1.0
        assert (
            asked["options"] == {"seed": 7, "temperature": temperature, "engine": "an engine"}
            and asked["lenet"] == "judge of judge"
        )
        assert asked["amounts"] == {
            "sizes": (28, 56), "contour_sizes": (30,), "samples": 7, "reconstructions": 7, "pairs_of": 7, "large_pixels": 7, "subset": 7,
            "refine": 10 if name == "ablation-refined-codes" else 0,
        }  # fmt: skip
        factor = {"ablation-wide-prior": 1.25, "ablation-normal-prior": None}.get(name, 1)
        prior = asked["model"].tensors.get("prior_cholesky")
        assert (prior is None) == (factor is None)
        assert factor is None or np.allclose(prior, factor * found.tensors["prior_cholesky"])
        assert report["likelihood"] == {"patch_bits": 1.5} and (report["steps"], report["train_seconds"]) == (
            steps,
            12.5,
        )
        assert (report["name"], report["of"], report["temperature"], report["budget"]) == (
            name,
            row.of,
            temperature,
            "7 steps",
        )
        assert report["vae"] == ("a checkpoint" if source.start else "none") and "init" not in report["recipe"]


# ---- spx-plan ----------------------------------------------------------------------------------------------------------

PLAN = {"checkpoint": None, "json": None}
DOCTOR = {"test": None, "json": None}  # tests/spx/cli/test_doctor.py


def test_plan(watch, checkpoint):
    """The figures are those of the drawing network of the checkpoint that is named, and of its three others."""
    found, asked = read_checkpoint(checkpoint), []
    watch.replace("spx.checkpoints.read_checkpoint", lambda name: asked.append(name) or found)
    expected = json.loads(json.dumps(summary(plan_at(found.networks["network"].graph, 8, 8))))
    for arguments in (["a name", "--json"], ["--json"]):
        printed = json.loads(watch.run("spx-plan", *arguments)["printed"])
        assert len(printed.pop("image_networks")) == 3 and printed == expected
    assert asked == ["a name", "mnist-8x8"] and not watch.run("spx-plan")["printed"].startswith("{")


# ---- spx-score ---------------------------------------------------------------------------------------------------------

# `test_score.py` sees the bits, the map and the files.
SCORE = {
    "files": (["b.png"], {"pictures": ("a", "b")}),
    "invert": (["--invert"], {"pictures": ("-a",)}),
    "alpha": (["--alpha=white"], {"alpha": "white"}),
    "seed": (["--seed=4"], {"seed": 4}),
    "checkpoint": (["--checkpoint=other"], {"checkpoint": "other"}),
    "engine": (["--engine=cpp"], {"engine": "cpp", "scored by": "engine cpp"}),
    "precision": (["--precision=tf32"], {"precision": "tf32"}),
    "threads": (["--threads=3"], {"threads": 3}),
    "device": (["--device=cuda:1"], {"device": "cuda:1"}),
    "map": (["--map=m.png"], {"files": ["m.png"]}),
    "json": (["--json"], {"json": True}),
}


@pytest.mark.parametrize("name", SCORE)
def test_score(watch, checkpoint, name):
    pictures = dict(zip("ab", digits(2, side=14)[0]))
    for letter, picture in pictures.items():
        Image.fromarray(picture).save(f"{letter}.png")
    model = spx.load(checkpoint)
    known = pictures | {f"-{letter}": 255 - picture for letter, picture in pictures.items()}

    def read_image(path, channels, alpha="refuse"):
        watch.told["alpha"] = alpha
        return pictures[Path(path).stem][..., None]

    def score(checkpoint, images, seed, engine, progress):
        names = (next(n for n, p in known.items() if np.array_equal(p, image[..., 0])) for image in images)
        watch.told |= {"pictures": tuple(names), "seed": seed, "scored by": engine.name}
        return Score(np.ones(len(images)), np.ones(images.shape[:3], np.float32), np.zeros(len(images)))

    def load(name):
        watch.told["checkpoint"] = name
        return model

    watch.replace("spx.io.pictures.read_image", read_image)
    watch.replace("spx.api.load", load)
    watch.patch.setattr(type(model.family), "score", staticmethod(score))

    def run(*arguments):
        found = watch.run("spx-score", "a.png", *arguments)
        found["files"] = sorted(path.name for path in Path().iterdir() if path.stem not in pictures)
        found["json"] = found.pop("printed").startswith("{")
        return found

    arguments, changes = SCORE[name]
    without = run()
    assert without == {
        "pictures": ("a",), "alpha": "refuse", "seed": 0, "checkpoint": "mnist-8x8", "engine": "auto", "precision": "fp32",
        "threads": None, "device": None, "scored by": "engine auto", "files": [], "json": False,
    }  # fmt: skip
    compare(without, run(*arguments), changes)
