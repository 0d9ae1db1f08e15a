"""What the tests of training share: settings of runs that take seconds, and what a run's folder holds."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from pathlib import Path

import torch
from small_networks import small_networks

from spx.cli.train import main
from spx.models.spatial.settings import preset
from spx.training.trainer import Trainer

# Seconds, not hours: a few steps of a few patches, a state after every step.
FAST = dict(
    data="idx", vae_steps=3, steps=4, batch=4, patches_per_image=2, vae_batch=4, components=1, warmup=0, log_every=1,
    validate_every=0, sample_every=0, save_every=1, refine=0, validation=0.25,
)  # fmt: skip
MODES = {
    "frozen, spatial": ("small-4x4", {}),
    "joint": ("paper-small-4x4", {"patches_per_image": 1, "validate_every": 2}),
    "no latent": ("pixelcnnpp-small-4x4", {"patches_per_image": 1, "dropout": 0.0}),
}


def settings(mode: str, data_dir: Path, **replaced):
    name, fields = MODES[mode]
    return preset(replaced.pop("preset", name), **{**FAST, **fields, "data_dir": str(data_dir), **replaced})


def options(settings_) -> list[str]:
    """The same settings as options of the command."""
    given = [f"--preset={settings_.preset}"]
    for name, value in settings_.to_dict().items():
        if name == "validates_on":  # no option
            continue
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            given.append(option if value else "--no-" + name.replace("_", "-"))
        elif name == "sizes":
            given += [option, *map(str, value)]
        elif name != "preset":
            given.append(f"{option}={value}")
    return given


def run(settings_, folder: Path, resume: bool = False, stop_at: int | None = None) -> Trainer:
    trainer = Trainer(settings_, folder, resume=resume, progress=False)
    trainer.train(stop_at)
    return trainer


def _command(arguments: list[str], environment: dict[str, str], printed: Path) -> None:
    os.environ |= environment
    with printed.open("w") as out, small_networks():
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
        sys.exit(main(["--threads=1", "--quiet", *arguments]))


def start(arguments: list[str], printed: Path, **environment: str) -> multiprocessing.Process:
    """The command in a process of its own, which another has forked that imported torch for all of them.

    Args:
        arguments: its options.
        printed: the file that gets what it prints and its errors.
        environment: variables to set.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["spx.cli.train", "spx.training.trainer", "runs"])
    process = context.Process(target=_command, args=(arguments, environment, printed))
    process.start()
    return process


def result(folder: Path) -> bytes:
    return (folder / "checkpoint" / "model.safetensors").read_bytes()


def states(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("state-*"))


def events(folder: Path, event: str) -> list[dict]:
    return [r for r in map(json.loads, (folder / "log.jsonl").read_text().splitlines()) if r["event"] == event]


def losses(trainer: Trainer) -> dict[str, float]:
    """Loss and its parts of the first batch, always with the same code."""
    torch.manual_seed(0)
    with torch.no_grad():
        return {name: float(value) for name, value in trainer.objective(trainer._batch(0)).items()}


def refused(capsys, arguments: list[str], message: str) -> None:
    code = main(["--quiet", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "") and err.startswith("error: ") and err.count("\n") == 1, err
    assert message in err
