"""Which data is read, and how: the options of every command that reads data, written once."""

from __future__ import annotations

from dataclasses import dataclass, fields

from spxcore.errors import require, whole_number

from ..fields import Range, setting

NAMED = ("mnist", "fashion-mnist")
NAMES = (*NAMED, "idx", "cifar10", "folder", "arrays")
FITS = ("crop", "resize")
COLOURS = ("auto", "grey", "rgb")
BAD = ("refuse", "skip")
ALPHAS = ("refuse", "black", "white")
LARGEST = 4096  # pixels of a side


@dataclass(frozen=True)
class Reading:
    """How image files become images of one size; only `--data folder` and pictures of several sizes need it.

    Attributes: the help of each field says it.
    """

    size: int = setting(
        0,
        "side of the images in pixels; 0: the files' own size, which must be the same for all",
        range=Range(0, LARGEST),
        metavar="N",
    )
    fit: str = setting(
        "crop", "crop: cut the centre square, then scale it to --size; resize: stretch to --size", choices=FITS
    )
    colour: str = setting("auto", "grey, rgb: convert to it; auto: rgb if any file has colour", choices=COLOURS)
    bad: str = setting(
        "refuse", "files that cannot be read. refuse: stop and name them; skip: name them and go on", choices=BAD
    )

    alpha: str = setting(
        "refuse", "transparent files. refuse: stop; black, white: put them on that colour", choices=ALPHAS
    )

    def __post_init__(self):
        object.__setattr__(self, "size", whole_number("size", self.size, 0, LARGEST))
        for name, choices in (("fit", FITS), ("colour", COLOURS), ("bad", BAD), ("alpha", ALPHAS)):
            value = getattr(self, name)
            require(value in choices, name, ", ".join(choices), repr(value))

    @classmethod
    def part_of(cls, settings: object) -> Reading:
        """The reading that any settings with fields of these names ask for; a field they lack has its default."""
        return cls(**{f.name: getattr(settings, f.name) for f in fields(Reading) if hasattr(settings, f.name)})


@dataclass(frozen=True)
class DataSettings(Reading):
    """A data set and how it is read: `load(settings.data, settings.data_dir, split, settings)`."""

    data: str = setting(
        "mnist",
        "data set: mnist, fashion-mnist; or files of your own: idx (named as MNIST's), cifar10 (the official batches), "
        "folder (pictures; sub-folders are classes), arrays (.npz or .npy)",
        choices=NAMES,
        metavar="NAME",
    )
    data_dir: str = setting(
        "data", "folder of the data; missing files of mnist and fashion-mnist are downloaded to it", metavar="DIR"
    )

    def __post_init__(self):
        super().__post_init__()
        require(self.data in NAMES, "data", ", ".join(NAMES), repr(self.data))
