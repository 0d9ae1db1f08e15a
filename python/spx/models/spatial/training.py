"""How a Spatial PixelCNN is trained: the VAE, the patch network given frozen codes, or both together."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from spxcore.errors import require, whole_number
from spxcore.feeds import scale
from spxcore.heads.log_prob import logistics_log_prob

from ...data.images import Images
from .. import training
from ..model import Checkpoint
from ..parts.gaussian import kl_to_standard_normal, reparameterise
from ..training import VALIDATION_BATCH, Batch, Phase, mean_of
from .codes import encode, refine
from .config import LARGEST
from .module import SpatialPixelCNN
from .patches import Patches, decoded_targets, sample_patches, to_levels
from .prior import Prior, fit_mixture
from .settings import Settings
from .vae import to_unit

# Mean and log-variance of q(z | x), [N, latent] each; and their names in a batch.
Posterior = tuple[Tensor, Tensor]
_POSTERIOR = ("mean", "log_variance")
_PATCHES = "patches."


class SpatialTraining(training.Training):
    """See `Training`. Phases: "vae" the image loss (paper, equation 6), "patch" the patch loss (equation 7), "joint" their sum
    (equation 5).

    Attributes:
        posterior, validation_posterior: mean and log-variance of q(z | x), each [N, latent], of every image, once the VAE is frozen.
    """

    settings: Settings
    module: SpatialPixelCNN

    def begin_with(self, train: Images) -> None:
        """See `Training.begin_with`."""
        settings, (channels, height, side) = self.settings, train.images.shape[1:]
        require(
            height == side, "data", "square images", f"{height}x{side}", "--size N makes squares of a folder's pictures"
        )
        network = settings.network(channels)
        require(side >= network.patch, "data", f"images of at least the patch's {network.patch} pixels", side)
        require(settings.sizes[0] == side, "sizes", f"the smallest to be the data's own {side}", settings.sizes[0])
        self.module = SpatialPixelCNN(
            network={**network.__dict__, "sizes": list(network.sizes)},
            vae={"size": side - side % 4, "channels": channels, "latent": network.latent} if network.latent else None,
            contrast=settings.contrast,
            about=self.about(),
        )
        self.network, self.head = network, network.head
        self.posterior: Posterior | None = None
        self.validation_posterior: Posterior | None = None
        self.network_given = False

    def phases(self) -> list[Phase]:
        """See `Training.phases`."""
        s, patch = self.settings, ("network.", "maps.")
        images = s.batch // s.patches_per_image
        if s.vae == "frozen":
            return [Phase("vae", s.vae_steps, s.vae_batch, ("vae.",)), Phase("patch", s.steps, images, patch)]
        if s.vae == "joint":
            return [Phase("joint", s.steps, images, ("vae.", *patch))]
        return [Phase("patch", s.steps, images, patch)]

    def begin(self, phase: Phase) -> None:
        """q(z | x) of every training and validation image, computed once: the VAE is frozen. And the prior."""
        if phase.name == "patch" and self.module.vae is not None:
            self._encode(self.settings.refine)

    # ---- loss -----------------------------------------------------------------------------------------------------------

    def batch(self, phase: Phase, images: Tensor, generator: torch.Generator) -> Batch:
        """See `Training.batch`: "images" [B, C, H, W] in [-1, 1]; "patches.*", the fields of `Patches`, `patches_per_image` of each
        image in a row; "mean" and "log_variance" [B, latent] where the VAE is frozen."""
        pixels = to_unit(self.images[images])
        batch = {"images": pixels}
        if phase.name != "vae":
            repeated, s = pixels.repeat_interleave(self.settings.patches_per_image, dim=0), self.settings
            patches = sample_patches(repeated, self.network, generator, s.contrast, spoilt_share=s.spoilt)
            batch |= _named(patches)
        if phase.name == "patch" and self.posterior is not None:
            batch |= {name: q[images] for name, q in zip(_POSTERIOR, self.posterior, strict=True)}
        return batch

    def loss(self, phase: Phase, batch: Batch) -> dict[str, Tensor]:
        """Mean loss and its parts, in nats.

        Returns:
            "loss" [], and "image" (nats an image), "kl" (nats), "patch" (nats a patch) as far as they apply, and
            "bits_per_dimension" of the patches, or of the images without their codes.
        """
        module, images = self.module, batch["images"]
        loss, z = images.new_zeros(()), None
        parts: dict[str, Tensor] = {}
        if phase.name != "patch":
            mean, log_variance = (q.float() for q in module.coder.encode(images))
            z, target = reparameterise(mean, log_variance), module.coder.resample(images)
            parts["image"] = -logistics_log_prob(module.coder.decode(z), target).sum(dim=(1, 2)).mean()
            parts["kl"] = kl_to_standard_normal(mean, log_variance).mean()
            loss = loss + parts["image"] + self.settings.kl_weight * parts["kl"]
        elif "mean" in batch:
            z = reparameterise(batch["mean"], batch["log_variance"])
        if phase.name != "vae":
            patches, decoded = _patches(batch), None
            if self.settings.targets == "decoded" and z is not None:
                decoded = module.decoded(z)
                with torch.autocast(images.device.type, enabled=False):
                    patches = decoded_targets(patches, images, decoded, self.settings.contrast)
            nats = -logistics_log_prob(module(patches, z, decoded), patches.x).sum(dim=(1, 2))
            parts["patch"] = (patches.weight * nats).mean()
            loss = loss + (self.settings.patch_weight if phase.name == "joint" else 1.0) * parts["patch"]
        return {"loss": loss, **parts, "bits_per_dimension": self._bits(parts, parts.get("image"))}

    def _bits(self, parts: dict, image):
        """Bits per dimension of a patch where there are patches, else of an image that costs `image` nats."""
        if "patch" in parts:
            nats = parts["patch"] / (self.network.patch**2 * self.network.channels)
        else:
            nats = image / self.images[0].numel()
        return (nats.detach() if isinstance(nats, Tensor) else nats) / math.log(2)

    # ---- what a run shows -------------------------------------------------------------------------------------------------

    def validate(self, phase: Phase, generator: torch.Generator) -> dict[str, float]:
        """See `Training.validate`; patches at the data's own size, whose scale input is that of the sizes trained at."""
        sizes, found = self.network.sizes, []
        single = replace(self.network, sizes=(sizes[0], sizes[0]))
        for index, chunk in enumerate(to_unit(self.validation).split(VALIDATION_BATCH)):
            batch = {"images": chunk}
            if phase.name != "vae":
                patches = sample_patches(chunk, single, generator)
                batch |= _named(replace(patches, scale=torch.full_like(patches.scale, scale(*single.sizes, sizes))))
            if phase.name == "patch" and self.validation_posterior is not None:
                chunks = (q.split(VALIDATION_BATCH)[index] for q in self.validation_posterior)
                batch |= dict(zip(_POSTERIOR, chunks, strict=True))
            found.append((self.loss(phase, batch), len(chunk)))
        totals = mean_of(found)
        totals["bits_per_dimension"] = self._bits(totals, totals.get("image", 0.0) + totals.get("kl", 0.0))
        return totals

    def pictures(self, phase: Phase) -> np.ndarray:
        """Rows of `PICTURES` at the data's own size. "vae": images and the decoder's means; otherwise images, their reconstructions
        and samples."""
        originals = self.originals()
        if phase.name == "vae":
            images = torch.from_numpy(originals).permute(0, 3, 1, 2).to(self.run.device)
            mean, _ = self.module.coder.encode(to_unit(images))
            return np.concatenate([originals, to_levels(self.module.coder.mean_image(mean))])
        again = [self.drawn(source=originals)] if self.module.vae is not None else []
        return np.concatenate([originals, *again, self.drawn()])

    def finish(self) -> None:
        """A joint VAE's codes, and so the prior fitted to them, are known at the end alone. The network has seen the encoder's."""
        if self.settings.prior == "mixture" and not self.module.components and self.module.vae is not None:
            self._encode(0)

    # ---- codes and prior ----------------------------------------------------------------------------------------------------

    def _encode(self, steps: int) -> None:
        """q(z | x) of all images, its means refined by gradient steps. Fits the mixture prior, unless it is there."""
        train = encode(self.module.coder, self.images)
        validation = encode(self.module.coder, self.validation) if len(self.validation) else None
        if steps:
            train, validation = self._refined(train, validation, steps)
        self.posterior, self.validation_posterior = train, validation
        if self.settings.prior == "mixture" and not self.module.components:
            self._fit_prior(train)

    def _refined(
        self, train: Posterior, validation: Posterior | None, steps: int
    ) -> tuple[Posterior, Posterior | None]:
        """Refined means for both, by gradient steps on the bound. The prior is that of the encoder's codes. A file keeps them."""
        device, kept = self.run.device, self.run.kept("codes")
        if kept is None:
            mixture = self.settings.prior == "mixture"
            prior = (self._mixture(train) if mixture else Prior(self.network.latent)).distribution(device=device)
            vae, patch = self.module.coder, self.network.patch
            sets = {"train": (self.images, train), "test": (self.validation, validation)}
            with self.run.bar(len(self.images) + len(self.validation), "codes", "image") as done:
                kept = {
                    name: refine(vae, prior, patch, images, q, steps, done) for name, (images, q) in sets.items() if q
                }
            self.run.keep("codes", kept)
        better = kept["train"].to(device), train[1]
        return better, None if validation is None else (kept["test"].to(device), validation[1])

    def _mixture(self, posterior: Posterior, chosen: np.ndarray | slice = slice(None)) -> Prior:
        """The mixture prior of the codes of training images, of the chosen ones."""
        mean, log_variance = (q.cpu().numpy()[chosen] for q in posterior)
        s, labels = self.settings, self.labels[chosen]
        return fit_mixture(
            mean, np.exp(log_variance), labels, components=s.components, spread=s.prior_spread, seed=s.seed
        )

    def _fit_prior(self, posterior: Posterior) -> None:
        """Fit the mixture to all training codes; and one to nine tenths of them, to log what the others cost under it."""
        generator = torch.Generator(self.run.device).manual_seed(self.run.seed("prior"))
        codes = reparameterise(*posterior, generator).cpu().numpy()
        held_out = np.arange(len(codes)) % 10 == 9
        fitted = self._mixture(posterior, ~held_out)
        report = {
            "kl_to_standard_normal": float(kl_to_standard_normal(*posterior).mean()),
            "codes_nats_fitted": float(fitted.log_density(codes[~held_out][:2000]).mean()),
            "codes_nats_held_out": float(fitted.log_density(codes[held_out][:2000]).mean()),
        }
        self.run.log({"event": "prior", **report})
        self.module.set_prior(self._mixture(posterior))
        self.module.to(self.run.device)

    # ---- what is kept -------------------------------------------------------------------------------------------------------

    def start_from(self, checkpoint: Checkpoint) -> None:
        """Take the weights of a trained model, or those of its VAE alone if its patch network is another one.

        The prior is fitted anew, because the codes may change.
        """
        trained = {
            n: torch.from_numpy(np.array(t)) for n, t in checkpoint.tensors.items() if not n.startswith("prior_")
        }
        own = self.module.state_dict()

        def same(prefix: str) -> bool:
            theirs, ours = ({n: t.shape for n, t in d.items() if n.startswith(prefix)} for d in (trained, own))
            return theirs == ours and bool(ours)

        self.network_given = same("")
        wanted = f"a checkpoint of {self.settings.preset} with the same --vae, or one with such a VAE"
        require(self.network_given or same("vae."), "init", wanted, self.settings.init)
        prefix = "" if self.network_given else "vae."
        self.module.load_state_dict({**own, **{name: t for name, t in trained.items() if name.startswith(prefix)}})

    def given(self, name: str) -> bool:
        """See `Training.given`."""
        return bool(self.settings.init) and (self.network_given or name.startswith("vae."))

    def checkpoint(self) -> Checkpoint:
        """See `Training.checkpoint`."""
        return self.module.checkpoint()

    def state(self) -> dict:
        """See `Training.state`."""
        return {"components": self.module.components, "network_given": self.network_given}

    def load(self, state: dict) -> None:
        """See `Training.load`."""
        self.network_given = state.get("network_given", bool(self.settings.init))
        components = whole_number("components", state["components"], 0, LARGEST["components"])
        if components:
            self.module.allocate_prior(components)


def _named(patches: Patches) -> Batch:
    return {_PATCHES + name: values for name, values in vars(patches).items()}


def _patches(batch: Batch) -> Patches:
    return Patches(**{n.removeprefix(_PATCHES): t for n, t in batch.items() if n.startswith(_PATCHES)})
