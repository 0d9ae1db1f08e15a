"""The paper's tables 1 to 3 anew, ours beside them, and what each choice of ours does: rows trained and evaluated at one budget.

Rows are trained on the encoder's codes, as the paper's, and bits are those of such codes, but for one ablation: to refine the training
set's codes (`spx.models.spatial.codes`) takes minutes on a CPU, more than a small budget.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from spxcore import __version__
from spxcore.errors import SpxError, require

from .checkpoints import load_model, read_checkpoint, save_checkpoint
from .io.files import write_atomically
from .io.tensors import CONFIG
from .models.model import Checkpoint
from .models.spatial import paper
from .models.spatial.paper import with_error
from .recipe import Recipe, recipe

# Steps that are timed, after as many that are not, to find out how many fit into minutes.
_PROBE_STEPS = 10
# The row that ablations change in one thing, and the sizes of the paper's tables.
_BASE, _SIZES = "ours-8", (28, 56)


@dataclass(frozen=True)
class Budget:
    """What each row may take: optimiser steps of the patch network, or minutes of training."""

    amount: float
    unit: str  # "steps" or "minutes"

    @classmethod
    def of(cls, text: str) -> Budget:
        """ "2000" is steps, "10m" is minutes."""
        match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)m", text)
        good = match is not None and float(match[1] or match[2]) > 0
        require(good, "budget", "steps such as 2000, or minutes such as 10m, a row", repr(text))
        return cls(float(match[1]), "steps") if match[1] else cls(float(match[2]), "minutes")

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"


@dataclass(frozen=True)
class Row:
    """One row of the tables.

    Attributes:
        name: what --rows selects.
        group: "table 1", "tables 2 and 3", or "ablations".
        text: what it is.
        settings: of `spx.recipe.recipe`, "preset" among them; the budget sets the steps.
        beside: the paper's row it stands beside.
        of: name of the row whose trained model this one evaluates in another way; "" for a row that is trained.
        prior: "" for the model's own; "normal", or a number, a factor on the mixture's standard deviations.
        temperature: of the pixels.
        share: of the budget, in multiples.
    """

    name: str
    group: str
    text: str
    settings: dict
    beside: paper.Row | None = None
    of: str = ""
    prior: str = ""
    temperature: float = 1.0
    share: float = 1.0


def _paper_row(row: paper.Row) -> Row:
    parts = ["paper", str(row.patch), *["large"] * row.large, *["coordinates"] * row.coordinates, *["vae"] * row.latent]
    has = [name for name, there in (("coordinates", row.coordinates), ("VAE", row.latent)) if there]
    preset = f"paper-{row.network.replace(' ', '-')}"
    settings = {"preset": preset, "coordinates": row.coordinates, **({} if row.latent else {"vae": "none"})}
    text = f"{row.network}, {' and '.join(has) or 'neither coordinates nor VAE'}"
    return Row("-".join(parts), "tables 2 and 3" if row.latent else "table 1", text, settings, row)


def _our_row(row: paper.Row) -> Row:
    name = "-".join(["ours", str(row.patch), *["large"] * row.large])
    settings = {"preset": row.network.replace(" ", "-"), "refine": 0}
    text = f"{row.network}, ours (feature maps, frozen VAE, mixed sizes, mixture prior)"
    return Row(name, "tables 2 and 3" if row.latent else "table 1", text, settings, row)


def _ablations() -> list[Row]:
    base = {"preset": "small-8x8", "refine": 0}

    def trained(name: str, text: str, share: float = 1.0, **settings) -> Row:
        return Row(f"ablation-{name}", "ablations", text, {**base, **settings}, share=share)

    def judged(name: str, text: str, **evaluation) -> Row:
        return Row(f"ablation-{name}", "ablations", text, base, of=_BASE, **evaluation)

    ours = asdict(recipe("small-8x8"))
    like_ours = {name: ours[name] for name in (
        "vae", "patches_per_image", "schedule", "warmup", "weight_decay", "kl_weight", "prior", "sizes", "contrast", "targets",
        "spoilt", "dropout",
    )}  # fmt: skip
    return [
        trained("paper-conditioning", "coordinates and code added linearly", **like_ours, preset="paper-small-8x8"),
        trained("28-only", "trained at 28x28 only", sizes=(28, 28), contrast=0.0, spoilt=0.0),
        trained("joint-vae", "VAE trained jointly", vae="joint", kl_weight=1.0),
        trained("data-targets", "large targets are the training images, not what the VAE made of them", targets="data"),
        trained("soft-targets", "bicubic targets, contrast not raised", contrast=0.0),
        trained("crisp-targets", "contrast of large targets raised twice as fast", contrast=0.5),
        trained("no-spoilt", "no spoilt contexts", spoilt=0.0),
        trained("refined-codes", "codes bettered by gradient steps, as our recipe has it", refine=ours["refine"]),
        trained("one-patch", "one patch an image and step", patches_per_image=1),
        trained("exponential", "the paper's learning-rate schedule", schedule="exponential", warmup=0),
        trained("kl-1", "VAE with KL weight 1", kl_weight=1.0),
        trained("kl-0.25", "VAE with KL weight 0.25", kl_weight=0.25),
        trained("half-budget", "half of the budget", share=0.5),
        trained("double-budget", "twice the budget", share=2.0),
        judged("normal-prior", "codes drawn from N(0, I)", prior="normal"),
        judged("wide-prior", "mixture prior of standard deviations 1.25 times as large", prior="1.25"),
        judged("temperature-0.9", "pixels drawn at temperature 0.9", temperature=0.9),
    ]


def rows() -> list[Row]:
    """Every row, in the order of the tables; ours after the paper's of the same patch and network."""
    result, done = [], set()
    for index, row in enumerate(paper.ROWS):
        result.append(_paper_row(row))
        key, later = (row.patch, row.large), paper.ROWS[index + 1 :]
        if key not in done and not any((other.patch, other.large) == key for other in later):
            done.add(key)
            result.append(_our_row(row))
    return result + _ablations()


def select(patterns: list[str] | None) -> list[Row]:
    """The rows whose names match one of the shell patterns, and those they are `of`; all for None.

    Raises:
        SpxError: for a pattern that matches nothing.
    """
    everything = rows()
    if not patterns:
        return everything
    for pattern in patterns:
        found = any(fnmatch(row.name, pattern) for row in everything)
        require(found, "rows", "names or patterns of rows (--list shows them)", repr(pattern))
    chosen = {row.name for row in everything if any(fnmatch(row.name, pattern) for pattern in patterns)}
    chosen |= {row.of for row in everything if row.name in chosen and row.of}
    return [row for row in everything if row.name in chosen]


@dataclass(frozen=True)
class Settings:
    """How rows are trained and evaluated; a folder of results keeps to one.

    Attributes:
        data, data_dir, lenet: as of spx-eval.
        budget: of each row.
        vae: checkpoint with the frozen VAE of the rows that have one with our KL weight; empty: it is trained here.
        vae_steps: of frozen VAEs trained here, once for all rows that share one.
        seed: of training and samples.
        precision, compile: of training, as of spx-train.
        samples, reconstructions, pairs_of, large_pixels, subset: as of `spx.evaluate.evaluate`.
        contours: sizes of reconstructions for their contours.
    """

    budget: str
    data: str = "mnist"
    data_dir: str = "data"
    lenet: str = ""
    vae: str = ""
    vae_steps: int = 6000
    seed: int = 0
    precision: str = "fp32"
    compile: bool = False
    samples: int = 1000
    reconstructions: int = 1000
    pairs_of: int = 500
    large_pixels: int = 1_000_000
    subset: int | None = None
    contours: tuple[int, ...] = field(default=(112,))

    def kept(self) -> dict:
        """What must not change in a folder: all but where the data lies."""
        values = {name: value for name, value in asdict(self).items() if name != "data_dir"}
        return {**values, "contours": list(self.contours)}


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
        self, settings: Settings, folder: str | Path, device: str, engine, tell: Callable[[str], None] = print
    ):
        self.settings, self.folder, self.device, self.engine, self.tell = settings, Path(folder), device, engine, tell
        self.budget = Budget.of(settings.budget)
        path = self.folder / "settings.json"
        if path.exists():
            before = _read(path)
            changed = [name for name, value in settings.kept().items() if before.get(name) != value]
            if changed:
                raise SpxError(
                    f"{changed[0]}: expected {before.get(changed[0])}, as {self.folder} was begun, got "
                    f"{settings.kept()[changed[0]]}; choose another --out"
                )
        else:
            _write(path, settings.kept())

    def run(self, chosen: list[Row]) -> Path:
        """Train and evaluate rows that are not finished, writing the tables after each. Returns the Markdown file."""
        for row in chosen:
            report = self.folder / row.name / "report.json"
            if not report.exists():
                began = time.time()
                self.tell(f"{row.name}: {row.text}")
                _write(report, self._finished(row))
                self.tell(f"{row.name}: done in {(time.time() - began) / 60:.1f} minutes")
            self._write_tables()
        return self.folder / "results.md"

    # ---- training -----------------------------------------------------------------------------------------------------

    def _recipe(self, name: str, **settings) -> Recipe:
        """A preset's recipe with the run's common settings and others."""
        s = self.settings
        common = dict(
            data=s.data, data_dir=s.data_dir, seed=s.seed, precision=s.precision, compile=s.compile,
            sample_every=0, validate_every=0, patience=0, save_every=100,
        )  # fmt: skip
        return recipe(name, **{**common, **settings})

    def _row_recipe(self, row: Row, steps: int) -> Recipe:
        """A row's recipe; one with a frozen VAE starts from the shared one."""
        made = self._recipe(row.settings["preset"], **_without(row.settings, "preset"), steps=steps)
        if made.vae == "frozen":
            made = replace(made, vae_steps=0, init=str(self._vae(made.kl_weight)))
        return made

    def _vae(self, kl_weight: float) -> Path:
        """A checkpoint with the frozen VAE, trained now if it is not there yet, and a network that no row can mistake for its own."""
        given = self.settings.vae if kl_weight == recipe("small-8x8").kl_weight else ""
        run, steps = self.folder / f"vae-kl-{kl_weight:g}", self.settings.vae_steps
        alone = run / "vae"
        if not (alone / CONFIG).exists():
            if not given:
                self.tell(f"{run.name}: the VAE of the rows with a frozen one, {steps} steps")
                # Its patch network, trained for a single step, is thrown away.
                how = {"vae_steps": steps, "steps": 1, "prior": "normal", "refine": 0, "sizes": (28, 28)}
                given, _ = self._trained(self._recipe("small-4x4", kl_weight=kl_weight, **how), run)
            from .models.spatial.module import smallest_with

            save_checkpoint(smallest_with(load_model(given).vae), alone)
        return alone

    def _trained(self, made: Recipe, run: Path) -> tuple[Path, float]:
        """Checkpoint and seconds of training of a run, begun, continued or long finished."""
        from .train import Trainer

        marker = run / "trained.json"
        if not marker.exists():
            trainer = Trainer(made, run, resume=(run / "recipe.json").exists(), device=self.device, progress=True)
            trainer.train()
            _write(marker, {"seconds": round(trainer.seconds, 1)})
        return run / "checkpoint", _read(marker)["seconds"]

    def _steps(self, row: Row) -> int:
        """Steps of a row: the budget's, or as many as its minutes hold at the rate of a short trial."""
        amount = self.budget.amount * row.share
        if self.budget.unit == "steps":
            return max(1, round(amount))
        path = self.folder / row.name / "steps.json"
        if not path.exists():
            from .train import Trainer

            trial = self.folder / row.name / "trial"
            shutil.rmtree(trial, ignore_errors=True)
            made = replace(self._row_recipe(row, 2 * _PROBE_STEPS), prior="normal", refine=0, save_every=0)
            trainer = Trainer(made, trial, device=self.device, progress=False)
            trainer.train(stop_at=0)
            trainer.train(stop_at=_PROBE_STEPS)
            began = time.monotonic()
            trainer.train(stop_at=2 * _PROBE_STEPS)
            rate = _PROBE_STEPS / (time.monotonic() - began)
            shutil.rmtree(trial)
            _write(path, {"steps": max(1, math.floor(60 * amount * rate)), "steps_a_second": round(rate, 3)})
        return _read(path)["steps"]

    # ---- evaluation ---------------------------------------------------------------------------------------------------

    def _finished(self, row: Row) -> dict:
        """Train and evaluate a row: what its report.json holds."""
        from . import data
        from .api import Sampler
        from .evaluate import Drawings, evaluate
        from .lenet import load_lenet

        s, source = self.settings, row
        if row.of:
            source = next(other for other in rows() if other.name == row.of)
        steps = self._steps(source)
        made = self._row_recipe(source, steps)
        checkpoint, seconds = self._trained(made, self.folder / source.name / "run")
        found = read_checkpoint(checkpoint)
        model = Sampler(_with_prior(found, row.prior) if row.prior else found)
        test = data.load(s.data, s.data_dir, "test")
        drawings = Drawings(model, test.images.transpose(0, 2, 3, 1), self.engine, s.seed, row.temperature)
        side = test.images.shape[2]
        report = evaluate(
            model, test, load_lenet(s.lenet or None), drawings, sizes=(side, 2 * side), contour_sizes=s.contours,
            samples=s.samples, reconstructions=s.reconstructions, pairs_of=s.pairs_of, large_pixels=s.large_pixels,
            subset=s.subset, refine=made.refine,
        )  # fmt: skip
        report.get("likelihood", {}).pop("map", None)
        settings = _without(made.to_dict(), "data_dir", "init")
        return {
            "name": row.name, "text": row.text, "steps": steps, "train_seconds": seconds, "budget": str(self.budget),
            "of": row.of, "prior": row.prior, "temperature": row.temperature, "recipe": settings,
            "vae": s.vae or f"{s.vae_steps} steps" if made.vae == "frozen" else made.vae, "device": self.device, "machine": machine(),
            "version": __version__, **report,
        }  # fmt: skip

    # ---- tables -------------------------------------------------------------------------------------------------------

    def _write_tables(self) -> None:
        done = {}
        for row in rows():
            path = self.folder / row.name / "report.json"
            if path.exists():
                done[row.name] = _read(path)
        _write(self.folder / "results.json", {"settings": self.settings.kept(), "rows": done})
        text = markdown(done, self.settings)
        write_atomically(self.folder / "results.md", lambda path: path.write_text(text))


def machine() -> str:
    """The processor's name and how many cores may be used."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} core{'s' * (cores != 1)}"


def markdown(done: dict[str, dict], settings: Settings) -> str:
    """Tables of the rows that are finished, the paper's figures in brackets; the rows that were not run by name."""
    head = ["row", "steps", "minutes", "patch", "KL", "bound", "MS-SSIM", "confidence", "accuracy", "pieces 28"]
    head += [f"{what} {n}" for n in settings.contours for what in ("contours", "pieces")]
    frozen = f"of {settings.vae}" if settings.vae else f"{settings.vae_steps} steps, once"
    comparable = settings.data == "mnist"
    lines = [
        f"Each row trained for {Budget.of(settings.budget)} (frozen VAEs: {frozen}), {settings.precision}, seed {settings.seed}. "
        f"Bits per dimension of {settings.subset or 'all'} test images; MS-SSIM and confidence of {settings.samples} samples, accuracy "
        f"of {settings.reconstructions} reconstructions, at 28x28 / 56x56; pieces of ink / ground, of samples at 28x28, of "
        "reconstructions at the sizes of contours."
    ]
    if comparable:
        lines[0] += " In brackets: the paper, trained until convergence."
    for group in dict.fromkeys(row.group for row in rows()):
        shown = [row for row in rows() if row.group == group and row.name in done]
        if shown and group == "ablations":  # beside what they change
            shown = [replace(row, beside=None) for row in rows() if row.name == _BASE and _BASE in done] + shown
        if shown:
            title = group[0].upper() + group[1:]
            lines += ["", f"**{title}**", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
            cells = (
                _cells(row, row.beside if comparable else None, done[row.name], settings.contours) for row in shown
            )
            lines += [f"| {' | '.join(row)} |" for row in cells]
    not_run = [row.name for row in rows() if row.name not in done]
    if not_run:
        lines += ["", f"Not run: {', '.join(not_run)}."]
    machines = sorted({report["machine"] for report in done.values()})
    return "\n".join(lines) + f"\n\n{'; '.join(machines)}; spx {__version__}.\n"


def _cells(row: Row, known: paper.Row | None, report: dict, contours: tuple[int, ...]) -> list[str]:
    """A row of the table, `known` in brackets; what was not measured stays empty."""

    def pair(values: list[float | None], digits: int) -> str:
        return "" if None in values else " / ".join(f"{value:.{digits}f}" for value in values)

    def at(size: int, of: str, *what: str) -> list[float | None]:
        found = report["sizes"].get(str(size), {}).get(of, {})
        return [found.get(name) for name in what]

    def beside(own: str, theirs: str) -> str:
        return f"{own} ({theirs})" if own and theirs else own

    bits = report.get("likelihood")
    result = [f"`{row.name}` {row.text}", str(report["steps"]), f"{report['train_seconds'] / 60:.1f}"]
    result += [f"{bits[name]:.3f}" if bits else "" for name in ("patch_bits", "kl_bits")]
    limit = "<= " if row.settings.get("vae") != "none" else ""
    bound = limit + with_error(bits["bound_bits"], bits["bound_error"], 3) if bits else ""
    result.append(beside(bound, f"{'<= ' * known.latent}{known.bits}" if known else ""))
    judged = (("ms_ssim", "samples", 2), ("confidence", "samples", 1), ("accuracy", "reconstructions", 1))
    for what, of, digits in judged:
        own = pair([at(size, of, what)[0] for size in _SIZES], digits)
        figures = getattr(known, what).values() if known else ()
        theirs = [figure[0] if isinstance(figure, tuple) else figure for figure in figures]
        result.append(beside(own, pair(theirs, digits)))
    result.append(pair(at(28, "samples", "ink_pieces", "ground_pieces"), 2))
    for size in contours:
        result.append(pair(at(size, "reconstructions", "contour_ratio"), 2))
        result.append(pair(at(size, "reconstructions", "ink_pieces", "ground_pieces"), 2))
    return result


def _with_prior(checkpoint: Checkpoint, prior: str) -> Checkpoint:
    """A model with another prior: "normal", or its mixture with all standard deviations times a number."""
    tensors = dict(checkpoint.tensors)
    if prior != "normal":
        return replace(checkpoint, tensors={**tensors, "prior_cholesky": tensors["prior_cholesky"] * np.float32(prior)})
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("prior_")}
    return replace(checkpoint, config=replace(checkpoint.config, components=0), tensors=tensors)


def _without(values: dict, *names: str) -> dict:
    return {name: value for name, value in values.items() if name not in names}


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SpxError(f"{path}: cannot be read ({error}); remove it to have it made again") from error


def _write(path: Path, value: dict) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda p: p.write_text(json.dumps(value, indent=2) + "\n"))
    except OSError as error:
        raise SpxError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error
