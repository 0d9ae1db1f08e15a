"""The paper's tables 1 to 3 (Akoury & Nguyen 2017, section 5), as data to stand beside ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

Figure = tuple[float, float]  # mean, deviation as the paper prints it


@dataclass(frozen=True)
class Row:
    """One row of tables 1 to 3; table 3 repeats table 2's models.

    Attributes:
        patch: m.
        large: the large network; otherwise the small one.
        coordinates, latent: what it is conditioned on.
        bits: bits per dimension; with latent an upper bound.
        ms_ssim, confidence: of samples, by image size (28, 56).
        accuracy: of reconstructions, by image size; empty without latent.
    """

    patch: int
    large: bool
    coordinates: bool
    latent: bool
    bits: float
    ms_ssim: dict[int, Figure]
    confidence: dict[int, Figure]
    accuracy: dict[int, float]

    @property
    def network(self) -> str:
        """ "small 8x8" and the like."""
        return f"{'large' if self.large else 'small'} {self.patch}x{self.patch}"


def _row(patch, coordinates, bits, ms_ssim, confidence, accuracy=None, large=False) -> Row:
    """A row as the tables have it; a row with accuracies (table 3) is one of table 2, with latent."""
    by_size = (dict(zip((28, 56), values)) for values in (ms_ssim, confidence, accuracy or ()))
    return Row(patch, large, coordinates, accuracy is not None, bits, *by_size)


ROWS = (
    # Table 1: without VAE.
    _row(28, False, 0.88, ((0.17, 0.26), (0.66, 0.16)), ((95.6, 1.2), (70.7, 5.1))),
    _row(28, True, 0.89, ((0.17, 0.27), (0.48, 0.29)), ((97.5, 0.7), (86.3, 3.3))),
    _row(20, False, 1.50, ((0.09, 0.25), (0.15, 0.19)), ((89.6, 2.6), (82.1, 3.6))),
    _row(20, True, 1.48, ((0.18, 0.26), (0.27, 0.15)), ((93.7, 1.7), (81.5, 3.5))),
    _row(16, False, 1.68, ((0.03, 0.24), (0.02, 0.12)), ((87.0, 2.9), (79.9, 3.7))),
    _row(16, True, 1.65, ((0.14, 0.25), (0.15, 0.18)), ((91.1, 2.3), (82.6, 3.7))),
    _row(12, False, 1.73, ((0.02, 0.24), (0.02, 0.13)), ((86.4, 3.0), (80.3, 3.8))),
    _row(12, True, 1.70, ((0.13, 0.24), (0.20, 0.19)), ((85.6, 3.5), (83.3, 3.5))),
    _row(4, False, 1.52, ((0.05, 0.21), (0.05, 0.14)), ((71.8, 6.0), (76.3, 4.3))),
    _row(4, True, 1.42, ((0.14, 0.23), (0.17, 0.19)), ((79.1, 5.5), (86.4, 2.9))),
    # Tables 2 and 3: with VAE.
    _row(16, False, 1.95, ((0.03, 0.23), (0.03, 0.11)), ((87.6, 2.8), (81.9, 3.5)), (33.2, 12.1)),
    _row(16, True, 1.87, ((0.19, 0.27), (0.16, 0.21)), ((93.4, 1.6), (91.3, 2.3)), (97.2, 87.8)),
    _row(16, True, 1.39, ((0.18, 0.27), (0.15, 0.21)), ((97.0, 0.8), (93.2, 1.7)), (98.2, 91.4), large=True),
    _row(8, True, 1.67, ((0.18, 0.27), (0.13, 0.20)), ((95.1, 1.3), (94.1, 1.6)), (96.2, 95.3)),
)


# PixelCNN++ on whole images.
BASELINE = ROWS[0]


class Network(Protocol):
    """What a row says of its network; a Spatial PixelCNN's configuration has it."""

    @property
    def patch(self) -> int: ...
    @property
    def filters(self) -> int: ...
    @property
    def coordinates(self) -> bool: ...
    @property
    def latent(self) -> int: ...


def row_of(config: Network) -> Row | None:
    """The paper's row of a network of this patch, size, coordinates and latent; None if it has none."""
    asked = (config.patch, config.filters, config.coordinates, config.latent > 0)
    for row in ROWS:
        if (row.patch, 140 if row.large else 25, row.coordinates, row.latent) == asked:
            return row
    return None


def published(row: Row) -> dict:
    """A row as plain values; see `Model.published`."""
    by_size = {
        name: {str(size): value for size, value in getattr(row, name).items()}
        for name in ("ms_ssim", "confidence", "accuracy")
    }
    return {"network": row.network, "bits": row.bits, "bound": row.latent, **by_size}
