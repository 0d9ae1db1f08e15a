"""From a trained network to its plan: the layers of `spxcore.network.PixelCNN` as stages, weight norm and constants folded."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from ..config import NetworkConfig
from ..engines.base import Weights
from ..errors import require
from .execute import form_of
from .model import Plan, Source, Stage, Value

# One tap before it belongs to a stage: output place, source place, weight block.
Connection = tuple[int, int, int]


def convolution(
    side: int, kernel: tuple[int, int], left: int, stride: int = 1, shift: tuple[int, int] = (0, 0)
) -> list[Connection]:
    """Connections of a convolution padded on top by its height - 1 and on the left by `left`, as the shifted ones are.

    Args:
        side: of the output map; the input's is `stride` times that.
        kernel: (height, width).
        left: zeros padded on the left.
        stride: of both axes.
        shift: rows and columns by which the result is moved down and right afterwards; what moves in is zero.
    """
    height, width = kernel
    found = []
    for y in range(shift[0], side):
        for x in range(shift[1], side):
            for i in range(height):
                for j in range(width):
                    at_y, at_x = (y - shift[0]) * stride + i - (height - 1), (x - shift[1]) * stride + j - left
                    if 0 <= at_y < side * stride and 0 <= at_x < side * stride:
                        found.append((y * side + x, at_y * side * stride + at_x, i * width + j))
    return found


def transposed(side: int, kernel: tuple[int, int], crop: int) -> list[Connection]:
    """Connections of a transposed convolution of stride 2 to `side` x `side`, `crop` columns cut off on the left."""
    height, width = kernel
    found = []
    for y in range(side):
        for x in range(side):
            for i in range(height):
                for j in range(width):
                    at_y, at_x = y - i, x + crop - j  # twice the source's coordinates
                    inside = 0 <= at_y < side and 0 <= at_x < side
                    if inside and at_y % 2 == 0 and at_x % 2 == 0:
                        found.append((y * side + x, at_y // 2 * (side // 2) + at_x // 2, i * width + j))
    return found


def pointwise(side: int) -> list[Connection]:
    """Connections of a 1x1 convolution."""
    return [(place, place, 0) for place in range(side * side)]


class _Compiler:
    """Walks through the network as `PixelCNN.forward` does, adding a stage a layer."""

    def __init__(self, weights: Weights):
        self.config, self.tensors = weights.config, weights.tensors
        self.values: dict[str, Value] = {}
        self.stages: list[Stage] = []
        self.layer = [0, 0, 0]  # gated layers so far at each resolution: their slice of the conditioning

    def tensor(self, name: str) -> np.ndarray:
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
        self.values[name] = Value(side, channels)
        return name

    def stage(self, name: str, output: str, reads, bias=None, bias_row=None, latent=None, residual=None) -> str:
        """Add a stage for all places of `output`. reads: (value, form, weights [blocks, inputs, outputs], connections) each."""
        places = self.values[output].places
        taps = [(row, s, at, block) for s, read in enumerate(reads) for row, at, block in read[3]]
        taps = np.array(sorted(taps, key=lambda tap: tap[:2]), np.int32).reshape(-1, 4)
        sources = tuple(Source(*read[:3]) for read in reads)
        if bias is None:
            bias = self.tensor(f"{name}.bias")[None]
        if bias_row is None:
            bias_row = np.zeros(places, np.int32)
        every = np.arange(places, dtype=np.int32)
        self.stages.append(Stage(name, output, sources, every, taps, bias, bias_row, latent, residual))
        return output

    def input_layer(self, output: str, parts: list[tuple[str, list[Connection]]]) -> str:
        """Sum of convolutions of the pixels and a channel of ones, which is zero where it is padded.

        The ones, and the biases, are there only at places that a part reaches, so they fold into a bias a place.
        """
        config = self.config
        self.value(output, config.patch, config.filters)
        bias = np.zeros((config.patch**2, config.filters), np.float32)
        reads = []
        for name, connections in parts:
            w = self.blocks(name)
            for row in {connection[0] for connection in connections}:
                bias[row] += self.tensor(f"{name}.bias")
            for row, _, block in connections:
                bias[row] += w[block, config.channels]
            reads.append(("x", "raw", w[:, : config.channels], connections))
        rows, bias_row = np.unique(bias, axis=0, return_inverse=True)
        return self.stage(output, output, reads, rows, bias_row.reshape(-1).astype(np.int32))

    def gated(self, name: str, k: int, x: str, connections: list[Connection], aux: tuple[str, ...] = ()) -> str:
        """A `GatedResnet` layer at resolution k, its auxiliary inputs through one 1x1 convolution."""
        nf, side = self.config.filters, self.config.resolutions()[k]
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

        reads = [(mid, "concat_elu", self.blocks(f"{name}.conv_out"), connections)]
        first = self.layer[k] * 2 * nf
        self.layer[k] += 1
        latent = None
        if self.config.place_inputs:
            v = self.tensor(f"conditioning.{k}.places")[first : first + 2 * nf]
            reads.append((f"places.{k}", "raw", np.ascontiguousarray(v.T)[None], pointwise(side)))
        if self.config.latent:
            latent = np.ascontiguousarray(self.tensor(f"conditioning.{k}.latent")[first : first + 2 * nf].T)
        return self.stage(f"{name}.conv_out", out, reads, latent=latent, residual=x)

    def resize(self, name: str, x: str, side: int, connections: list[Connection]) -> str:
        """A strided or transposed convolution between resolutions."""
        self.value(name, side, self.config.filters)
        return self.stage(name, name, [(x, "raw", self.blocks(name), connections)])

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
                us.append(self.gated(f"u_down.{k}.{i}", k, us[-1], u_conv[k]))
                uls.append(self.gated(f"ul_down.{k}.{i}", k, uls[-1], ul_conv[k], (us[-1],)))
            if k < 2:
                half = sides[k + 1]
                us.append(self.resize(f"u_shrink.{k}", us[-1], half, convolution(half, (2, 3), 1, stride=2)))
                uls.append(self.resize(f"ul_shrink.{k}", uls[-1], half, convolution(half, (2, 2), 1, stride=2)))

        u, ul = us.pop(), uls.pop()
        for k in (2, 1, 0):
            for i in range(config.gated_layers(k) - config.layers):
                u = self.gated(f"u_up.{k}.{i}", k, u, u_conv[k], (us.pop(),))
                ul = self.gated(f"ul_up.{k}.{i}", k, ul, ul_conv[k], (u, uls.pop()))
            if k > 0:
                u = self.resize(f"u_grow.{k - 1}", u, sides[k - 1], transposed(sides[k - 1], (2, 3), 1))
                ul = self.resize(f"ul_grow.{k - 1}", ul, sides[k - 1], transposed(sides[k - 1], (2, 2), 0))
        self.value("params", m, config.outputs)
        self.stage("nin_out", "params", [(ul, "elu", self.blocks("nin_out"), pointwise(m))])
        about = {**asdict(config), "sizes": list(config.sizes)}
        return Plan(m, config.latent, self.values, tuple(inputs), "params", tuple(self.stages), about)


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
    plan = _Compiler(weights).run().validate()
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
        varies = np.zeros(len(stage.places), bool)
        kept = np.ones(len(stage.taps), bool)
        for number, (row, s, place, block) in enumerate(stage.taps):
            source = stage.sources[s]
            constant = fixed[source.value].get(int(place))
            if constant is None:
                varies[row] = True
            else:
                bias[row] += form_of(constant, source.form) @ source.weights[block]
                kept[number] = False
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
