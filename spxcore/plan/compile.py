"""From a trained network to its plan: the layers of `spxcore.network.PixelCNN` as stages, weight norm and constants folded.

`Builder` is what other networks, such as those of a whole image, are compiled with too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np

from ..config import NetworkConfig
from ..engines.base import Weights
from ..errors import require
from .execute import form_of
from .model import ROW, SOURCE, Plan, Source, Stage, Value

# Taps before they belong to a stage, int [T, 3]: output place, source place, weight block.
Connections = np.ndarray


def _grid(side: int, kernel: tuple[int, int], shift: tuple[int, int] = (0, 0)) -> tuple[np.ndarray, ...]:
    """y, x, i, j of every output place (from row shift[0] and column shift[1] on) and every place of the kernel, in order."""
    axes = np.arange(shift[0], side), np.arange(shift[1], side), np.arange(kernel[0]), np.arange(kernel[1])
    return tuple(a.ravel() for a in np.meshgrid(*axes, indexing="ij"))


def _connections(rows: np.ndarray, places: np.ndarray, blocks: np.ndarray, there: np.ndarray) -> Connections:
    """Those of the candidates [T] that are `there`."""
    return np.stack([rows, places, blocks], axis=1)[there]


def convolution(
    side: int,
    kernel: tuple[int, int],
    left: int,
    stride: int = 1,
    shift: tuple[int, int] = (0, 0),
    top: int | None = None,
) -> Connections:
    """Connections of a convolution padded with zeros.

    Args:
        side: of the output map; the input's is `stride` times that.
        kernel: (height, width).
        left: zeros padded on the left.
        stride: of both axes.
        shift: rows and columns by which the result is moved down and right afterwards; what moves in is zero.
        top: zeros padded on top; None for height - 1, as the shifted convolutions have.
    """
    y, x, i, j = _grid(side, kernel, shift)
    at_y = (y - shift[0]) * stride + i - (kernel[0] - 1 if top is None else top)
    at_x = (x - shift[1]) * stride + j - left
    side_in = side * stride
    inside = (at_y >= 0) & (at_y < side_in) & (at_x >= 0) & (at_x < side_in)
    return _connections(y * side + x, at_y * side_in + at_x, i * kernel[1] + j, inside)


def transposed(side: int, kernel: tuple[int, int], crop: int) -> Connections:
    """Connections of a transposed convolution of stride 2 to `side` x `side`, `crop` columns cut off on the left."""
    y, x, i, j = _grid(side, kernel)
    at_y, at_x = y - i, x + crop - j  # twice the source's coordinates
    inside = (at_y >= 0) & (at_y < side) & (at_x >= 0) & (at_x < side) & (at_y % 2 == 0) & (at_x % 2 == 0)
    return _connections(y * side + x, at_y // 2 * (side // 2) + at_x // 2, i * kernel[1] + j, inside)


def pointwise(side: int) -> Connections:
    """Connections of a 1x1 convolution."""
    every = np.arange(side * side)
    return np.stack([every, every, np.zeros_like(every)], axis=1)


# Something a stage reads: value, form, weights [blocks, inputs, outputs], connections.
Read = tuple[str, str, np.ndarray, Connections]


class Builder:
    """A plan in the making: layers added one after the other, as a module's `forward` runs them.

    Args:
        tensors: arrays by the names of the module's `state_dict()`.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray]):
        self.tensors = tensors
        self.values: dict[str, Value] = {}
        self.stages: list[Stage] = []

    def tensor(self, name: str) -> np.ndarray:
        """A tensor as float32."""
        require(
            name in self.tensors,
            f"weights: {name}",
            "a tensor",
            "none",
            "the weights do not belong to this configuration",
        )
        return np.asarray(self.tensors[name], np.float32)

    def blocks(self, name: str) -> np.ndarray:
        """Weight g v / ||v|| of a weight-normalised layer (Salimans & Kingma 2016) as [blocks, inputs, outputs]."""
        v = self.tensor(f"{name}.v").astype(np.float64)
        w = v * (self.tensor(f"{name}.g") / np.sqrt((v**2).sum(axis=(1, 2, 3))))[:, None, None, None]
        return w.transpose(2, 3, 1, 0).reshape(-1, w.shape[1], w.shape[0]).astype(np.float32)

    def value(self, name: str, side: int, channels: int) -> str:
        """Declare a value."""
        self.values[name] = Value(side, channels)
        return name

    def stage(
        self, name: str, output: str, reads: Sequence[Read], bias=None, bias_row=None, latent=None, residual=None
    ) -> str:
        """Add a stage for all places of `output`; the other arguments as of `Stage`."""
        places = self.values[output].places
        taps = [np.insert(read[3], 1, number, axis=1) for number, read in enumerate(reads)]
        taps = np.concatenate(taps).astype(np.int32)
        taps = taps[np.lexsort((taps[:, SOURCE], taps[:, ROW]))]
        sources = tuple(Source(*read[:3]) for read in reads)
        if bias is None:
            bias = self.tensor(f"{name}.bias")[None]
        if bias_row is None:
            bias_row = np.zeros(places, np.int32)
        every = np.arange(places, dtype=np.int32)
        self.stages.append(Stage(name, output, sources, every, taps, bias, bias_row, latent, residual))
        return output

    def layer(self, name: str, x: str, form: str, side: int, connections: Connections) -> str:
        """A weight-normalised convolution of one value."""
        w = self.blocks(name)
        self.value(name, side, w.shape[2])
        return self.stage(name, name, [(x, form, w, connections)])

    def gated(
        self,
        name: str,
        x: str,
        connections: Connections,
        aux: tuple[str, ...] = (),
        places: Sequence[Read] = (),
        latent: np.ndarray | None = None,
    ) -> str:
        """A `GatedResnet` layer.

        Args:
            name: of the layer.
            x: value it adds to.
            connections: of its two convolutions.
            aux: auxiliary inputs, side by side through one 1x1 convolution.
            places: what else is added before the gate.
            latent: float32 [Z, 2 filters], multiplied by the code and added before the gate.
        """
        side, nf = self.values[x].side, self.values[x].channels
        mid, out = self.value(f"{name}.mid", side, nf), self.value(name, side, nf)
        reads = [(x, "concat_elu", self.blocks(f"{name}.conv_in"), connections)]
        bias = self.tensor(f"{name}.conv_in.bias")
        if aux:
            w = self.blocks(f"{name}.nin_aux")
            bias = bias + self.tensor(f"{name}.nin_aux.bias")
            # concat_elu of several inputs side by side: all their elu(x), then all their elu(-x).
            halves = w.reshape(1, 2, len(aux), nf, nf)
            reads += [
                (a, "concat_elu", halves[:, :, i].reshape(1, 2 * nf, nf), pointwise(side)) for i, a in enumerate(aux)
            ]
        self.stage(f"{name}.conv_in", mid, reads, bias[None])
        reads = [(mid, "concat_elu", self.blocks(f"{name}.conv_out"), connections), *places]
        return self.stage(f"{name}.conv_out", out, reads, latent=latent, residual=x)

    def plan(self, size: int, latent: int, inputs: tuple[str, ...], output: str, about: dict) -> Plan:
        """The plan of all layers so far; the arguments are fields of `Plan`."""
        return Plan(size, latent, self.values, inputs, output, tuple(self.stages), about).validate()


class _Compiler(Builder):
    """Walks through the network as `PixelCNN.forward` does, adding a stage a layer."""

    def __init__(self, weights: Weights):
        super().__init__(weights.tensors)
        self.config = weights.config
        self.layers = [0, 0, 0]  # gated layers so far at each resolution: their slice of the conditioning

    def input_layer(self, output: str, parts: list[tuple[str, Connections]]) -> str:
        """Sum of convolutions of the pixels and a channel of ones, which is zero where it is padded.

        The ones, and the biases, are there only at places that a part reaches, so they fold into a bias a place.
        """
        config = self.config
        self.value(output, config.patch, config.filters)
        bias = np.zeros((config.patch**2, config.filters), np.float32)
        reads = []
        for name, connections in parts:
            w = self.blocks(name)
            bias[np.unique(connections[:, 0])] += self.tensor(f"{name}.bias")
            np.add.at(bias, connections[:, 0], w[connections[:, 2], config.channels])
            reads.append(("x", "raw", w[:, : config.channels], connections))
        rows, bias_row = np.unique(bias, axis=0, return_inverse=True)
        return self.stage(output, output, reads, rows, bias_row.reshape(-1).astype(np.int32))

    def conditioned(self, name: str, k: int, x: str, connections: Connections, aux: tuple[str, ...] = ()) -> str:
        """A gated layer at resolution k with what the network is told at each place and of the code."""
        config, nf = self.config, self.config.filters
        first = self.layers[k] * 2 * nf
        self.layers[k] += 1
        places, latent = [], None
        if config.place_inputs:
            v = self.tensor(f"conditioning.{k}.places")[first : first + 2 * nf]
            places.append((f"places.{k}", "raw", np.ascontiguousarray(v.T)[None], pointwise(config.resolutions()[k])))
        if config.latent:
            latent = np.ascontiguousarray(self.tensor(f"conditioning.{k}.latent")[first : first + 2 * nf].T)
        return self.gated(name, x, connections, aux, places, latent)

    def run(self) -> Plan:
        """The whole network, for all places: `PixelCNN.forward`, line by line."""
        config = self.config
        m, sides = config.patch, config.resolutions()
        inputs = [self.value("x", m, config.channels)]
        if config.place_inputs:
            inputs += [self.value(f"places.{k}", side, config.place_inputs) for k, side in enumerate(sides)]
        u_conv = [convolution(side, (2, 3), 1) for side in sides]
        ul_conv = [convolution(side, (2, 2), 1) for side in sides]

        us = [self.input_layer("u_in", [("u_in", convolution(m, (2, 3), 1, shift=(1, 0)))])]
        above, left = convolution(m, (1, 3), 1, shift=(1, 0)), convolution(m, (2, 1), 0, shift=(0, 1))
        uls = [self.input_layer("ul_in", [("ul_in_above", above), ("ul_in_left", left)])]
        for k in range(3):
            for i in range(config.layers):
                us.append(self.conditioned(f"u_down.{k}.{i}", k, us[-1], u_conv[k]))
                uls.append(self.conditioned(f"ul_down.{k}.{i}", k, uls[-1], ul_conv[k], (us[-1],)))
            if k < 2:
                half = sides[k + 1]
                us.append(self.layer(f"u_shrink.{k}", us[-1], "raw", half, convolution(half, (2, 3), 1, stride=2)))
                uls.append(self.layer(f"ul_shrink.{k}", uls[-1], "raw", half, convolution(half, (2, 2), 1, stride=2)))

        u, ul = us.pop(), uls.pop()
        for k in (2, 1, 0):
            for i in range(config.gated_layers(k) - config.layers):
                u = self.conditioned(f"u_up.{k}.{i}", k, u, u_conv[k], (us.pop(),))
                ul = self.conditioned(f"ul_up.{k}.{i}", k, ul, ul_conv[k], (u, uls.pop()))
            if k > 0:
                u = self.layer(f"u_grow.{k - 1}", u, "raw", sides[k - 1], transposed(sides[k - 1], (2, 3), 1))
                ul = self.layer(f"ul_grow.{k - 1}", ul, "raw", sides[k - 1], transposed(sides[k - 1], (2, 2), 0))
        self.value("params", m, config.outputs)
        self.stage("nin_out", "params", [(ul, "elu", self.blocks("nin_out"), pointwise(m))])
        about = {**asdict(config), "sizes": list(config.sizes)}
        return self.plan(m, config.latent, tuple(inputs), "params", about)


def compile_network(weights: Weights, fold: bool = True) -> Plan:
    """The plan of a network for all places of a window; `Plan.cone` restricts it to some.

    Args:
        weights: of a `PixelCNN`.
        fold: fold what is constant at compile time into biases (`fold_constants`).

    Raises:
        SpxError: if the weights do not fit their configuration.
    """
    require(
        isinstance(weights.config, NetworkConfig), "weights.config", "a NetworkConfig", type(weights.config).__name__
    )
    plan = _Compiler(weights).run()
    return fold_constants(plan) if fold else plan


def fold_constants(plan: Plan) -> Plan:
    """Turn taps of places that no input reaches into biases.

    Above the first row and left of the first column the streams see padding only, so some places are the same in every window:
    a few with coordinates or a latent, every pixel-independent one without.
    """
    fixed: dict[str, dict[int, np.ndarray]] = {name: {} for name in plan.values}
    stages = []
    for stage in plan.stages:
        bias = stage.bias[stage.bias_row].astype(np.float64)
        constants = [fixed[source.value] for source in stage.sources]
        kept = np.array([place not in constants[s] for _, s, place, _ in stage.taps.tolist()], bool)
        for row, s, place, block in stage.taps[~kept].tolist():
            bias[row] += form_of(constants[s][place], stage.sources[s].form) @ stage.sources[s].weights[block]
        varies = np.zeros(len(stage.places), bool)
        varies[stage.taps[kept, ROW]] = True
        for row in np.flatnonzero(~varies):
            place = int(stage.places[row])
            if stage.latent is not None or (stage.residual is not None and place not in fixed[stage.residual]):
                continue
            value = bias[row]
            if stage.residual is not None:
                a, b = np.split(value, 2)
                value = fixed[stage.residual][place] + a / (1 + np.exp(-b))
            fixed[stage.output][place] = value
        rows, bias_row = np.unique(bias.astype(np.float32), axis=0, return_inverse=True)
        stages.append(replace(stage, taps=stage.taps[kept], bias=rows, bias_row=bias_row.reshape(-1).astype(np.int32)))
    return replace(plan, stages=tuple(stages)).validate()
