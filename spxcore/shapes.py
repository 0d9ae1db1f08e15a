"""Names and shapes of a network's tensors, as its `state_dict()` has them: what a file of weights must hold. No torch here."""

from __future__ import annotations

from .config import NetworkConfig


class Shapes(dict):
    """Shapes by name, filled layer by layer."""

    def convolution(self, name: str, inputs: int, outputs: int, kernel: tuple[int, int] = (1, 1)) -> None:
        """A `WeightNormConv2d`."""
        self[f"{name}.v"] = (outputs, inputs, *kernel)
        self[f"{name}.g"] = self[f"{name}.bias"] = (outputs,)

    def gated(self, name: str, filters: int, kernel: tuple[int, int], aux: int = 0) -> None:
        """A `GatedResnet`."""
        self.convolution(f"{name}.conv_in", 2 * filters, filters, kernel)
        if aux:
            self.convolution(f"{name}.nin_aux", 2 * aux, filters)
        self.convolution(f"{name}.conv_out", 2 * filters, 2 * filters, kernel)


def network_shapes(config: NetworkConfig) -> Shapes:
    """The tensors of a `PixelCNN`."""
    shapes, nf, inputs = Shapes(), config.filters, config.channels + 1
    u, ul = (2, 3), (2, 2)
    shapes.convolution("u_in", inputs, nf, u)
    shapes.convolution("ul_in_above", inputs, nf, (1, 3))
    shapes.convolution("ul_in_left", inputs, nf, (2, 1))
    for k in range(3):
        for i in range(config.layers):
            shapes.gated(f"u_down.{k}.{i}", nf, u)
            shapes.gated(f"ul_down.{k}.{i}", nf, ul, aux=nf)
        for i in range(config.gated_layers(k) - config.layers):
            shapes.gated(f"u_up.{k}.{i}", nf, u, aux=nf)
            shapes.gated(f"ul_up.{k}.{i}", nf, ul, aux=2 * nf)
        outputs = 2 * config.gated_layers(k) * 2 * nf
        if config.place_inputs:
            shapes[f"conditioning.{k}.places"] = (outputs, config.place_inputs)
        if config.latent:
            shapes[f"conditioning.{k}.latent"] = (outputs, config.latent)
    for k in range(2):
        for name, kernel in (("u_shrink", u), ("ul_shrink", ul), ("u_grow", u), ("ul_grow", ul)):
            shapes.convolution(f"{name}.{k}", nf, nf, kernel)
    shapes.convolution("nin_out", nf, config.outputs)
    return shapes
