"""The rows of `spx-reproduce`: the paper's tables 1 to 3 with its conditioning, ours beside them, and what each choice of ours does.

Rows are trained on the encoder's codes, and their bits are of such codes, as in the paper. One ablation uses refined codes. Refining the
codes of the training set (`codes`) takes minutes on a CPU, more than a small budget.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from ..model import Checkpoint, Row, Start
from ..parts import paper
from .settings import preset as recipe

# The row that ablations change in one thing.
_BASE = "ours-8"
# What a short trial, which only takes the time of steps, can do without.
_TRIAL = {"prior": "normal", "refine": 0}
_FAMILY = {"model": "spatial"}


def _trained(name: str, group: str, text: str, settings: dict, **others) -> Row:
    """A row that is trained; one with a frozen VAE begins from that."""
    made = recipe(**{"name" if key == "preset" else key: value for key, value in settings.items()})
    start = _frozen_vae(made.kl_weight) if made.vae == "frozen" else None
    return Row(name, group, text, {**_FAMILY, **settings}, start=start, trial=_TRIAL, refine=made.refine, **others)


def _frozen_vae(kl_weight: float) -> Start:
    """The VAE that all rows of one KL weight share. Its patch network, trained for a single step, is thrown away."""
    settings = {
        **_FAMILY,
        "preset": "small-4x4",
        "kl_weight": kl_weight,
        "steps": 1,
        "prior": "normal",
        "refine": 0,
        "sizes": (28, 28),
    }
    return Start(
        f"vae-kl-{kl_weight:g}", "the VAE of the rows with a frozen one", settings, _vae_alone,
        {"vae_steps": 0}, replaceable=kl_weight == recipe("small-8x8").kl_weight,
    )  # fmt: skip


def _vae_alone(trained: Checkpoint) -> Checkpoint:
    """A model with its VAE and a network that no row can mistake for its own."""
    from .module import module_of, smallest_with

    return smallest_with(module_of(trained).coder).checkpoint()


def _table(row: paper.Row) -> str:
    """The tables of the paper that a row stands in."""
    return "tables 2 and 3" if row.latent else "table 1"


def _paper_row(row: paper.Row) -> Row:
    parts = ["paper", str(row.patch), *["large"] * row.large, *["coordinates"] * row.coordinates, *["vae"] * row.latent]
    has = [name for name, there in (("coordinates", row.coordinates), ("VAE", row.latent)) if there]
    preset = f"paper-{row.network.replace(' ', '-')}"
    settings = {"preset": preset, "coordinates": row.coordinates, **({} if row.latent else {"vae": "none"})}
    text = f"{row.network}, {' and '.join(has) or 'neither coordinates nor VAE'}"
    return _trained("-".join(parts), _table(row), text, settings, beside=paper.published(row))


def _our_row(row: paper.Row) -> Row:
    name = "-".join(["ours", str(row.patch), *["large"] * row.large])
    settings = {"preset": row.network.replace(" ", "-"), "refine": 0}
    text = f"{row.network}, ours (feature maps, frozen VAE, mixed sizes, mixture prior)"
    return _trained(name, _table(row), text, settings, beside=paper.published(row))


def _ablations() -> list[Row]:
    base = {"preset": "small-8x8", "refine": 0}

    def trained(name: str, text: str, share: float = 1.0, **settings) -> Row:
        how = {**base, **settings}
        return _trained(f"ablation-{name}", "ablations", text, how, base=_BASE, share=share)

    def judged(name: str, text: str, **evaluation) -> Row:
        return Row(f"ablation-{name}", "ablations", text, {**_FAMILY, **base}, of=_BASE, base=_BASE, **evaluation)

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
        trained("refined-codes", "codes refined by gradient steps, as our recipe has it", refine=ours["refine"]),
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
    """Every row, in the order of the tables; ours after the paper's of the same patch and network. See `Model.rows`."""
    result, done = [], set()
    for index, row in enumerate(paper.ROWS):
        if row is not paper.BASELINE:  # the family pixelcnnpp has it
            result.append(_paper_row(row))
        key, later = (row.patch, row.large), paper.ROWS[index + 1 :]
        if key not in done and not any((other.patch, other.large) == key for other in later):
            done.add(key)
            result.append(_our_row(row))
    return result + _ablations()


def with_prior(checkpoint: Checkpoint, prior: str) -> Checkpoint:
    """A model with another prior: "normal", or its mixture with all standard deviations times a number."""
    tensors = dict(checkpoint.tensors)
    if prior != "normal":
        return replace(checkpoint, tensors={**tensors, "prior_cholesky": tensors["prior_cholesky"] * np.float32(prior)})
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("prior_")}
    return replace(checkpoint, config=replace(checkpoint.config, components=0), tensors=tensors)
