"""How a model is trained: the settings of a run and the recipes behind the presets' names. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from spxcore.errors import require

from .models.spatial.config import NetworkConfig, preset

VAE_MODES = ("frozen", "joint", "none")
PRIORS = ("mixture", "normal")
SCHEDULES = ("cosine", "exponential")
TARGETS = ("decoded", "data")


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run; the command's options have the same names.

    Attributes:
        preset: network and recipe: [paper-|pixelcnnpp-](small|large)-MxM, such as small-8x8
        data: data set: mnist, fashion-mnist, or idx for a folder of your own with files of the same names
        data_dir: folder of the data's IDX files; missing files of a named data set are downloaded to it
        seed: of weights, data order, patches and noise
        init: checkpoint, name or folder, whose weights the run starts from (its VAE's alone if the networks differ); empty: random ones
        vae: frozen: trained first, then held; joint: both losses together (paper, equation 5); none: no latent code
        coordinates: whether the network sees pixel coordinates
        vae_steps: optimiser steps of the VAE alone, with --vae frozen
        steps: optimiser steps of the patch network
        batch: patches a step, over all processes
        patches_per_image: patches of each image in a step, which sees batch / patches_per_image images
        vae_batch: images a step while the VAE is trained alone
        lr: peak learning rate of Adam
        schedule: cosine: falls to 1 % of lr at the end of each phase; exponential: times lr_decay each step (paper)
        warmup: steps of linear rise of the learning rate, with --schedule cosine
        lr_decay: factor on the learning rate each step, with --schedule exponential
        weight_decay: L2 regularisation, added to the gradient
        ema: decay of the average of the weights that is evaluated, sampled and saved
        kl_weight: factor on the VAE's KL term; under 1 the code tells more
        patch_weight: factor on the patch loss with --vae joint; images of 28x28 and patches of 8x8 pixels count alike at 12.25
        refine: gradient steps on the code of each image before the patch network is trained, with --vae frozen; 0: the encoder's codes
        prior: mixture: Gaussians fitted to the training codes, a set a class; normal: N(0, I)
        components: Gaussians a class of the mixture prior
        prior_spread: factor on the standard deviations of their images' codes; under 1 draws codes nearer to those of real images
        sizes: smallest (the data's own) and largest image size trained at; equal for a single size
        contrast: how fast the targets' contrast grows with the size: factor 1 + contrast (n / 28 - 1)
        targets: at larger sizes, decoded: fading into the VAE's mean image of the code; data: the training image itself
        spoilt: share of the patches at larger sizes whose context has a wrong piece, to learn to recover from bad draws
        dropout: inside the patch network
        precision: fp32 or bf16 (autocast)
        compile: torch.compile the networks
        fused: the end of each gated layer as one Triton kernel, on a GPU; not measured yet
        patience: stop after so many epochs without a better validation figure; 0 never
        log_every: steps between points of the curves
        validate_every: steps between validations; 0 never
        sample_every: steps between sample pictures; 0 never
        save_every: steps between saved states; 0 only at the end
    """

    preset: str
    data: str = "mnist"
    data_dir: str = "data"
    seed: int = 0
    init: str = ""
    vae: str = "frozen"
    coordinates: bool = True
    vae_steps: int = 6000
    steps: int = 15000
    batch: int = 128
    patches_per_image: int = 4
    vae_batch: int = 128
    lr: float = 1e-3
    schedule: str = "cosine"
    warmup: int = 200
    lr_decay: float = 0.999995
    weight_decay: float = 0.0
    ema: float = 0.9995
    kl_weight: float = 0.8
    patch_weight: float = 1.0
    refine: int = 10
    prior: str = "mixture"
    components: int = 40
    prior_spread: float = 0.75
    sizes: tuple[int, int] = (28, 1400)
    contrast: float = 0.25
    targets: str = "decoded"
    spoilt: float = 0.15
    dropout: float = 0.0
    precision: str = "fp32"
    compile: bool = False
    fused: bool = False
    patience: int = 0
    log_every: int = 10
    validate_every: int = 500
    sample_every: int = 1000
    save_every: int = 500

    def __post_init__(self):
        object.__setattr__(self, "sizes", tuple(self.sizes))
        require(self.vae in VAE_MODES, "vae", ", ".join(VAE_MODES), repr(self.vae))
        require(self.prior in PRIORS, "prior", ", ".join(PRIORS), repr(self.prior))
        require(self.schedule in SCHEDULES, "schedule", ", ".join(SCHEDULES), repr(self.schedule))
        require(self.precision in ("fp32", "bf16"), "precision", "fp32 or bf16", repr(self.precision))
        require(self.targets in TARGETS, "targets", ", ".join(TARGETS), repr(self.targets))
        for name in ("steps", "batch", "patches_per_image", "vae_batch", "components", "log_every"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        counts = ("vae_steps", "refine", "warmup", "patience", "validate_every", "sample_every", "save_every", "seed")
        for name in (*counts, "weight_decay", "kl_weight", "contrast"):
            require(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        for name in ("lr", "prior_spread", "patch_weight"):
            require(getattr(self, name) > 0, name, "more than 0", getattr(self, name))
        require(0 < self.lr_decay <= 1, "lr_decay", "0 < decay <= 1", self.lr_decay)
        require(0 <= self.spoilt <= 1, "spoilt", "0 to 1", self.spoilt)
        require(0 <= self.ema < 1, "ema", "0 <= decay < 1", self.ema)
        whole = self.batch % self.patches_per_image == 0
        require(whole, "batch", f"a multiple of patches_per_image ({self.patches_per_image})", self.batch)
        wanted = "none for a network without a latent code, such as pixelcnnpp- presets'"
        require(self.network().latent > 0 or self.vae == "none", "vae", wanted, repr(self.vae))

    def network(self, channels: int = 1) -> NetworkConfig:
        """The network this recipe trains, for images of so many channels."""
        options = {"sizes": self.sizes, "dropout": self.dropout, "coordinates": self.coordinates}
        return preset(self.preset, channels=channels, **options, **({"latent": 0} if self.vae == "none" else {}))

    def phases(self) -> list[tuple[str, int]]:
        """Names and steps of the run's phases, in order."""
        if self.vae == "frozen":
            return [("vae", self.vae_steps), ("patch", self.steps)]
        return [("joint" if self.vae == "joint" else "patch", self.steps)]

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return {**asdict(self), "sizes": list(self.sizes)}


def recipe(name: str, **overrides) -> Recipe:
    """The recipe of a preset's name with some settings replaced.

    `paper-` and `pixelcnnpp-` presets train as the paper says (section 4.2): VAE jointly, N(0, I), one patch an image,
    28x28 only, dropout 0.5, L2 1e-4, exponential decay, until 100 epochs bring no gain. The others train as we found best.

    Raises:
        SpxError: for an unknown preset or a value out of range.
    """
    network = preset(name, **{"sizes": overrides["sizes"]} if "sizes" in overrides else {})
    fields_ = {"preset": name}
    if network.conditioning == "paper":
        fields_.update(
            vae="joint" if network.latent else "none",
            coordinates=network.coordinates,
            steps=500_000,
            patches_per_image=1,
            schedule="exponential",
            warmup=0,
            weight_decay=1e-4,
            kl_weight=1.0,
            refine=0,
            prior="normal",
            sizes=(28, 28),
            contrast=0.0,
            targets="data",
            spoilt=0.0,
            dropout=0.5,
            patience=100,
        )
    known = {field.name for field in fields(Recipe)}
    unknown = sorted(set(overrides) - known)
    require(not unknown, "settings", "names of " + ", ".join(sorted(known)), ", ".join(unknown))
    return Recipe(**{**fields_, **overrides})
