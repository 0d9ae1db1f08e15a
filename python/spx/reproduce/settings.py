"""How rows are trained and evaluated."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from ..evaluation.evaluate import Amounts


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
        samples, reconstructions, pairs_of, large_pixels, subset: as of `Amounts`.
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

    def amounts(self, side: int, refine: int) -> Amounts:
        """What is measured of each row, for data of a side; refine: gradient steps on codes."""
        return Amounts(
            sizes=(side, 2 * side), contour_sizes=self.contours, samples=self.samples, reconstructions=self.reconstructions,
            pairs_of=self.pairs_of, large_pixels=self.large_pixels, subset=self.subset, refine=refine,
        )  # fmt: skip
