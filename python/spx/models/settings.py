"""Settings of a training run that every model has. A family adds its own fields. Commands make their options of them. No torch here."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING

from spxcore.errors import require

from ..data.settings import DataSettings
from ..fields import ANY, BATCH, COUNT, POSITIVE, UNDER_ONE, Range, plain_value, setting

if TYPE_CHECKING:
    from typing_extensions import Self  # in `typing` from Python 3.11 on

SCHEDULES = ("cosine", "exponential")
PRECISIONS = ("fp32", "bf16")
VALIDATES_ON = ("split", "test")


@dataclass(frozen=True, kw_only=True)
class Settings(DataSettings):
    """Settings of a run that every model understands. The help of a field says what it is.

    Raises:
        SpxError: for a value out of range.
    """

    model: str = setting(MISSING, "family of the model")
    preset: str = setting(MISSING, "network and recipe by name")
    validation: float = setting(
        1 / 12,
        "share of the training images that is kept for validation; 0: no validation",
        range=UNDER_ONE,
    )
    validates_on: str = setting(
        "split",
        "split: images kept from training; test: test images, as in old runs",
        choices=VALIDATES_ON,
        hidden=True,
    )
    seed: int = setting(0, "seed of weights, data order and noise", range=ANY)
    init: str = setting("", "checkpoint, name or folder, whose weights the run starts from; empty: random weights")
    steps: int = setting(15000, "optimiser steps", range=COUNT)
    batch: int = setting(128, "images a step, over all processes", range=BATCH)
    lr: float = setting(1e-3, "peak learning rate of Adam", range=POSITIVE)
    schedule: str = setting(
        "cosine",
        "cosine: falls to 1 % of lr at the end of each phase; exponential: times lr_decay each step, as in the paper",
        choices=SCHEDULES,
    )
    warmup: int = setting(200, "steps of linear rise of the learning rate, with --schedule cosine", range=ANY)
    lr_decay: float = setting(
        0.999995, "factor on the learning rate each step, with --schedule exponential", range=Range(0, 1, above=True)
    )
    weight_decay: float = setting(0.0, "L2 regularisation, added to the gradient", range=ANY)
    ema: float = setting(
        0.9995,
        "decay of the moving average of the weights; the average is evaluated, sampled and saved",
        range=UNDER_ONE,
    )
    precision: str = setting("fp32", "arithmetic of training: fp32, or bf16 by autocast", choices=PRECISIONS)
    compile: bool = setting(False, "compile the networks with torch.compile")
    fused: bool = setting(False, "end each gated layer with one Triton kernel; needs a GPU; its speed is not measured")
    patience: int = setting(0, "stop after this many epochs without a better validation figure; 0: never", range=ANY)
    log_every: int = setting(10, "steps between points of the curves", range=COUNT)
    validate_every: int = setting(500, "steps between validations; 0: never", range=ANY)
    sample_every: int = setting(1000, "steps between sample pictures; 0: never", range=ANY)
    save_every: int = setting(500, "steps between saved states; 0: only at the end", range=ANY)

    def __post_init__(self):
        super().__post_init__()
        for f in fields(self):
            choices, bounds = f.metadata.get("choices"), f.metadata.get("range")
            value = plain_value(f.name, getattr(self, f.name), getattr(f.type, "__name__", str(f.type)))
            object.__setattr__(self, f.name, value)
            if choices:
                require(value in choices, f.name, ", ".join(choices), repr(value))
            if bounds:
                bounds = Range(*bounds)
                require(bounds.holds(value), f.name, str(bounds), value)
        validates = self.validation > 0 or self.validates_on == "test"
        require(validates or not self.patience, "patience", "0 without validation images", self.patience)

    @classmethod
    def of(cls, **given) -> Self:
        """Settings of given fields.

        Raises:
            SpxError: for an unknown field, or a value out of range.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(given) - known)
        require(not unknown, "settings", "names of " + ", ".join(sorted(known)), ", ".join(unknown))
        return cls(**given)

    def to_dict(self) -> dict:
        """Plain values for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def upgrade(cls, saved: dict) -> dict:
        """Fields of a run of an older version as fields of this one."""
        return saved
