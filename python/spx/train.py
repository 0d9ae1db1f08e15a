"""Training: phases of optimiser steps whose every random number is a function of (seed, phase, step), so that a run can be
stopped anywhere and continued bit for bit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from spxcore.engines import triton
from spxcore.errors import SpxError, require
from spxcore.feeds import scale
from spxcore.heads.log_prob import logistics_log_prob
from spxcore.walk.module import Module, data_dependent_initialisation

from . import data
from .api import Sampler
from .checkpoints import load_model, save_checkpoint
from .io.files import alone_in, remove_leftovers, write_atomically, write_folder_atomically
from .io.pictures import grid
from .models.parts.gaussian import kl_to_standard_normal, reparameterise
from .models.spatial.codes import encode, refine
from .models.spatial.module import SpatialPixelCNN
from .models.spatial.patches import Patches, decoded_targets, sample_patches
from .models.spatial.prior import Prior, fit_mixture
from .models.spatial.vae import to_unit
from .recipe import Recipe

_VALIDATION_IMAGES = 1000


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Objective(nn.Module):
    """Loss of one batch in one phase; the module that DistributedDataParallel wraps.

    Phases: "vae" the image loss (paper, equation 6), "patch" the patch loss (equation 7), "joint" their sum (equation 5).
    """

    def __init__(self, model: SpatialPixelCNN, phase: str, recipe: Recipe):
        super().__init__()
        self.model, self.phase, self.recipe = model, phase, recipe

    def forward(
        self, images: Tensor, patches: Patches | None, posterior: tuple[Tensor, Tensor] | None
    ) -> dict[str, Tensor]:
        """Mean loss and its parts, in nats.

        Args:
            images: [B, C, H, W] in [-1, 1].
            patches: of these images, `patches_per_image` in a row each; None in phase "vae".
            posterior: mean and log-variance [B, latent] where the VAE is frozen.

        Returns:
            "loss" [], and "image" (nats an image), "kl" (nats), "patch" (nats a patch) as far as they apply.
        """
        parts, loss, z = {}, images.new_zeros(()), None
        if self.phase != "patch":
            posterior = tuple(p.float() for p in self.model.vae.encode(images))
        if posterior is not None:
            z = reparameterise(*posterior)
        if self.phase != "patch":
            target = self.model.vae.resample(images)
            parts["image"] = -logistics_log_prob(self.model.vae.decode(z), target).sum(dim=(1, 2)).mean()
            parts["kl"] = kl_to_standard_normal(*posterior).mean()
            loss = loss + parts["image"] + self.recipe.kl_weight * parts["kl"]
        if patches is not None:
            decoded = None
            if self.recipe.targets == "decoded" and z is not None:
                decoded = self.model.decoded(z)
                patches = decoded_targets(patches, images, decoded, self.recipe.contrast)
            nats = -logistics_log_prob(self.model(patches, z, decoded), patches.x).sum(dim=(1, 2))
            parts["patch"] = (patches.weight * nats).mean()
            loss = loss + (self.recipe.patch_weight if self.phase == "joint" else 1.0) * parts["patch"]
        return {"loss": loss, **parts}


def _eagerly():
    """Inside, compiled modules run as they are written, for batches of other shapes than the training's."""
    # set_stance came with torch 2.6; before it the other shapes are compiled too, slower but right.
    stance = getattr(torch.compiler, "set_stance", None)
    return stance("force_eager") if stance else contextlib.nullcontext()


class Averaged:
    """Exponential moving average of parameters (Polyak & Juditsky 1992; paper, section 4.2).

    The first steps average over fewer, (1 + t) / (10 + t), so that the initial weights are soon forgotten.
    """

    def __init__(self, parameters: dict[str, Tensor], decay: float):
        self.live, self.decay = parameters, decay
        self.mean = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the live parameters, after `step` optimiser steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.mean.values()), [p.detach() for p in self.live.values()], 1 - decay)

    @contextlib.contextmanager
    def swapped_in(self):
        """Inside, the live parameters hold the average."""
        saved = {name: p.detach().clone() for name, p in self.live.items()}
        with torch.no_grad():
            for name, p in self.live.items():
                p.copy_(self.mean[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, p in self.live.items():
                    p.copy_(saved[name])


class Trainer:
    """A training run in a folder.

    The folder holds `recipe.json`, the newest `state-<step>` to resume from, `checkpoint/` (averaged weights, for
    `spx-sample --checkpoint`), `log.jsonl`, `tensorboard/` and `samples/`.

    Args:
        recipe: what to train.
        run: the folder.
        resume: continue from the newest state in it.
        device: "cpu", "cuda" ... .
        progress: whether to draw a progress bar.

    Under torchrun every process builds a Trainer; the batch is split between them.
    """

    def __init__(
        self, recipe: Recipe, run: str | Path, resume: bool = False, device: str = "cpu", progress: bool = True
    ):
        self.recipe, self.run, self.device, self.progress = recipe, Path(run), torch.device(device), progress
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        batch_fits = (recipe.batch // recipe.patches_per_image) % self.world == 0 and recipe.vae_batch % self.world == 0
        require(batch_fits, "batch", f"images a step divisible by the {self.world} processes", recipe.batch)
        self.train_data = data.load(recipe.data, recipe.data_dir, "train")
        self.test_data = data.load(recipe.data, recipe.data_dir, "test")
        channels, side = self.train_data.images.shape[1], self.train_data.images.shape[2]
        require(self.train_data.images.shape[3] == side, "data", "square images", self.train_data.images.shape)
        network = recipe.network(channels)
        require(side >= network.patch, "data", f"images of at least the patch's {network.patch} pixels", side)
        require(recipe.sizes[0] == side, "sizes", f"the smallest to be the data's own {side}", recipe.sizes[0])
        torch.manual_seed(seed_of(recipe.seed, "weights"))
        self.model = SpatialPixelCNN(
            network={**network.__dict__, "sizes": list(network.sizes)},
            vae={"size": side - side % 4, "channels": channels, "latent": network.latent} if network.latent else None,
            classes=int(self.train_data.labels.max()) + 1,
            contrast=recipe.contrast,
            about={"data": recipe.data, "recipe": {k: v for k, v in recipe.to_dict().items() if k != "data_dir"}},
        ).to(self.device)
        if recipe.fused:
            self._fuse()
        self._network_given = False
        if recipe.init and not (resume and self._states()):
            self._start_from(recipe.init)
        self.images = torch.from_numpy(self.train_data.images.copy()).to(self.device)
        self.test_images = torch.from_numpy(self.test_data.images[:_VALIDATION_IMAGES].copy()).to(self.device)
        self.posterior: tuple[Tensor, Tensor] | None = None
        self.test_posterior: tuple[Tensor, Tensor] | None = None
        self.phase_index, self.step, self.best, self.best_epoch, self.seconds = 0, 0, math.inf, 0, 0.0
        self.patience_over, self._asked_to_stop = False, False
        self._order: tuple[tuple, np.ndarray] | None = None
        self._prepare_folder(resume)
        if resume and self._states():
            self._load_state()
        else:  # a run that was killed before its first state begins again, with the same random numbers
            self._begin_phase()

    # ---- folder and state -------------------------------------------------------------------------------------------

    def _states(self) -> list[Path]:
        return sorted(self.run.glob("state-*"))

    def _prepare_folder(self, resume: bool) -> None:
        """Rank 0 makes the folder ready; what it finds wrong, every process raises, so that none waits for another."""
        problem: list[str | None] = [None]
        if self.rank == 0:
            try:
                self._claim_folder(resume)
            except SpxError as error:
                problem = [str(error)]
        if dist.is_initialized():
            dist.broadcast_object_list(problem)
        if problem[0]:
            raise SpxError(problem[0])

    def _claim_folder(self, resume: bool) -> None:
        begun = (self.run / "recipe.json").exists()
        if resume:
            require(begun, str(self.run), "a run to resume", "none", "leave --resume out to start a run")
            with alone_in(self.run):
                remove_leftovers(self.run)
            return
        way_out = "--resume continues it; or choose another --out"
        require(not begun, str(self.run), "a new folder", "one with a run in it", way_out)
        try:
            self.run.mkdir(parents=True, exist_ok=True)
            write_atomically(self.run / "recipe.json", lambda p: _write_json(p, self.recipe.to_dict()))
        except OSError as error:
            raise SpxError(f"{self.run}: cannot be written ({error.strerror}); choose another --out") from error

    def _fuse(self) -> None:
        """Gated layers end with one Triton kernel."""
        reason = triton.why_not()
        if reason is None and self.device.type != "cuda" and not triton.EMULATED:
            reason = f"device {self.device.type}"
        require(reason is None, "fused", "a GPU that Triton can use", reason, "leave --fused out")
        from spxcore.kernels.gated import gate

        for module in self.model.modules():
            if isinstance(module, Module):
                module.fused = gate

    def _start_from(self, checkpoint: str) -> None:
        """Take the weights of a trained model, or those of its VAE alone if its patch network is another one.

        The prior is fitted anew, because the codes may change.
        """
        trained = load_model(checkpoint).state_dict()
        trained = {name: t for name, t in trained.items() if not name.startswith("prior_")}
        own = self.model.state_dict()

        def same(prefix: str) -> bool:
            theirs, ours = ({n: t.shape for n, t in d.items() if n.startswith(prefix)} for d in (trained, own))
            return theirs == ours and bool(ours)

        self._network_given = same("")
        fits = self._network_given or same("vae.")
        require(
            fits,
            "init",
            f"a checkpoint of {self.recipe.preset} with the same --vae, or one with such a VAE",
            checkpoint,
        )
        wanted = "" if self._network_given else "vae."
        self.model.load_state_dict({**own, **{name: t for name, t in trained.items() if name.startswith(wanted)}})

    def _given(self, name: str) -> bool:
        """Whether a parameter started from the checkpoint `init`."""
        return bool(self.recipe.init) and (self._network_given or name.startswith("vae."))

    def _trainable(self) -> dict[str, nn.Parameter]:
        phase = self.phase
        chosen = {"vae": ("vae.",), "patch": ("network.", "maps."), "joint": ("vae.", "network.", "maps.")}[phase]
        return {name: p for name, p in self.model.named_parameters() if name.startswith(chosen)}

    @property
    def phase(self) -> str:
        """Name of the phase under way."""
        return self.recipe.phases()[self.phase_index][0]

    @property
    def phase_steps(self) -> int:
        """Steps of the phase under way."""
        return self.recipe.phases()[self.phase_index][1]

    def _begin_phase(self, initialise: bool = True) -> None:
        """Make the optimiser, the average and the objective of the phase under way."""
        parameters = self._trainable()
        for name, p in self.model.named_parameters():
            p.requires_grad_(name in parameters)
        objective = Objective(self.model, self.phase, self.recipe).to(self.device)
        if self.phase == "patch" and self.model.vae is not None:
            self._encode_images()
        if initialise and not all(map(self._given, parameters)):
            self._initialise(objective)
        if self.recipe.compile:
            self._compile()
        distributed = dist.is_initialized()
        self.objective = DistributedDataParallel(objective) if distributed else objective
        self.optimiser = torch.optim.Adam(
            list(parameters.values()), lr=self.recipe.lr, weight_decay=self.recipe.weight_decay, fused=True
        )
        self.average = Averaged(parameters, self.recipe.ema)
        self.best, self.best_epoch, self.patience_over = math.inf, 0, False

    def _compile(self) -> None:
        """torch.compile the networks at work; validation and sampling, of other shapes, run eagerly."""
        vae = [self.model.vae.encoder, self.model.vae.decoder] if self.model.vae is not None else []
        patch = [self.model.network] + ([self.model.maps] if self.model.maps is not None else [])
        for module in {"vae": vae, "patch": patch, "joint": [*vae, *patch]}[self.phase]:
            module.compile(dynamic=False)

    @contextlib.contextmanager
    def _evaluating(self):
        """Inside, the model holds the averaged weights in evaluation mode and runs eagerly."""
        with self.average.swapped_in(), _eagerly(), torch.no_grad():
            self.model.eval()
            try:
                yield
            finally:
                self.model.train()

    def _initialise(self, objective: Objective) -> None:
        """Data-dependent initialisation on one whole batch, the same in every process."""
        parameters = self.model.named_parameters()
        kept = {name: p.detach().clone() for name, p in parameters if not p.requires_grad or self._given(name)}
        with torch.no_grad(), data_dependent_initialisation(self.model):
            torch.manual_seed(seed_of(self.recipe.seed, self.phase, "initialisation"))
            objective(*self._batch(0, whole=True))
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                if name in kept:
                    p.copy_(kept[name])

    def _encode_images(self) -> None:
        """q(z | x) of every training and validation image, computed once: the VAE is frozen."""
        with _eagerly():
            self.posterior, self.test_posterior = (encode(self.model.vae, i) for i in (self.images, self.test_images))
            # With --vae joint the network has seen the encoder's codes.
            if self.recipe.refine and self.phase == "patch":
                self._refine_codes()
        if self.recipe.prior == "mixture" and not self.model.components:
            self._fit_prior()

    def _refine_codes(self) -> None:
        """Better means for both, kept in a file, since they take minutes: gradient steps on the bound with the encoder's codes' prior."""
        path = self.run / "codes.safetensors"
        if not path.exists():
            mixture = self.recipe.prior == "mixture"
            prior = self._mixture() if mixture else Prior(self.model.network_config.latent)
            p = prior.distribution(device=self.device)
            count = len(self.images) + len(self.test_images)
            vae, patch, steps = self.model.vae, self.model.network_config.patch, self.recipe.refine
            with tqdm(total=count, desc="codes", unit="image", disable=not self.progress or self.rank != 0) as bar:

                def done(images: int) -> None:
                    bar.update(images)
                    if self._asked_to_stop:
                        raise KeyboardInterrupt

                means = [
                    refine(vae, p, patch, images, *q, steps, done)
                    for images, q in ((self.images, self.posterior), (self.test_images, self.test_posterior))
                ]
            tensors = {name: t.cpu().contiguous() for name, t in zip(("train", "test"), means, strict=True)}
            if self.rank == 0:
                write_atomically(path, lambda p: save_file(tensors, p))
        else:
            try:
                tensors = load_file(path)
            except Exception as error:
                raise SpxError(f"{path}: cannot be read ({error}); remove it, and the codes are made anew") from error
        self.posterior = tensors["train"].to(self.device), self.posterior[1]
        self.test_posterior = tensors["test"].to(self.device), self.test_posterior[1]

    def _mixture(self, chosen: np.ndarray | slice = slice(None)) -> Prior:
        """The mixture prior of the chosen training images' codes."""
        mean, log_variance = (q.cpu().numpy()[chosen] for q in self.posterior)
        r = self.recipe
        how = {"components": r.components, "spread": r.prior_spread, "seed": r.seed}
        return fit_mixture(mean, np.exp(log_variance), self.train_data.labels[chosen], **how)

    def _fit_prior(self) -> None:
        generator = torch.Generator(self.device).manual_seed(seed_of(self.recipe.seed, "prior"))
        codes = reparameterise(*self.posterior, generator).cpu().numpy()
        held_out = np.arange(len(codes)) % 10 == 9
        fitted = self._mixture(~held_out)
        report = {
            "kl_to_standard_normal": float(kl_to_standard_normal(*self.posterior).mean()),
            "codes_nats_fitted": float(fitted.log_density(codes[~held_out][:2000]).mean()),
            "codes_nats_held_out": float(fitted.log_density(codes[held_out][:2000]).mean()),
        }
        self._log({"event": "prior", **report})
        self.model.set_prior(self._mixture())
        self.model.to(self.device)

    def _save_state(self) -> None:
        """Write everything the next step depends on, then drop the older states."""
        if self.rank != 0:
            return
        self._check_weights()
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        names = {id(p): name for name, p in self._trainable().items()}
        for p, moments in self.optimiser.state.items():
            tensors |= {f"adam.{key}.{names[id(p)]}": t for key, t in moments.items()}
        tensors |= {f"average.{name}": t for name, t in self.average.mean.items()}
        tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        scalars = {
            "phase_index": self.phase_index,
            "step": self.step,
            "best": self.best if math.isfinite(self.best) else None,
            "best_epoch": self.best_epoch,
            "patience_over": self.patience_over,
            "components": self.model.components,
            "network_given": self._network_given,
            "seconds": self.seconds,
        }

        def write(folder: Path) -> None:
            save_file(tensors, folder / "state.safetensors")
            _write_json(folder / "state.json", scalars)

        path = self.run / f"state-{self.phase_index}-{self.step:08d}"
        older = [state for state in self._states() if state != path]
        if not path.exists():
            write_folder_atomically(path, write)
        for state in older:
            shutil.rmtree(state, ignore_errors=True)

    def _load_state(self) -> None:
        folder = self._states()[-1]
        try:
            scalars = json.loads((folder / "state.json").read_text())
            tensors = load_file(folder / "state.safetensors")
        except Exception as error:
            raise SpxError(f"{folder}: cannot be read ({error}); remove it to resume from an older state") from error
        self.phase_index, self.step = scalars["phase_index"], scalars["step"]
        self._network_given = scalars.get("network_given", bool(self.recipe.init))
        if scalars["components"]:
            self.model.allocate_prior(scalars["components"])
        try:
            own = {name[len("model.") :]: t for name, t in tensors.items() if name.startswith("model.")}
            self.model.load_state_dict(own)
        except RuntimeError as error:
            raise SpxError(f"{folder}: is of another network than {self.recipe.preset} ({error})") from error
        self._begin_phase(initialise=False)
        self.best = math.inf if scalars["best"] is None else scalars["best"]
        self.best_epoch, self.seconds = scalars["best_epoch"], scalars["seconds"]
        self.patience_over = scalars.get("patience_over", False)
        for name, p in self._trainable().items():
            moments = {key: tensors.get(f"adam.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            if moments["step"] is not None:
                self.optimiser.state[p] = {key: t.to(self.device) for key, t in moments.items()}
            self.average.mean[name].copy_(tensors[f"average.{name}"])

    # ---- batches ------------------------------------------------------------------------------------------------------

    def _images_a_step(self) -> int:
        return self.recipe.vae_batch if self.phase == "vae" else self.recipe.batch // self.recipe.patches_per_image

    def _indices(self, step: int) -> np.ndarray:
        """Training images of a step: consecutive pieces of one permutation an epoch."""
        count, images = len(self.images), self._images_a_step()
        require(images <= count, "batch", f"at most the data set's {count} images a step", images)
        steps_an_epoch = count // images
        epoch, place = divmod(step, steps_an_epoch)
        key = (self.phase, epoch)
        if self._order is None or self._order[0] != key:
            order = np.random.default_rng(seed_of(self.recipe.seed, *key)).permutation(count)
            self._order = (key, order)
        return self._order[1][place * images : (place + 1) * images]

    def _batch(self, step: int, whole: bool = False):
        """Images, patches and codes of a step: this process' share, or the whole."""
        indices = torch.from_numpy(self._indices(step)).to(self.device)
        images = to_unit(self.images[indices])
        patches, posterior = None, None
        if self.phase != "vae":
            generator = torch.Generator(self.device).manual_seed(seed_of(self.recipe.seed, self.phase, step, "patches"))
            repeated = images.repeat_interleave(self.recipe.patches_per_image, dim=0)
            patches = sample_patches(
                repeated, self.model.network_config, generator, self.recipe.contrast, spoilt_share=self.recipe.spoilt
            )
        if self.phase == "patch" and self.posterior is not None:
            posterior = tuple(p[indices] for p in self.posterior)
        if not whole and self.world > 1:
            images = images.chunk(self.world)[self.rank]
            if patches is not None:
                patches = Patches(*(t.chunk(self.world)[self.rank] for t in vars(patches).values()))
            if posterior is not None:
                posterior = tuple(p.chunk(self.world)[self.rank] for p in posterior)
        return images, patches, posterior

    def _learning_rate(self, step: int) -> float:
        recipe = self.recipe
        if recipe.schedule == "exponential":
            return recipe.lr * recipe.lr_decay**step
        rise = min(1.0, (step + 1) / max(1, recipe.warmup))
        return recipe.lr * rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / self.phase_steps)))

    def _autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    # ---- the loop -----------------------------------------------------------------------------------------------------

    def train(self, stop_at: int | None = None) -> Path:
        """Run to the end (or to global step `stop_at` of the phase under way) and return the checkpoint's folder.

        SIGINT (Ctrl-C) and SIGTERM end the run after the step under way, its state saved; a second one ends it at once.

        Raises:
            SpxError: if the loss or a weight is no longer finite, or another process trains in the run's folder.
            KeyboardInterrupt: on such a signal.
        """
        with alone_in(self.run) if self.rank == 0 else contextlib.nullcontext():
            return self._train(stop_at)

    def _train(self, stop_at: int | None) -> Path:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = (
            SummaryWriter(self.run / "tensorboard", purge_step=self._global_step()) if self.rank == 0 else None
        )
        try:
            with self._stopping_between_steps():
                while True:
                    finished = self._run_phase(stop_at)
                    if not finished or self.phase_index + 1 == len(self.recipe.phases()):
                        break
                    self._next_phase()
                if finished:
                    self._finish()
        finally:
            if self.writer:
                self.writer.close()
        return self.run / "checkpoint"

    @contextlib.contextmanager
    def _stopping_between_steps(self):
        """Inside, the first SIGINT or SIGTERM is only noted: in the middle of a step the state would be of no step."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(*_):
            if self._asked_to_stop:
                raise KeyboardInterrupt
            self._asked_to_stop = True
            if self.rank == 0:
                print("stopping after this step; once more stops at once", file=sys.stderr)

        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _must_stop(self) -> bool:
        """Whether a signal asked to stop; all processes come to the same answer, now and then."""
        if not dist.is_initialized():
            return self._asked_to_stop
        if self.step % self.recipe.log_every:
            return False
        asked = torch.tensor(float(self._asked_to_stop), device=self.device)
        dist.all_reduce(asked)
        return bool(asked > 0)

    def _diverged(self, what: str) -> SpxError:
        recipe = self.recipe
        return SpxError(
            f"{what}: not finite at {self.phase} step {self.step}; the newest state in {self.run} is from "
            f"before: --resume repeats the same steps, so start again with a lower --lr (now {recipe.lr}), "
            "or --precision fp32"
        )

    def _check_weights(self) -> None:
        """Raise an `SpxError` if a weight is not finite, before it is written over good ones."""
        if not all(bool(p.isfinite().all()) for p in self._trainable().values()):
            raise self._diverged("weights")

    def _global_step(self) -> int:
        return self.step + sum(steps for _, steps in self.recipe.phases()[: self.phase_index])

    def _next_phase(self) -> None:
        self._save_state()  # the next phase may take minutes to begin, and be stopped there
        with torch.no_grad():  # what was trained is used from now on as its average
            for name, p in self._trainable().items():
                p.copy_(self.average.mean[name])
        self.phase_index, self.step = self.phase_index + 1, 0
        self._begin_phase()
        self._save_state()

    def _finish(self) -> None:
        if self.recipe.prior == "mixture" and not self.model.components and self.model.vae is not None:
            with self._evaluating():
                self._encode_images()
        self._save_state()
        self._save_checkpoint()

    def _run_phase(self, stop_at: int | None) -> bool:
        """Steps of one phase; False if stopped before its end."""
        recipe, pixels = self.recipe, self.model.network_config.patch**2 * self.model.network_config.channels
        bar = tqdm(
            total=self.phase_steps, initial=self.step, desc=self.phase, unit="step", dynamic_ncols=True,
            disable=not self.progress or self.rank != 0,
        )  # fmt: skip
        sums, since, began = {}, 0, time.monotonic()
        with bar:
            while self.step < self.phase_steps and not self.patience_over:
                if stop_at is not None and self.step >= stop_at:
                    self._save_state()
                    return False
                if self._must_stop():
                    self._save_state()
                    raise KeyboardInterrupt
                torch.manual_seed(seed_of(recipe.seed, self.phase, self.step, self.rank))
                for group in self.optimiser.param_groups:
                    group["lr"] = self._learning_rate(self.step)
                with self._autocast():
                    parts = self.objective(*self._batch(self.step))
                self.optimiser.zero_grad(set_to_none=True)
                parts["loss"].backward()
                self.optimiser.step()
                self.step += 1
                self.average.update(self.step)
                for name, value in parts.items():
                    sums[name] = sums.get(name, 0) + value.detach()
                since += 1
                bar.update()
                last = self.step == self.phase_steps
                if self.step % recipe.log_every == 0 or last:
                    means = {name: float(total) / since for name, total in sums.items()}
                    sums, since = {}, 0
                    if not math.isfinite(means["loss"]):
                        raise self._diverged("loss")
                    shown = {"loss": f"{means['loss']:.2f}"}
                    if "patch" in means:
                        means["bits_per_dimension"] = means["patch"] / pixels / math.log(2)
                    else:
                        means["bits_per_dimension"] = means["image"] / self.images[0].numel() / math.log(2)
                        shown["kl"] = f"{means['kl']:.1f}"
                    shown["bpd"] = f"{means['bits_per_dimension']:.3f}"
                    bar.set_postfix(shown)
                    self.seconds += time.monotonic() - began
                    began = time.monotonic()
                    self._curves("train", {**means, "learning_rate": self._learning_rate(self.step - 1)})
                if recipe.validate_every and (self.step % recipe.validate_every == 0 or last):
                    self._check_weights()
                    self.patience_over = self._validate()
                    self._save_checkpoint()
                    if self.patience_over:
                        return True
                if recipe.sample_every and (self.step % recipe.sample_every == 0 or last):
                    self._draw_samples()
                if recipe.save_every and (self.step % recipe.save_every == 0 or last):
                    self._save_state()
        return True

    # ---- what a run shows ---------------------------------------------------------------------------------------------

    def _curves(self, split: str, values: dict[str, float]) -> None:
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(f"{self.phase}/{split}/{name}", value, self._global_step())
        if self.step % (10 * self.recipe.log_every) == 0 or split != "train":
            rounded = {name: round(value, 6) for name, value in values.items()}
            self._log(
                {"event": split, "phase": self.phase, "step": self.step, "seconds": round(self.seconds, 1), **rounded}
            )

    def _log(self, record: dict) -> None:
        if self.rank == 0:
            with open(self.run / "log.jsonl", "a") as file:
                file.write(json.dumps(record) + "\n")

    def _validate(self) -> bool:
        """Losses of the averaged weights on test images, patches at the data's own size; True if patience has run out.

        Every process computes the same figure, so that all stop together.
        """
        from dataclasses import replace

        config = self.model.network_config
        generator = torch.Generator(self.device).manual_seed(seed_of("validation"))
        single = replace(config, sizes=(config.sizes[0], config.sizes[0]))
        totals: dict[str, float] = {}
        with self._evaluating():
            torch.manual_seed(seed_of("validation"))
            objective = Objective(self.model, self.phase, self.recipe).eval()
            for index, chunk in enumerate(to_unit(self.test_images).split(250)):
                patches = posterior = None
                if self.phase != "vae":
                    patches = sample_patches(chunk, single, generator)
                    patches = replace(patches, scale=torch.full_like(patches.scale, scale(*single.sizes, config.sizes)))
                if self.phase == "patch" and self.model.vae is not None:
                    posterior = tuple(q.split(250)[index] for q in self.test_posterior)
                for name, value in objective(chunk, patches, posterior).items():
                    totals[name] = totals.get(name, 0.0) + float(value) * len(chunk) / len(self.test_images)
        if "patch" in totals:
            figure = totals["patch"] / (config.patch**2 * config.channels) / math.log(2)
        else:
            figure = (totals["image"] + totals["kl"]) / self.images[0].numel() / math.log(2)
        self._curves("validation", {**totals, "bits_per_dimension": figure})
        if self.progress and self.rank == 0:
            tqdm.write(f"{self.phase} step {self.step}: validation {figure:.4f} bits per dimension (averaged weights)")
        epoch = self.step // (len(self.images) // self._images_a_step())
        if figure < self.best:
            self.best, self.best_epoch = figure, epoch
        return bool(self.recipe.patience) and epoch - self.best_epoch >= self.recipe.patience

    def _draw_samples(self) -> None:
        """A grid of samples (patch network) or reconstructions (VAE) from the averaged weights."""
        if self.rank != 0:
            return
        with self._evaluating():
            images = training_samples(self.model, to_unit(self.test_images[:8]), self.phase)
        picture = grid(images, columns=8)
        folder = self.run / "samples"
        folder.mkdir(exist_ok=True)
        path = folder / f"{self.phase}-{self.step:08d}.png"
        write_atomically(path, lambda p: picture.save(p, format="PNG"))
        self.writer.add_image(
            f"{self.phase}/samples",
            np.asarray(picture),
            self._global_step(),
            dataformats="HW" if picture.mode == "L" else "HWC",
        )

    def _save_checkpoint(self) -> None:
        if self.rank == 0:
            with self.average.swapped_in():
                save_checkpoint(self.model, self.run / "checkpoint")


def training_samples(model: SpatialPixelCNN, images: Tensor, phase: str) -> np.ndarray:
    """What a training run looks like: rows of 8 pictures at the data's own size.

    Args:
        model: holds the weights to show.
        images: [8, C, H, W] in [-1, 1].
        phase: "vae": the images and the decoder's means; otherwise the images, their reconstructions, and 8 samples.

    Returns:
        uint8 [16 or 24, H, W, C].
    """

    def to_levels(x: Tensor) -> np.ndarray:
        return ((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()

    originals = to_levels(images)
    if phase == "vae":
        mean, _ = model.vae.encode(images)
        return np.concatenate([originals, to_levels(model.vae.mean_image(mean))])
    drawer, side = Sampler(model), images.shape[-1]
    rows = [originals]
    if model.vae is not None:
        rows.append(drawer.reconstruct(originals, side, engine="torch"))
    rows.append(drawer.sample(side, n=len(originals), engine="torch"))
    return np.concatenate(rows)


def _write_json(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
