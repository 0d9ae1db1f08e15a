"""The plan: what one window's network computes, as data.

A plan is a list of stages. A stage computes some *places* (pixels of one of the three resolutions) of one value as a sum of
*taps*: source value at a source place, through a nonlinearity, times a weight block. A stride, a transposed convolution or an
auxiliary 1x1 input is just another list of taps, and padding is a missing one, so a few lines execute every layer
(`spxcore.plan.execute`). No torch here.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import SpxError, require

# What a tap sees of its source: the value, elu(value), or [elu(value), elu(-value)] (twice the channels).
FORMS = ("raw", "elu", "concat_elu")

# Columns of Stage.taps.
ROW, SOURCE, PLACE, BLOCK = range(4)

# What a place depends on, see `tiers`.
TIERS = ("constant", "rows above", "current row", "last pixel")

FILE_VERSION = 1


@dataclass(frozen=True)
class Value:
    """One activation map of a window.

    Attributes:
        side: places along each axis; place (y, x) has number y * side + x.
        channels: numbers a place.
    """

    side: int
    channels: int

    @property
    def places(self) -> int:
        """Places of the whole map."""
        return self.side * self.side


@dataclass(frozen=True)
class Source:
    """Something a stage reads.

    Attributes:
        value: its name.
        form: one of `FORMS`.
        weights: float32 [blocks, inputs, outputs]; inputs are the value's channels, twice as many for concat_elu.
    """

    value: str
    form: str
    weights: np.ndarray


@dataclass(frozen=True)
class Stage:
    """Computes places of one value: bias + latent + the sum of the taps, then the gate if there is a residual.

    Attributes:
        name: of the layer, as in `PixelCNN.state_dict()`.
        output: name of the value it computes.
        sources: what it reads.
        places: int [P], the places it computes.
        taps: int [T, 4], sorted by the first column: row of `places`, index into `sources`, place of the source, weight block.
        bias: float32 [R, outputs].
        bias_row: int [P], row of `bias` that each place starts from.
        latent: float32 [Z, outputs], multiplied by the code z, or None.
        residual: name of the value x of the gate x + a sigmoid(b), a and b being the halves of the sum (van den Oord et al.
            2016, equation 4), or None: the sum itself.
    """

    name: str
    output: str
    sources: tuple[Source, ...]
    places: np.ndarray
    taps: np.ndarray
    bias: np.ndarray
    bias_row: np.ndarray
    latent: np.ndarray | None = None
    residual: str | None = None

    @property
    def outputs(self) -> int:
        """Numbers summed at a place: the output's channels, twice as many before a gate."""
        return self.bias.shape[1]

    def tap_macs(self) -> np.ndarray:
        """Multiply-adds of each tap, int [T]."""
        inputs = np.array([source.weights.shape[1] for source in self.sources], np.int64)
        return inputs[self.taps[:, SOURCE]] * self.outputs

    def keep(self, rows: np.ndarray) -> Stage:
        """The same stage for some of its places. rows: bool [P]."""
        taps = self.taps[rows[self.taps[:, ROW]]]
        taps[:, ROW] = (np.cumsum(rows) - 1)[taps[:, ROW]]
        return replace(self, places=self.places[rows], taps=taps, bias_row=self.bias_row[rows])


@dataclass(frozen=True)
class Plan:
    """Stages in the order they run.

    Attributes:
        patch: m, the window's side in pixels.
        latent: Z, length of the code; 0 without.
        values: every value by name.
        inputs: names of the values that are given: "x" [m x m, C] pixels in [-1, 1], and "places.k" [D] conditioning at each place
            of resolution k = 0, 1, 2 where the network has any.
        output: name of the value that holds the mixture parameters.
        stages: see `Stage`.
        about: what it was compiled from, for people to read.
    """

    patch: int
    latent: int
    values: dict[str, Value]
    inputs: tuple[str, ...]
    output: str
    stages: tuple[Stage, ...]
    about: dict = field(default_factory=dict)

    def needed(self, targets: Iterable[int]) -> dict[str, np.ndarray]:
        """The cone: for each value which places the output's places `targets` depend on, bool [places]."""
        need = {name: np.zeros(value.places, bool) for name, value in self.values.items()}
        need[self.output][list(targets)] = True
        for stage in reversed(self.stages):
            wanted = need[stage.output][stage.places]
            taps = stage.taps[wanted[stage.taps[:, ROW]]]
            for index, source in enumerate(stage.sources):
                need[source.value][taps[taps[:, SOURCE] == index, PLACE]] = True
            if stage.residual is not None:
                need[stage.residual][stage.places[wanted]] = True
        return need

    def cone(self, targets: Iterable[int]) -> Plan:
        """The plan that computes only what the output's places `targets` (numbers y * m + x) depend on."""
        need = self.needed(targets)
        stages = (stage.keep(need[stage.output][stage.places]) for stage in self.stages)
        return replace(self, stages=tuple(stage for stage in stages if len(stage.places)))

    def dependencies(self) -> dict[str, np.ndarray]:
        """For each value, whether each place depends on each pixel of the window: bool [places, m * m]."""
        pixels = self.patch * self.patch
        depends = {name: np.zeros((value.places, pixels), bool) for name, value in self.values.items()}
        depends["x"] = np.eye(pixels, dtype=bool)
        for stage in self.stages:
            out = np.zeros((len(stage.places), pixels), bool)
            for index, source in enumerate(stage.sources):
                taps = stage.taps[stage.taps[:, SOURCE] == index]
                if len(taps):
                    rows, first = np.unique(taps[:, ROW], return_index=True)
                    out[rows] |= np.logical_or.reduceat(depends[source.value][taps[:, PLACE]], first, axis=0)
            if stage.residual is not None:
                out |= depends[stage.residual][stage.places]
            depends[stage.output][stage.places] = out
        return depends

    @cached_property
    def leads_to(self) -> dict[str, np.ndarray]:
        """For each value, whether each of the output's places depends on each place: bool [places, places of the output]."""
        count = self.values[self.output].places
        leads = {name: np.zeros((value.places, count), bool) for name, value in self.values.items()}
        leads[self.output] = np.eye(count, dtype=bool)
        for stage in reversed(self.stages):
            out = leads[stage.output][stage.places]
            for index, source in enumerate(stage.sources):
                taps = stage.taps[stage.taps[:, SOURCE] == index]
                if len(taps):
                    taps = taps[np.argsort(taps[:, PLACE], kind="stable")]
                    places, first = np.unique(taps[:, PLACE], return_index=True)
                    leads[source.value][places] |= np.logical_or.reduceat(out[taps[:, ROW]], first, axis=0)
            if stage.residual is not None:
                leads[stage.residual][stage.places] |= out
        return leads

    def tiers(self, target: int) -> dict[str, np.ndarray]:
        """What each place depends on, seen from pixel `target` of the window: index into `TIERS`, int [places] a value.

        0 constant: no pixel. 1: pixels in rows above the target's only. 2: some pixel of the target's row. 3: the pixel
        just before the target, the last one drawn.
        """
        start, depends = target // self.patch * self.patch, self.dependencies()
        result = {}
        for name, on in depends.items():
            tier = np.where(on.any(axis=1), 1, 0)
            tier[on[:, start:].any(axis=1)] = 2
            if target > start:
                tier[on[:, target - 1]] = 3
            result[name] = tier
        return result

    def macs(self) -> int:
        """Multiply-adds of one window."""
        return sum(int(stage.tap_macs().sum()) for stage in self.stages)

    def macs_by_tier(self, target: int) -> list[int]:
        """Multiply-adds of one window whose tap depends on: nothing, rows above, the current row, the last pixel; [4]."""
        tiers, result = self.tiers(target), np.zeros(4, np.int64)
        for stage in self.stages:
            macs = stage.tap_macs()
            for index, source in enumerate(stage.sources):
                mine = stage.taps[:, SOURCE] == index
                np.add.at(result, tiers[source.value][stage.taps[mine, PLACE]], macs[mine])
        return [int(count) for count in result]

    def validate(self) -> Plan:
        """Raise an `SpxError` unless every index is in range and every place is computed before it is read; returns the plan."""
        require(set(self.inputs) <= self.values.keys(), "plan.inputs", "names of values", self.inputs)
        known = {name: np.zeros(value.places, bool) for name, value in self.values.items()}
        for name in self.inputs:
            known[name][:] = True
        for stage in self.stages:
            self._validate_stage(stage, known)
            known[stage.output][stage.places] = True
        computed = self.output in known and known[self.output].any()
        require(bool(computed), f"plan.output {self.output}", "a value that some stage computes", "none")
        return self

    def _validate_stage(self, stage: Stage, known: dict[str, np.ndarray]) -> None:
        def check(condition, what: str, expected: str, got: object) -> None:
            require(bool(condition), f"plan stage {stage.name}: {what}", expected, got)

        def within(what: str, numbers: np.ndarray, end: int) -> None:
            check(numbers.dtype.kind == "i", what, "integers", numbers.dtype)
            check(not len(numbers) or (numbers.min() >= 0 and numbers.max() < end), what, f"0 to {end - 1}", numbers)

        check(stage.output in self.values, "output", "the name of a value", stage.output)
        out = self.values[stage.output]
        gate = 1 if stage.residual is None else 2
        check(stage.bias.ndim == 2, "bias", "shape [R, outputs]", stage.bias.shape)
        check(stage.outputs == gate * out.channels, "bias", f"{gate * out.channels} outputs", stage.outputs)
        check(
            stage.bias_row.shape == stage.places.shape, "bias_row", f"shape {stage.places.shape}", stage.bias_row.shape
        )
        within("places", stage.places, out.places)
        within("bias_row", stage.bias_row, len(stage.bias))
        check(not known[stage.output][stage.places].any(), "places", "places not computed before", "some twice")
        if stage.latent is not None:
            expected = (self.latent, stage.outputs)
            check(stage.latent.shape == expected, "latent", f"shape {expected}", stage.latent.shape)
        check(stage.taps.ndim == 2 and stage.taps.shape[1] == 4, "taps", "shape [T, 4]", stage.taps.shape)
        within("taps, row", stage.taps[:, ROW], len(stage.places))
        within("taps, source", stage.taps[:, SOURCE], len(stage.sources))
        check((np.diff(stage.taps[:, ROW]) >= 0).all(), "taps", "sorted by row", "another order")
        for index, source in enumerate(stage.sources):
            check(source.value in self.values, "source", "the name of a value", source.value)
            check(source.form in FORMS, "form", " or ".join(FORMS), source.form)
            value = self.values[source.value]
            inputs = value.channels * (2 if source.form == "concat_elu" else 1)
            fits = source.weights.ndim == 3 and source.weights.shape[1:] == (inputs, stage.outputs)
            check(
                fits, f"weights of {source.value}", f"shape [blocks, {inputs}, {stage.outputs}]", source.weights.shape
            )
            taps = stage.taps[stage.taps[:, SOURCE] == index]
            within(f"taps, place of {source.value}", taps[:, PLACE], value.places)
            within(f"taps, block of {source.value}", taps[:, BLOCK], len(source.weights))
            missing = taps[~known[source.value][taps[:, PLACE]], PLACE]
            check(
                not len(missing),
                f"places of {source.value}",
                "computed before they are read",
                f"not computed: {missing}",
            )
        if stage.residual is not None:
            check(stage.residual in self.values, "residual", "the name of a value", stage.residual)
            check(self.values[stage.residual] == out, "residual", f"a value like {out}", self.values[stage.residual])
            check(
                known[stage.residual][stage.places].all(), "residual", "computed before it is read", "some places not"
            )

    def save(self, path: str | Path) -> None:
        """Write the plan to a .npz file."""
        arrays, stages = {}, []
        for number, stage in enumerate(self.stages):
            for name in ("places", "taps", "bias", "bias_row", "latent"):
                if getattr(stage, name) is not None:
                    arrays[f"{number}.{name}"] = getattr(stage, name)
            sources = []
            for index, source in enumerate(stage.sources):
                arrays[f"{number}.weights.{index}"] = source.weights
                sources.append([source.value, source.form])
            stages.append({"name": stage.name, "output": stage.output, "residual": stage.residual, "sources": sources})
        header = {
            "version": FILE_VERSION, "patch": self.patch, "latent": self.latent, "inputs": self.inputs, "output": self.output,
            "values": {name: asdict(value) for name, value in self.values.items()}, "stages": stages, "about": self.about,
        }  # fmt: skip
        with open(path, "wb") as file:
            np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read and validate a plan that `save` wrote.

        Raises:
            SpxError: for a file that is none, or is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            header = json.loads(arrays.pop("header").tobytes())
            require(header["version"] == FILE_VERSION, f"{path}: version", str(FILE_VERSION), header["version"])
            stages = []
            for number, stage in enumerate(header["stages"]):
                names = ("places", "taps", "bias", "bias_row", "latent")
                parts = {name: arrays.get(f"{number}.{name}") for name in names}
                sources = tuple(
                    Source(value, form, arrays[f"{number}.weights.{index}"])
                    for index, (value, form) in enumerate(stage["sources"])
                )
                stages.append(Stage(stage["name"], stage["output"], sources, **parts, residual=stage["residual"]))
            values = {name: Value(**value) for name, value in header["values"].items()}
            plan = cls(
                header["patch"],
                header["latent"],
                values,
                tuple(header["inputs"]),
                header["output"],
                tuple(stages),
                header["about"],
            )
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise SpxError(
                f"{path}: expected a plan written by Plan.save, got {type(error).__name__}: {error}"
            ) from error
        return plan.validate()
