"""A folder of rows, each trained and evaluated at the folder's budget; finished parts are not done again."""

from __future__ import annotations

import math
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from spxcore import __version__
from spxcore.engines import Engine
from spxcore.errors import SpxError, require
from spxcore.native import cores

from ..checkpoints import read_checkpoint, save_checkpoint
from ..io.files import alone_in, remove_leftovers, write_json, write_text
from ..io.reading import kind, read_object
from ..io.tensors import CONFIG
from ..models.model import Row, Start
from ..models.registry import family
from ..models.settings import Settings as TrainingSettings
from .rows import Budget, rows
from .settings import Settings
from .tables import markdown

# Steps that are timed, after as many that are not, to find out how many fit into minutes.
_PROBE_STEPS = 10


class Reproduction:
    """A folder of rows: each has a folder with its training run and its report; finished parts are not done again.

    Args:
        settings: how.
        folder: where; holds settings.json, results.json and results.md.
        device: of training, "cpu", "cuda" ... .
        engine: what draws.
        tell: called with a line of text now and then.
    """

    def __init__(
        self, settings: Settings, folder: str | Path, device: str, engine: Engine, tell: Callable[[str], None] = print
    ):
        self.settings, self.folder, self.device, self.engine, self.tell = settings, Path(folder), device, engine, tell
        self.budget = Budget.of(settings.budget)

    def run(self, chosen: list[Row]) -> Path:
        """Train and evaluate rows that are not finished, writing the tables after each. Returns the Markdown file.

        Raises:
            SpxError: if another process is at work in the folder, or the folder was begun with other settings.
        """
        with alone_in(self.folder):
            remove_leftovers(self.folder)
            self._keep_to_settings()
            for row in chosen:
                report = self.folder / row.name / "report.json"
                if not report.exists():
                    began = time.time()
                    self.tell(f"{row.name}: {row.text}")
                    write_json(report, self._finished(row))
                    self.tell(f"{row.name}: done in {(time.time() - began) / 60:.1f} minutes")
                self._write_tables()
        return self.folder / "results.md"

    def _keep_to_settings(self) -> None:
        """Write the settings down, or compare them with those that the folder was begun with."""
        path, settings = self.folder / "settings.json", self.settings.kept()
        if not path.exists():
            write_json(path, settings)
            return
        before = read_object(path)
        for name, value in settings.items():
            if before.get(name) != value:
                raise SpxError(
                    f"{name}: expected {before.get(name)}, as {self.folder} was begun, got {value}; choose another --out"
                )

    # ---- training -----------------------------------------------------------------------------------------------------

    def _recipe(self, model: str, preset: str, **settings) -> TrainingSettings:
        """A preset of a family with the run's common settings and others. All training images are trained on: nothing is validated."""
        s = self.settings
        common = dict(
            data=s.data, data_dir=s.data_dir, seed=s.seed, precision=s.precision, compile=s.compile,
            validation=0.0, sample_every=0, validate_every=0, patience=0, save_every=100,
        )  # fmt: skip
        return family(model).preset(preset, **{**common, **settings})

    def _row_recipe(self, row: Row, steps: int) -> TrainingSettings:
        """A row's recipe, with what it starts from."""
        settings = {**row.settings, "steps": steps}
        if row.start:
            settings |= {**row.start.settings_after, "init": str(self._started(row.start))}
        return self._recipe(**settings)

    def _started(self, start: Start) -> Path:
        """The checkpoint that rows start from, trained now if it is not there yet."""
        run = self.folder / start.name
        given: str | Path = self.settings.vae if start.replaceable else ""
        alone, steps = run / "vae", self.settings.vae_steps
        if not (alone / CONFIG).exists():
            if not given:
                self.tell(f"{start.name}: {start.text}, {steps} steps")
                given, _ = self._trained(self._recipe(**start.settings, vae_steps=steps), run)
            save_checkpoint(start.keep(read_checkpoint(given)), alone)
        return alone

    def _trained(self, made: TrainingSettings, run: Path) -> tuple[Path, float]:
        """Checkpoint and seconds of training of a run, begun, continued or long finished."""
        from ..training.trainer import Trainer

        marker = run / "trained.json"
        if not marker.exists():
            trainer = Trainer(made, run, resume=(run / "recipe.json").exists(), device=self.device, progress=True)
            trainer.train()
            write_json(marker, {"seconds": round(trainer.seconds, 1)})
        return run / "checkpoint", _number(marker, "seconds")

    def _steps(self, row: Row) -> int:
        """Steps of a row: the budget's, or as many as its minutes hold at the rate of a short trial."""
        amount = self.budget.amount * row.share
        if self.budget.unit == "steps":
            return max(1, round(amount))
        path = self.folder / row.name / "steps.json"
        if not path.exists():
            from ..training.trainer import Trainer

            trial = self.folder / row.name / "trial"
            shutil.rmtree(trial, ignore_errors=True)
            made = replace(self._row_recipe(row, 2 * _PROBE_STEPS), **row.trial, save_every=0)
            trainer = Trainer(made, trial, device=self.device, progress=False)
            trainer.train(stop_at=0)
            trainer.train(stop_at=_PROBE_STEPS)
            began = time.monotonic()
            trainer.train(stop_at=2 * _PROBE_STEPS)
            rate = _PROBE_STEPS / (time.monotonic() - began)
            shutil.rmtree(trial)
            write_json(path, {"steps": max(1, math.floor(60 * amount * rate)), "steps_a_second": round(rate, 3)})
        return int(_number(path, "steps"))

    # ---- evaluation ---------------------------------------------------------------------------------------------------

    def _finished(self, row: Row) -> dict:
        """Train and evaluate a row: what its report.json holds."""
        from .. import data
        from ..api import Sampler
        from ..evaluation.drawings import Drawings
        from ..evaluation.evaluate import Evaluation, evaluate
        from ..evaluation.lenet import load_lenet

        s, source = self.settings, row
        if row.of:
            source = next(other for other in rows() if other.name == row.of)
        steps = self._steps(source)
        made = self._row_recipe(source, steps)
        checkpoint, seconds = self._trained(made, self.folder / source.name / "run")
        found = read_checkpoint(checkpoint)
        model = Sampler(found.model.with_prior(found, row.prior) if row.prior else found)
        test = data.load(s.data, s.data_dir, "test")
        drawings = Drawings(model, test.images.transpose(0, 2, 3, 1), self.engine, s.seed, row.temperature)
        amounts = s.amounts(test.images.shape[2], source.refine)
        report = evaluate(Evaluation(drawings, test, amounts, load_lenet(s.lenet or None)))
        report.get("likelihood", {}).pop("map", None)
        settings = _without(made.to_dict(), "data_dir", "init")
        start = s.vae or f"{s.vae_steps} steps" if source.start else settings.get("vae", "none")
        return {
            "name": row.name, "text": row.text, "steps": steps, "train_seconds": seconds, "budget": str(self.budget),
            "of": row.of, "prior": row.prior, "temperature": row.temperature, "recipe": settings, "vae": start,
            "device": self.device, "machine": machine(), "version": __version__, **report,
        }  # fmt: skip

    # ---- tables -------------------------------------------------------------------------------------------------------

    def _write_tables(self) -> None:
        done = {}
        for row in rows():
            path = self.folder / row.name / "report.json"
            if path.exists():
                done[row.name] = read_object(path, finite=False)
                try:
                    markdown({row.name: done[row.name]}, self.settings)
                except (LookupError, TypeError, AttributeError, ValueError) as error:
                    raise SpxError(
                        f"{path}: no report of a row ({error!r}); remove it to have it made again"
                    ) from error
        write_json(self.folder / "results.json", {"settings": self.settings.kept(), "rows": done})
        write_text(self.folder / "results.md", markdown(done, self.settings))


def _number(path: Path, name: str) -> float:
    """A number of a file of ours, 0 or more."""
    value: Any = read_object(path).get(name)
    good = type(value) in (int, float) and value >= 0
    require(good, f"{path}: {name}", "a number, 0 or more", kind(value), "remove it to have it made again")
    return value


def machine() -> str:
    """The processor's name and how many cores may be used."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    count = cores()
    return f"{name}, {count} core{'s' * (count != 1)}"


def _without(values: dict, *names: str) -> dict:
    return {name: value for name, value in values.items() if name not in names}
