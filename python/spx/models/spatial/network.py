"""The networks of Spatial PixelCNN, each a walk (`spxcore.walk`)."""

from __future__ import annotations

from spxcore.walk.language import from_code, gated_resnet, same, to_code

from ..parts.streams import RESOLUTIONS, gated_layers, streams

# Filters of the feature maps' network at sides size, size/2 and size/4 of the VAE's image.
MAP_FILTERS = (24, 24, 24)


def pixelcnnpp(net, c):
    """PixelCNN++ (Salimans et al. 2017) on an m x m patch, told in every gated layer where it is (Akoury & Nguyen 2017).

    "x" is [C, m, m] in [-1, 1]; "places.k" what is told at each place of resolution k, the code z what is told of the whole image.

    Args:
        net: the words.
        c: a `NetworkConfig`.
    """
    x = net.input("x", c.channels, ones=True, drawn=True)
    places = [net.input(f"places.{k}", c.place_inputs, k) if c.place_inputs else None for k in range(RESOLUTIONS)]
    z = net.code(c.latent)

    # Per resolution, one projection for all gated layers.
    told = [
        net.told(f"conditioning.{k}", 2 * gated_layers(c.layers, k), 2 * c.filters, places[k], z)
        for k in range(RESOLUTIONS)
    ]
    return streams(net, x, c, told)


def encoder(net, c):
    """q(z | x) of the VAE: image "x" [C, size, size] in [-1, 1] -> mean and unbounded log-variance, [2 latent] at a single place.

    Args:
        net: the words.
        c: a `VAEConfig`.
    """
    _, half, quarter = c.filters
    h = net.conv("shrink_1", net.input("x", c.channels), half, same(5, 5).halved())
    for i in range(c.layers):
        h = gated_resnet(net, f"layers_1.{i}", h, same(3, 3))
    h = net.conv("shrink_2", net.concat_elu(h), quarter, same(3, 3).halved())
    for i in range(c.layers):
        h = gated_resnet(net, f"layers_2.{i}", h, same(3, 3))
    return net.conv("code", net.concat_elu(h), 2 * c.latent, to_code(c.size // 4), init_scale=0.5, exact=True)


def decoder(net, c):
    """p(x | z) of the VAE: code z -> mixture parameters of every pixel, [P, size, size]. c: a `VAEConfig`."""
    full, half, quarter = c.filters
    z, grow = net.code(c.latent), same(2, 2).doubled()

    def gated(name, h):
        (u,) = net.told(name, 1, 2 * h.shape[1], code=z)
        return gated_resnet(net, name, h, same(3, 3), h=u)

    h = net.conv("code", z, quarter, from_code(c.size // 4, level=2))
    for i in range(c.layers):
        h = gated(f"layers_2.{i}", h)
    h = net.conv("grow_2", net.concat_elu(h), half, grow)
    for i in range(c.layers):
        h = gated(f"layers_1.{i}", h)
    h = gated("layers_0.0", net.conv("grow_1", net.concat_elu(h), full, grow))
    return net.conv("nin_out", net.concat_elu(h), c.outputs, exact=True)


def maps(net, c, count):
    """Feature maps s = m(z, image), [count, 2 size, 2 size] (van den Oord et al. 2016, section 2.3).

    Args:
        net: the words.
        c: a `VAEConfig`.
        count: M, maps.
    """
    full, half, quarter = MAP_FILTERS
    grow = same(2, 2).doubled()
    h = net.conv("code", net.code(c.latent), quarter, from_code(c.size // 4, level=2))
    h = gated_resnet(net, "layer_1", net.conv("grow_2", net.concat_elu(h), half, grow), same(3, 3))
    image = net.conv("image", net.input("image", c.channels), full, same(5, 5))
    h = net.conv("grow_1", net.concat_elu(h), full, grow) + image
    return net.conv("grow_0", net.concat_elu(gated_resnet(net, "layer_0", h, same(3, 3))), count, grow)
