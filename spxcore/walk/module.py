"""A walk read as a torch module: forward runs the walk itself, on tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..graph import Value
from .language import Kernel
from .shapes import Shapes


class Convolution(nn.Module):
    """Convolution with weight g v / ||v|| (Salimans & Kingma 2016), explicit zero padding, and data-dependent initialisation.

    Args:
        v: initial direction, [outputs, inputs, kernel height, kernel width].
        kernel: what a place sees.
        init_scale: standard deviation of each output channel after initialisation.
        exact: computed in fp32 under autocast too (what residuals add up on, and the mixture's parameters).
    """

    def __init__(self, v: Tensor, kernel: Kernel, init_scale: float = 1.0, exact: bool = False):
        super().__init__()
        self.kernel, self.init_scale, self.exact, self.initialising = kernel, init_scale, exact, False
        self.v = nn.Parameter(v)
        self.g = nn.Parameter(torch.ones(len(v)))
        self.bias = nn.Parameter(torch.zeros(len(v)))

    def extra_repr(self) -> str:
        return f"{self.v.shape[1]}, {self.v.shape[0]}, {self.kernel}"

    def weight(self) -> Tensor:
        """The weight with the norm folded in, [outputs, inputs, kernel height, kernel width]."""
        return self.v * (self.g / self.v.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)

    def _convolve(self, x: Tensor) -> Tensor:
        k = self.kernel
        if k.up:
            y = F.conv_transpose2d(x, self.weight().transpose(0, 1), self.bias, k.stride, output_padding=k.stride - 1)
            return y[:, :, : x.shape[2] * k.stride, k.crop : k.crop + x.shape[3] * k.stride]
        if any(k.pad):
            x = F.pad(x, k.pad)
        return F.conv2d(x, self.weight(), self.bias, k.stride)

    @torch.no_grad()
    def _initialise(self, x: Tensor) -> None:
        """Set g and bias so that each output channel has mean 0 and standard deviation init_scale on this batch."""
        self.g.fill_(1.0)
        self.bias.zero_()
        y = self._convolve(x)
        std = y.std(dim=(0, 2, 3))
        # A channel that sees only zeros (stream u where the patch is one place wide) has nothing to scale.
        self.g.copy_(torch.where(std > 1e-5, self.init_scale / std, self.init_scale))
        self.bias.copy_(-y.mean(dim=(0, 2, 3)) * self.g)

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, outputs, H', W']."""
        if self.initialising:
            self._initialise(x)
        if self.exact:
            with torch.autocast(x.device.type, enabled=False):
                return self._convolve(x.to(self.v.dtype))
        return self._convolve(x)


@contextmanager
def data_dependent_initialisation(module: nn.Module) -> Iterator[None]:
    """Inside, one forward pass through `module` initialises every weight-normalised layer from what it sees."""
    layers = [layer for layer in module.modules() if isinstance(layer, Convolution)]
    for layer in layers:
        layer.initialising = True
    try:
        yield
    finally:
        for layer in layers:
            layer.initialising = False


def tanh_gate(x: Tensor, dim: int) -> Tensor:
    """tanh(a) sigmoid(b), a and b being the halves of x along an axis."""
    a, b = x.chunk(2, dim=dim)
    return torch.tanh(a) * torch.sigmoid(b)


class _Build(Shapes):
    """Shapes, but every layer and tensor becomes a submodule or parameter of `module` at its dotted name."""

    def __init__(self, module: Module):
        super().__init__()
        self.module = module
        self.seed = int(torch.randint(1 << 62, ()))

    def initial(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Initial numbers of a tensor; they depend on torch's seed and the name, not on the order of the layers."""
        digest = hashlib.blake2b(f"{self.seed} {name}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
        return torch.randn(shape, generator=generator) * 0.05

    def _parent(self, name: str) -> tuple[nn.Module, str]:
        *path, last = name.split(".")
        parent: nn.Module = self.module
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = getattr(parent, part)
        return parent, last

    def layer(self, name, inputs, outputs, kernel, level, **options):
        shape = (outputs, inputs, *kernel.size)
        super().tensor(f"{name}.v", shape)
        parent, last = self._parent(name)
        parent.add_module(last, Convolution(self.initial(f"{name}.v", shape), kernel, **options))
        self.module.levels[name] = level

    def tensor(self, name, shape):
        super().tensor(name, shape)
        parent, last = self._parent(name)
        parent.register_parameter(last, nn.Parameter(self.initial(name, shape)))


class _Run:
    """The words, on tensors; see `language`."""

    def __init__(self, module: Module, inputs: Mapping[str, Tensor], code: Tensor | None):
        self.module, self.inputs, self.z = module, inputs, code
        self.size: tuple[int, int] | None = None  # of the image, in pixels, once an input of its size was read

    def layer(self, name: str) -> Any:
        """The submodule of a dotted name, whatever stands there now; `get_submodule` takes 18 times as long."""
        module: Any = self.module
        for part in name.split("."):
            module = module._modules[part]
        return module

    def input(self, name, channels, level=0, ones=False, drawn=False):
        x = self.inputs[name]
        if level == 0:
            self.size = x.shape[2], x.shape[3]
        return torch.cat([x, torch.ones_like(x[:, :1])], dim=1) if ones else x

    def code(self, channels):
        if not channels:
            return None
        assert self.z is not None, "a network with a code is called with one"
        return self.z[:, :, None, None]

    def told(self, name, parts, channels, places=None, code=None):
        if places is None and code is None:
            return [None] * parts
        # In fp32 under autocast too: bf16 has six numbers for the eight columns of a window of an image of 1400 pixels.
        of, sums = self.layer(name), []
        with torch.autocast(next(self.module.parameters()).device.type, enabled=False):
            if places is not None:
                sums.append(F.conv2d(places.to(of.places.dtype), of.places[:, :, None, None]))
            if code is not None:
                sums.append(F.linear(code.flatten(1).to(of.latent.dtype), of.latent)[:, :, None, None])
            h = sums[0] if len(sums) == 1 else sums[0] + sums[1]
        return [h] if parts == 1 else list(h.split(channels, dim=1))

    def conv(self, name, x, outputs, kernel=None, **options):
        y = self.layer(name)(x)
        if (
            kernel and kernel.up and self.size
        ):  # of two places that a halved map makes of its last one, an odd map has the first
            height, width = Value(outputs, self.module.levels[name]).size(*self.size)
            y = y[:, :, :height, :width]
        down, right = kernel.shift if kernel else (0, 0)
        return F.pad(y, (right, 0, down, 0))[:, :, : y.shape[2], : y.shape[3]] if down or right else y

    def concat_elu(self, *values):
        x = values[0] if len(values) == 1 else torch.cat(values, dim=1)
        return F.elu(torch.cat([x, -x], dim=1))

    elu, relu = staticmethod(F.elu), staticmethod(F.relu)

    def tanh_gate(self, x):
        return tanh_gate(x, 1)

    def dropout(self, x, p):
        return F.dropout(x, p, self.module.training)

    def gate(self, name, x, y, h=None):
        if self.module.fused and x is not None:
            return self.module.fused(x, y, h)
        a, b = (y if h is None else y + h).chunk(2, dim=1)
        y = a * torch.sigmoid(b)
        return y if x is None else x + y


class Module(nn.Module):
    """A network for training, from its walk.

    Args:
        walk: a function of `net`; `functools.partial(pixelcnnpp, c=config)` can be pickled.
    """

    def __init__(self, walk: Callable):
        super().__init__()
        self.walk = walk
        self.levels: dict[str, int | None] = {}  # of each convolution's result
        self.fused: Callable | None = None  # what runs a gate instead: `spxcore.kernels.gated.gate` on a GPU
        walk(_Build(self))

    def forward(self, inputs: Mapping[str, Tensor], code: Tensor | None = None):
        """inputs {name: [B, C, H, W]}, code [B, Z] -> what the walk returns, [B, outputs, H', W']."""
        return self.walk(_Run(self, inputs, code))
