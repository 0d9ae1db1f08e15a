"""The loop: phases of optimiser steps whose every random number is a function of (seed, phase, step), so that a run can be stopped
anywhere and continued bit for bit. It names no model: a model says what its phases, batches and losses are."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from spxcore.engines import triton
from spxcore.engines.torch_precision import full_precision, repeatable
from spxcore.errors import SpxError, require, whole_number
from spxcore.walk.module import data_dependent_initialisation

from ..checkpoints import read_checkpoint
from ..data import Images, load, split
from ..io.files import writing
from ..io.reading import kind
from ..models import registry
from ..models.settings import Settings
from ..models.training import PICTURES, Batch, Phase, Training, networks_of, training_of
from ..signals import Signals, Stopped
from .average import Averaged
from .curves import Curves
from .processes import Processes
from .rates import learning_rate
from .run import Run
from .run_folder import WAY_OUT, RunFolder, fingerprint
from .seeds import Order, seed_of

# Test images that runs of before there was a validation split validate on.
_TEST_IMAGES = 1000
# Seed of the validation split: one for all runs, so that figures of runs can be compared, and a run may start from another.
_SPLIT_SEED = 0


def images_of(settings: Settings, progress: bool = False) -> tuple[Images, Images]:
    """Training and validation images of a run; none to validate on with `validation` 0.

    Raises:
        SpxError: for missing, damaged or wrong files.
    """
    train = load(settings.data, settings.data_dir, "train", settings, progress)
    if settings.validates_on == "split":
        return split(train, settings.validation, _SPLIT_SEED)
    test = load(settings.data, settings.data_dir, "test", settings, progress)
    return train, Images(test.images[:_TEST_IMAGES], test.labels[:_TEST_IMAGES])


class Objective(nn.Module):
    """Loss of one batch in one phase; the module that DistributedDataParallel wraps."""

    def __init__(self, training: Training, phase: Phase):
        super().__init__()
        self.model, self.training_of, self.phase = training.module, training, phase

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """See `Training.loss`."""
        return self.training_of.loss(self.phase, batch)


def _eagerly():
    """Inside, compiled modules run as they are written, for batches of other shapes than the training's."""
    # set_stance came with torch 2.6; before it the other shapes are compiled too, slower but right.
    stance = getattr(torch.compiler, "set_stance", None)
    return stance("force_eager") if stance else contextlib.nullcontext()


class Trainer:
    """A training run in a folder; see `RunFolder`.

    Args:
        settings: what to train; of the family's `Settings`.
        folder: the run's.
        resume: continue from the newest state in it.
        device: "cpu", "cuda" ... .
        progress: whether to draw progress bars.

    Attributes:
        training: the model's side of it.
        module: the torch module that is trained.
        step: steps done of the phase under way.
        seconds: of training, all sittings together.

    Under torchrun every process builds a Trainer; the batch is split between them.

    Raises:
        SpxError: for settings, data and a folder that do not fit.
    """

    def __init__(
        self,
        settings: Settings,
        folder: str | Path,
        resume: bool = False,
        device: str | torch.device = "cpu",
        progress: bool = True,
    ):
        self.settings, self.device = settings, torch.device(device)
        self.processes = Processes()
        first = self.processes.first
        self.folder, self.signals = RunFolder(Path(folder), first), Signals(first)
        self.curves = Curves(self.folder.path, first, progress)
        train, validation = images_of(settings, self.curves.bars)
        torch.manual_seed(seed_of(settings.seed, "weights"))
        run = Run(self.device, settings.seed, self.folder, self.curves, self.signals)
        self.training = training_of(registry.family(settings.model), settings, train, validation, run)
        self.module, self.phases = self.training.module, self.training.phases()
        self.order = Order(settings.seed, len(train), self.device)
        self._check_batches()
        if settings.fused:
            self._fuse()
        goes_on = resume and bool(self.folder.states())
        if settings.init and not goes_on:
            self.training.start_from(read_checkpoint(settings.init))
        self.phase_index, self.step, self.seconds = 0, 0, 0.0
        self.processes.first_does(lambda: self.folder.claim(settings, fingerprint(train, validation), resume))
        with self._arithmetic():
            if goes_on:
                self._load_state()
            else:  # a run that was killed before its first state begins again, with the same random numbers
                self._begin_phase()

    @property
    def phase(self) -> Phase:
        """The phase under way."""
        return self.phases[self.phase_index]

    @contextlib.contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Inside, fp32 is fp32, a step on a GPU can be repeated to the bit, and that GPU is torch's current one."""
        here = torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext()
        with here, full_precision(), repeatable(self.device):
            yield

    def _check_batches(self) -> None:
        for images in {phase.images_a_step for phase in self.phases if phase.steps}:
            wanted = f"images a step divisible by the {self.processes.count} processes"
            require(images % self.processes.count == 0, "batch", wanted, images)
            self.order.steps_an_epoch(images)

    def _fuse(self) -> None:
        """Gated layers end with one Triton kernel."""
        reason = triton.why_not()
        if reason is None and self.device.type != "cuda" and not triton.EMULATED:
            reason = f"device {self.device.type}"
        require(reason is None, "fused", "a GPU that Triton can use", reason, "leave --fused out")
        from spxcore.kernels.gated import gate

        for network in networks_of(self.module):
            network.fused = gate

    # ---- phases -------------------------------------------------------------------------------------------------------

    def _trainable(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.module.named_parameters() if name.startswith(self.phase.parameters)}

    def _begin_phase(self, initialise: bool = True) -> None:
        """Make the optimiser, the average and the objective of the phase under way."""
        parameters, s = self._trainable(), self.settings
        for name, p in self.module.named_parameters():
            p.requires_grad_(name in parameters)
        objective = Objective(self.training, self.phase)
        with _eagerly():
            self.training.begin(self.phase)
        if initialise and not all(map(self.training.given, parameters)):
            self._initialise(objective)
        if s.compile:  # validation and sampling, of other shapes, run eagerly
            for network in networks_of(self.module):
                if any(p.requires_grad for p in network.parameters()):
                    network.compile(dynamic=False)
        self.objective = DistributedDataParallel(objective) if self.processes.together else objective
        self.optimiser = torch.optim.Adam(list(parameters.values()), lr=s.lr, weight_decay=s.weight_decay, fused=True)
        self.average = Averaged(parameters, s.ema)
        self.best, self.best_epoch, self.patience_over = math.inf, 0, False

    def _initialise(self, objective: Objective) -> None:
        """Data-dependent initialisation on one whole batch, the same in every process."""
        given, parameters = self.training.given, self.module.named_parameters()
        kept = {name: p.detach().clone() for name, p in parameters if not p.requires_grad or given(name)}
        with torch.no_grad(), data_dependent_initialisation(self.module):
            torch.manual_seed(seed_of(self.settings.seed, self.phase.name, "initialisation"))
            objective(self._batch(0))
        with torch.no_grad():
            for name, p in self.module.named_parameters():
                if name in kept:
                    p.copy_(kept[name])

    def _next_phase(self) -> None:
        self._save_state()  # the next phase may take minutes to begin, and be stopped there
        self.average.take_over()  # what was trained is used from now on as its average
        self.phase_index, self.step = self.phase_index + 1, 0
        self._begin_phase()
        self._save_state()

    def _finish(self) -> None:
        with self._evaluating():
            self.training.finish()
        self._save_state()
        self._save_checkpoint()

    # ---- state --------------------------------------------------------------------------------------------------------

    def _save_state(self) -> None:
        """Write everything the next step depends on."""
        if not self.processes.first:
            return
        self._check_weights()
        tensors = {f"model.{name}": t for name, t in self.module.state_dict().items()}
        names = {id(p): name for name, p in self._trainable().items()}
        for p, moments in self.optimiser.state.items():
            tensors |= {f"adam.{key}.{names[id(p)]}": t for key, t in moments.items()}
        tensors |= {f"average.{name}": t for name, t in self.average.mean.items()}
        scalars = {
            "phase_index": self.phase_index,
            "step": self.step,
            "best": self.best if math.isfinite(self.best) else None,
            "best_epoch": self.best_epoch,
            "patience_over": self.patience_over,
            **self.training.state(),
            "seconds": self.seconds,
        }
        self.folder.save(self.phase_index, self.step, tensors, scalars)

    def _load_state(self) -> None:
        tensors, scalars = self.folder.load()
        with self._of_this_run():
            self.phase_index = whole_number("phase_index", scalars["phase_index"], 0, len(self.phases) - 1)
            self.step = whole_number("step", scalars["step"], 0, self.phase.steps)
            self.training.load(scalars)
            own = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
            self.module.load_state_dict(own)
        self._begin_phase(initialise=False)
        with self._of_this_run():
            self._take_back(tensors, scalars)

    @contextlib.contextmanager
    def _of_this_run(self) -> Iterator[None]:
        """Inside, what a state of another run or of none raises becomes one sentence."""
        newest = self.folder.states()[-1]
        try:
            yield
        except RuntimeError as error:
            why = str(error).splitlines()[0]
            raise SpxError(f"{newest}: is of another network than {self.settings.preset} ({why})") from error
        except (SpxError, LookupError, TypeError, ValueError, AttributeError) as error:
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise SpxError(
                f"{newest}: is no state of this run ({why}); remove it to resume from an older one"
            ) from error

    def _take_back(self, tensors: dict[str, Tensor], scalars: dict) -> None:
        """What `_save_state` wrote of the phase under way."""
        best = scalars["best"]
        self.best = math.inf if best is None else _number("best", best)
        self.best_epoch = whole_number("best_epoch", scalars["best_epoch"], 0, 1 << 62)
        self.seconds, self.patience_over = (
            _number("seconds", scalars["seconds"]),
            bool(scalars.get("patience_over", False)),
        )
        for name, p in self._trainable().items():
            if f"adam.step.{name}" in tensors:
                moments = {key: tensors[f"adam.{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
                shapes = [tuple(t.shape) for t in moments.values()]
                require(shapes == [(), p.shape, p.shape], f"adam of {name}", f"shape {tuple(p.shape)}", shapes)
                self.optimiser.state[p] = {key: t.to(self.device) for key, t in moments.items()}
            self.average.mean[name].copy_(tensors[f"average.{name}"])

    def _save_checkpoint(self) -> None:
        if self.processes.first:
            with self.average.swapped_in():
                self.training.checkpoint().write(self.folder.checkpoint)

    # ---- the loop -----------------------------------------------------------------------------------------------------

    def train(self, stop_at: int | None = None) -> Path:
        """Run to the end (or to step `stop_at` of the phase under way) and return the checkpoint's folder.

        SIGINT (Ctrl-C), SIGTERM and SIGHUP end the run after the step under way, its state saved; a second one ends it at once.

        Raises:
            SpxError: if the loss or a weight is no longer finite, or another process trains in the run's folder.
            KeyboardInterrupt: on such a signal.
        """
        alone, curves = self.folder.alone(), self.curves.written(self._run_step())
        with writing(self.folder.path, WAY_OUT), alone, curves, self.signals.noted(), self._arithmetic():
            self.curves.log({
                "event": "arithmetic", "device": str(self.device), "precision": self.settings.precision, "tf32": False,
                "torch": torch.__version__,
            })  # fmt: skip
            while True:
                finished = self._run_phase(stop_at)
                if not finished or self.phase_index + 1 == len(self.phases):
                    break
                self._next_phase()
            if finished:
                self._finish()
        return self.folder.checkpoint

    def _run_phase(self, stop_at: int | None) -> bool:
        """Steps of one phase; False if stopped before its end."""
        s, phase = self.settings, self.phase
        sums: dict[str, Tensor] = {}
        since, began = 0, time.monotonic()
        with self.curves.bar(phase.steps, phase.name, "step", self.step) as bar:
            while self.step < phase.steps and not self.patience_over:
                if stop_at is not None and self.step >= stop_at:
                    self._save_state()
                    return False
                if self._must_stop():
                    self._save_state()
                    raise Stopped(self.signals.asked)
                for name, value in self._step().items():
                    sums[name] = sums.get(name, 0) + value.detach()
                since += 1
                bar.update()
                if self._due(s.log_every):
                    means = {name: float(total) / since for name, total in sums.items()}
                    self.seconds += time.monotonic() - began
                    sums, since, began = {}, 0, time.monotonic()
                    self._report(means, bar)
                if self._due(s.validate_every) and len(self.training.validation):
                    self._check_weights()
                    self.patience_over = self._validate()
                    self._save_checkpoint()
                    if self.patience_over:
                        return True
                if self._due(s.sample_every):
                    self._draw_samples()
                if self._due(s.save_every):
                    self._save_state()
        return True

    def _due(self, every: int) -> bool:
        """Whether something that is done after every `every` steps (0: never), and after the last step, is due."""
        return bool(every) and (self.step % every == 0 or self.step == self.phase.steps)

    def _step(self) -> dict[str, Tensor]:
        """One optimiser step; its loss and figures."""
        s, name = self.settings, self.phase.name
        torch.manual_seed(seed_of(s.seed, name, self.step, self.processes.rank))
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate(self.step)
        batch = self.processes.share(self._batch(self.step))  # in fp32: bf16 cannot tell coordinates apart
        with torch.autocast(self.device.type, torch.bfloat16, enabled=s.precision == "bf16"):
            parts = self.objective(batch)
        self.optimiser.zero_grad(set_to_none=True)
        parts["loss"].backward()
        self.optimiser.step()
        self.step += 1
        self.average.update(self.step)
        return parts

    def _batch(self, step: int) -> Batch:
        """The whole batch of a step, the same in every process."""
        phase = self.phase
        images = self.order.images(phase.name, step, phase.images_a_step)
        seed = seed_of(self.settings.seed, phase.name, step, "patches")
        return self.training.batch(phase, images, torch.Generator(self.device).manual_seed(seed))

    def _learning_rate(self, step: int) -> float:
        return learning_rate(self.settings, step, self.phase.steps)

    def _must_stop(self) -> bool:
        """Whether a signal asked to stop; all processes come to the same answer, now and then."""
        if self.processes.together and self.step % self.settings.log_every:
            return False
        return self.processes.any(bool(self.signals.asked), self.device)

    def _run_step(self) -> int:
        """Steps of all phases so far."""
        return self.step + sum(phase.steps for phase in self.phases[: self.phase_index])

    def _check_weights(self) -> None:
        """Raise an `SpxError` if a weight is not finite, before it is written over good ones."""
        if not all(bool(p.isfinite().all()) for p in self._trainable().values()):
            raise self._diverged("weights")

    def _diverged(self, what: str) -> SpxError:
        return SpxError(
            f"{what}: not finite at {self.phase.name} step {self.step}; the newest state in {self.folder.path} is from "
            f"before: --resume repeats the same steps, so start again with a lower --lr (now {self.settings.lr}), "
            "or --precision fp32"
        )

    # ---- what a run shows ---------------------------------------------------------------------------------------------

    def _report(self, means: dict[str, float], bar: tqdm) -> None:
        """Points of the training's curves: means over the steps since the last ones."""
        if not math.isfinite(means["loss"]):
            raise self._diverged("loss")
        bar.set_postfix({name: f"{value:.3f}" for name, value in means.items()})
        self._points("train", {**means, "learning_rate": self._learning_rate(self.step - 1)})

    def _points(self, what: str, values: dict[str, float]) -> None:
        self.curves.points(f"{self.phase.name}/{what}", values, self._run_step())
        if self.step % (10 * self.settings.log_every) == 0 or what != "train":
            where = {"event": what, "phase": self.phase.name, "step": self.step, "seconds": round(self.seconds, 1)}
            self.curves.log({**where, **{name: round(value, 6) for name, value in values.items()}})

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Inside, the module holds the averaged weights in evaluation mode and runs eagerly."""
        with self.average.swapped_in(), _eagerly(), torch.no_grad():
            self.module.eval()
            try:
                yield
            finally:
                self.module.train()

    def _validate(self) -> bool:
        """Figures of the averaged weights on validation images; True if patience has run out.

        Every process computes the same figures, so that all stop together.
        """
        seed = seed_of("validation")
        with self._evaluating():
            torch.manual_seed(seed)
            figures = self.training.validate(self.phase, torch.Generator(self.device).manual_seed(seed))
        figure = figures["bits_per_dimension"]
        self._points("validation", figures)
        self.curves.say(
            f"{self.phase.name} step {self.step}: validation {figure:.4f} bits per dimension (averaged weights)"
        )
        epoch = self.step // self.order.steps_an_epoch(self.phase.images_a_step)
        if figure < self.best:
            self.best, self.best_epoch = figure, epoch
        return bool(self.settings.patience) and epoch - self.best_epoch >= self.settings.patience

    def _draw_samples(self) -> None:
        """A grid of what the averaged weights draw."""
        if self.processes.first:
            with self._evaluating():
                images = self.training.pictures(self.phase)
            self.curves.pictures(self.phase.name, images, PICTURES, (self.step, self._run_step()))


def _number(name: str, value: object) -> float:
    """A number of a state.json."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SpxError(f"{name}: expected a number, got {kind(value)}")
    return float(value)
