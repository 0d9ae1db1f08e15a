"""Model: one object a family, whose defaults already make a plain autoregressive model; and what is known of one trained model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from spxcore import engines
from spxcore.canvas import Given
from spxcore.draw import score as score_drawing
from spxcore.drawing import Drawing, Earlier, Round
from spxcore.engines import Engine
from spxcore.errors import SpxError, kind_of, require
from spxcore.feeds import Feed, Pixels, unit_levels
from spxcore.heads import Head
from spxcore.schedules import Raster, Schedule
from spxcore.walk.network import Network
from spxcore.walk.shapes import shapes_of

from ..io.reading import kind
from ..io.resize import resize
from ..io.tensors import CONFIG, Tensor, checked, read_folder, write_tensors
from ..request import Request, check_images
from . import registry, settings
from .likelihood import Likelihood, Progress, Score

if TYPE_CHECKING:
    from torch import nn

Walk = Callable
# `spxcore.engines.evaluate`, or another of its kind: (network, height, width, inputs, code) -> [N, places, P].
Evaluate = Callable[..., np.ndarray]

# The family of a config.json that names none, as those of the first checkpoints.
FIRST_FAMILY = "spatial"

# Images that are scored at once; each keeps the parameters of all its pixels.
_BATCH = 100


class Model:
    """A family of models. A family must say `Config`, `networks` and `head`. Everything else has a default: that of an
    autoregressive model of a single network, "network", whose only input is the pixels.

    Attributes:
        name: as `registry` has it.
        Config: frozen dataclass, what config.json holds. The default `size` wants its `side`, that of the images.
        Settings: frozen dataclass, how it is trained: `models.settings.Settings` with the family's own fields.
        Training: dotted name of its class of `models.training.Training`. A name, so that torch is imported by a training alone.
        exact: whether a score with codes is that of the image itself. Else it is an upper bound.
        presets: of the default `preset`: a name and the settings that it replaces.
    """

    name: str
    Config: type
    Settings: type[settings.Settings] = settings.Settings
    Training: str = "spx.models.training.Training"
    exact: bool = False
    presets: ClassVar[Mapping[str, dict]] = {}

    # ---- what a model of the family is --------------------------------------------------------------------------------

    def config(self, fields: dict):
        """The `Config` of config.json's fields.

        Raises:
            SpxError, TypeError, ValueError: if they describe no model.
        """
        return self.Config(**fields)

    def fields(self, config) -> dict:
        """config.json's fields: plain values."""
        return asdict(config)

    def networks(self, config) -> dict[str, Walk]:
        """The walk of each network, by the prefix of its tensors' names."""
        raise NotImplementedError

    def extras(self, config) -> dict[str, tuple[int, ...]]:
        """Shapes of tensors that no walk reads, by name."""
        return {}

    def whole(self, config) -> frozenset[str]:
        """Names of those of `extras` that hold whole numbers."""
        return frozenset()

    def shapes(self, config) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor of a model."""
        found = {f"{p}.{name}": s for p, walk in self.networks(config).items() for name, s in shapes_of(walk).items()}
        return found | self.extras(config)

    def head(self, config) -> Head:
        """The distribution of a pixel."""
        raise NotImplementedError

    def schedule(self, config) -> Schedule:
        """The order in which pixels are drawn."""
        return Raster()

    def size(self, config) -> int:
        """Side of the training images in pixels. Images are drawn at this size by default."""
        return config.side

    def side(self, config, prefix: str) -> int:
        """Side in pixels, window or image, of what the network of that prefix sees."""
        return self.size(config)

    def tiny(self):
        """A `Config` of which a test can list all images of two levels: at most 16 numbers an image. Every family has one."""
        raise NotImplementedError

    # ---- drawing ------------------------------------------------------------------------------------------------------

    def offers(self, config) -> frozenset[str]:
        """Those of `Request.OPTIONS` that a model understands. `drawing` reads them; it refuses a "label" that is no class."""
        return frozenset({"given"})

    def drawing(self, checkpoint: Checkpoint, request: Request, evaluate: Evaluate) -> Drawing:
        """What is drawn for a checked request.

        Args:
            checkpoint: the model.
            request: of a size that the schedule can draw.
            evaluate: runs networks that do not draw.
        """
        config = checkpoint.config

        def feeds(earlier: Earlier, batch: np.ndarray) -> dict[str, Feed]:
            return self.feeds(checkpoint, request, batch)

        size, network = (request.height, request.width), checkpoint.networks["network"]
        only = Round("image", size, network, self.head(config), self.schedule(config), feeds, request.code)
        given = {} if request.given is None else self.split(config, request.given.pixels, request.given.mask)
        return Drawing((only,), np.arange(request.n), request.seed, request.sampling, given)

    def feeds(self, checkpoint: Checkpoint, request: Request, batch: np.ndarray) -> dict[str, Feed]:
        """What fills the network's inputs, for the images with indices `batch`."""
        return {"x": Pixels(unit_levels(self.head(checkpoint.config).levels))}

    def split(self, config, images: np.ndarray, mask: np.ndarray) -> dict[str, Given]:
        """Finished images as the given pixels of every round, by its name.

        Args:
            images: [N, H, W, C] levels.
            mask: bool [H, W] or [N, H, W], which of them are given.
        """
        return {"image": Given(images, mask)}

    def codes(
        self, checkpoint: Checkpoint, images: np.ndarray, evaluate: Evaluate, refine: int = 0
    ) -> np.ndarray | None:
        """The code of each image uint8 [N, H, W, C], by which it is drawn anew: float32 [N, Z]; None without codes.

        Args:
            refine: gradient steps that bring the codes nearer to their images.
        """
        return None

    def paid_codes(
        self, checkpoint: Checkpoint, images: np.ndarray, evaluate: Evaluate, seed: int = 0
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Codes for a score of images uint8 [N, H, W, C], and what each costs: float32 [N, Z] or None, nats [N]. `drawing` gets them as
        the request's `code`."""
        return None, np.zeros(len(images))

    # ---- evaluation ---------------------------------------------------------------------------------------------------

    def score(
        self,
        checkpoint: Checkpoint,
        images: np.ndarray,
        seed: int = 0,
        engine: str | Engine = "auto",
        progress: Progress | None = None,
    ) -> Score:
        """Bits per dimension of images. A model with a code adds the code's bits, which makes an upper bound.

        Args:
            checkpoint: the model.
            images: [N, H, W, C] levels, uint8.
            seed: of the codes' noise.
            engine: a name of `spxcore.engines.CHOICES`, or an engine.
            progress: told of the part "likelihood".

        Raises:
            SpxError: for images that are none of the model's.
        """
        config = checkpoint.config
        head = self.head(config)
        _, height, width, _ = check_images(images, head.channels).shape
        self.schedule(config).check_size(height, width)
        codes, nats = self.paid_codes(checkpoint, images, engines.evaluate, seed)
        dimensions = images[0].size
        total, pixel_bits = np.zeros(len(images)), np.zeros(images.shape[:3], np.float32)
        for start in range(0, len(images), _BATCH):
            some = slice(start, start + _BATCH)
            request = Request(height, width, n=len(images[some]), code=None if codes is None else codes[some])
            offered = self.offers(config) | {"code"}  # the family's own codes, whether or not a user may give one
            drawing = self.drawing(checkpoint, request.check(offered, head.channels), engines.evaluate)
            rounds = self.split(config, images[some], np.ones((height, width), bool))
            found = score_drawing(drawing, {name: given.pixels for name, given in rounds.items()}, engine)
            total[some] = sum(part.sum(axis=(1, 2), dtype=np.float64) for part in found.values())
            pixel_bits[some] = sum(part for part in found.values() if part.shape[1:] == (height, width))
            if progress:
                progress("likelihood", min(1.0, (start + _BATCH) / len(images)))
        per_bit = -1 / math.log(2)
        code_bits = nats / math.log(2) / dimensions
        return Score(per_bit * total / dimensions + code_bits, per_bit * pixel_bits / head.channels, code_bits)

    def bits(
        self,
        checkpoint: Checkpoint,
        images: np.ndarray,
        seed: int = 0,
        engine: str | Engine = "auto",
        refine: int = 0,
        progress: Progress | None = None,
    ) -> Likelihood:
        """What `spx-eval` reports of images' likelihood; the default is their score.

        Args:
            images: uint8 [N, H, W, C].
            seed: of the codes' noise.
            engine: runs the network.
            refine: gradient steps that bring each image's code nearer to it, where `offers` has "refine".
            progress: told of the part "likelihood".
        """
        found = self.score(checkpoint, images, seed, engine, progress)
        prior = "own" if found.code_bits.any() and not self.exact else "none"
        return Likelihood(found.bits - found.code_bits, found.code_bits, found.pixel_bits.mean(axis=0), prior)

    def published(self, config, data: str) -> dict | None:
        """The figures that a paper gives for such a model on a data set, as plain values; None if there are none.

        Returns:
            "network": its name in the paper; "bits": bits per dimension; "bound": whether that is an upper bound; and "ms_ssim",
            "confidence", "accuracy": by the size as a string, a number or a pair of a mean and its deviation.
        """
        return None

    def rows(self) -> list[Row]:
        """What `spx-reproduce` can train and evaluate, in the order of its tables."""
        return []

    def real(self, config, images: np.ndarray, size: int) -> np.ndarray:
        """What drawings of a size should look like: real images uint8 [N, H, H, C] -> uint8 [N, size, size, C]."""
        if size == images.shape[1]:
            return images
        unit = images.transpose(0, 3, 1, 2) / np.float32(127.5) - 1
        return ((resize(unit, size) + 1) * 127.5).round().astype(np.uint8).transpose(0, 2, 3, 1)

    def decoded(self, checkpoint: Checkpoint, images: np.ndarray) -> np.ndarray | None:
        """Images uint8 [N, H, W, C] as their codes alone give them, uint8 [N, h, w, C] of any size. None without codes."""
        return None

    def drawn_codes(
        self, checkpoint: Checkpoint, n: int, seed: int, *sets: np.ndarray
    ) -> tuple[np.ndarray, list[np.ndarray]] | None:
        """Codes to compare: those of samples 0 to n - 1 of a seed [n, Z], and for each image of each set uint8 [N, H, W, C] one that
        is drawn from its distribution [N, Z]; None without codes."""
        return None

    def with_prior(self, checkpoint: Checkpoint, prior: str) -> Checkpoint:
        """The same model with another prior over codes, by a name that the family knows: see `rows`."""
        raise SpxError(f"prior: expected the model's own, got {prior!r}")

    # ---- training -----------------------------------------------------------------------------------------------------

    def preset(self, name: str | None, **replaced) -> settings.Settings:
        """The settings of a preset's name, some of them replaced.

        Raises:
            SpxError: for an unknown preset or setting, or a value out of range.
        """
        if name is None or name not in self.presets:
            known = " or ".join(self.presets) or "a family that can be trained"
            raise SpxError(f"preset: expected {known}, got {name!r}")
        return self.Settings.of(**{"model": self.name, "preset": name, **self.presets[name], **replaced})

    def trained(self, settings: settings.Settings, channels: int, side: int) -> Any:
        """The `Config` that settings train on such images: what `Config` and `Settings` both have is taken from the settings."""
        known = {f.name for f in fields(self.Config)}
        found = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name in known}
        images = {"channels": channels, "side": side}
        return self.Config(**found | {name: value for name, value in images.items() if name in known})

    def untrained(self, config) -> nn.Module:
        """The torch module with random weights by torch's seed: each network at its prefix. `extras` are zeros."""
        import torch
        from torch import nn

        from spxcore.walk.module import Module

        whole = nn.Module()
        for prefix, walk in self.networks(config).items():
            *path, last = prefix.split(".")
            parent = whole
            for part in path:
                if not hasattr(parent, part):
                    parent.add_module(part, nn.Module())
                parent = getattr(parent, part)
            parent.add_module(last, Module(walk))
        for name, shape in self.extras(config).items():
            whole.register_buffer(name, torch.zeros(shape))
        return whole

    def module(self, checkpoint: Checkpoint) -> nn.Module:
        """The torch module with the checkpoint's tensors, in evaluation mode, on its device: each network at its prefix."""
        import torch

        whole = self.untrained(checkpoint.config)
        tensors = {name: torch.from_numpy(np.array(tensor)) for name, tensor in checkpoint.tensors.items()}
        for name in self.extras(checkpoint.config):
            whole.register_buffer(name, torch.empty_like(tensors[name]))
        whole.load_state_dict(tensors)
        return whole.to(checkpoint.device).eval()


class Savable(Protocol):
    """A torch module that can make a checkpoint of itself."""

    def checkpoint(self) -> Checkpoint:
        """Its configuration and weights."""

    def eval(self) -> nn.Module:
        """Itself, in evaluation mode."""


@dataclass(frozen=True)
class Start:
    """What several rows of `spx-reproduce` begin from: trained once, kept as a checkpoint.

    Attributes:
        name: of its folder.
        text: what it is.
        settings: how it is trained, "model" and "preset" among them.
        keep: the part of the trained model that rows begin from, as a checkpoint.
        settings_after: what a row that begins from it sets.
        replaceable: whether a checkpoint that the user names may stand in for it.
    """

    name: str
    text: str
    settings: dict
    keep: Callable[[Checkpoint], Checkpoint]
    settings_after: dict
    replaceable: bool = True


@dataclass(frozen=True)
class Row:
    """One row of the tables of `spx-reproduce`.

    Attributes:
        name: what --rows selects.
        group: the table that it stands in.
        text: what it is.
        settings: of its training, "model" and "preset" among them; the budget sets the steps.
        beside: what is published of it, see `Model.published`.
        of: name of the row whose trained model this one evaluates in another way; "" for a row that is trained.
        base: name of the row that it changes in one thing, which is repeated above its table; "" for none.
        prior: "" for the model's own, else as of `Model.with_prior`.
        temperature: of the pixels.
        share: of the budget, in multiples.
        start: what its training begins from.
        trial: settings of the short trial that finds out how many steps fit into minutes.
        refine: gradient steps on the codes of the images whose likelihood is computed.
    """

    name: str
    group: str
    text: str
    settings: dict
    beside: dict | None = None
    of: str = ""
    base: str = ""
    prior: str = ""
    temperature: float = 1.0
    share: float = 1.0
    start: Start | None = None
    trial: dict = field(default_factory=dict)
    refine: int = 0


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A trained model as NumPy arrays.

    Attributes:
        family: name in `registry`.
        config: the family's `Config`.
        tensors: arrays by the names of `Model.shapes`.
        about: free text fields on data, training and licence.
        device: where its torch module is, and what is computed with that: "cpu", "cuda" ... .
    """

    family: str
    config: Any
    tensors: Mapping[str, np.ndarray]
    about: dict = field(default_factory=dict)
    device: str = "cpu"

    @property
    def model(self) -> Model:
        """The family."""
        return registry.family(self.family)

    def part(self, prefix: str) -> dict[str, np.ndarray]:
        """The tensors whose names begin so, by the rest of their names."""
        return {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}

    @cached_property
    def networks(self) -> dict[str, Network]:
        """Every network by the prefix of its tensors' names; the same object whenever it is asked for."""
        walks = self.model.networks(self.config)
        return {prefix: Network(walk, self.part(f"{prefix}.")) for prefix, walk in walks.items()}

    def with_tensors(self, tensors: Mapping[str, Any]) -> Checkpoint:
        """The same model with other weights.

        Args:
            tensors: NumPy arrays or torch tensors, on any device, by the names of `tensors`: all of them, and no others. They are copied.

        Raises:
            SpxError: for a name, a shape or a type that is not the model's, NaN or infinity.
        """
        require(
            isinstance(tensors, Mapping), "tensors", "arrays by name, such as module.state_dict()", kind_of(tensors)
        )
        found = {name: _array(name, tensor) for name, tensor in tensors.items()}
        wanted = {name: Tensor(tensor.shape, tensor.dtype.kind in "iu") for name, tensor in self.tensors.items()}
        other = replace(self, tensors=checked("tensors", found, wanted, _OTHER, _DIVERGED))
        networks = {prefix: net.with_tensors(other.part(f"{prefix}.")) for prefix, net in self.networks.items()}
        other.__dict__["networks"] = networks  # engines reuse what they made of these
        return other

    def module(self) -> nn.Module:
        """The torch module, in evaluation mode, on `device`."""
        return self.model.module(self)

    @classmethod
    def read(cls, folder: Path) -> Checkpoint:
        """Read a folder, and check that its two files are whole and belong together.

        Raises:
            SpxError: for anything wrong with it, naming the file and what it should be.
        """

        def wanted(fields: dict) -> dict[str, Tensor]:
            try:
                family, config, _ = _described(fields)
                model = registry.family(family)
                whole, shapes = model.whole(config), model.shapes(config)
            except (SpxError, *_ODD) as error:
                why = (str(error) or type(error).__name__).splitlines()[0]
                raise SpxError(f"{folder / CONFIG}: not a model ({why})") from error
            return {name: Tensor(shape, name in whole) for name, shape in shapes.items()}

        fields, tensors = read_folder(folder, wanted)
        family, config, about = _described(fields)
        return cls(family, config, tensors, about)

    def fields(self) -> dict:
        """What config.json holds."""
        return {"family": self.family, **self.model.fields(self.config), "about": self.about}

    def write(self, folder: Path) -> None:
        """Write the folder's two files, each to a temporary name first.

        Raises:
            SpxError: if the folder cannot be written.
        """
        write_tensors(folder, self.fields(), self.tensors)


# What is wrong with tensors that a model refuses.
_OTHER = "all tensors of this model, as its module's state_dict() has them"
_DIVERGED = "the training diverged"


def _array(name: str, tensor: Any) -> np.ndarray:
    """An array, or a torch tensor of any type and device as one; bfloat16 as float32."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        tensor = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    if not isinstance(tensor, np.ndarray):
        raise SpxError(f"tensors: {name}: expected a NumPy array or a torch tensor, got {kind_of(tensor)}")
    return tensor


# What a family's `Config` may raise for fields of odd types, which config.json may hold.
_ODD = (TypeError, ValueError, ArithmeticError, AttributeError, LookupError)


def _described(fields: dict) -> tuple[str, object, dict]:
    """Family, `Config` and free text of config.json's fields.

    Raises:
        SpxError, or one of `_ODD`: if they describe no model.
    """
    fields = dict(fields)
    family, about = fields.pop("family", FIRST_FAMILY), fields.pop("about", {})
    require(isinstance(about, dict), "about", "an object", kind(about))
    return family, registry.family(family).config(fields), about
