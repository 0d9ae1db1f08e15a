"""The networks of Spatial PixelCNN, each a walk (`spxcore.walk`)."""

from __future__ import annotations

from spxcore.walk.language import down, down_right, from_code, gated_resnet, same, to_code

# Filters of the feature maps' network at sides size, size/2 and size/4 of the VAE's image.
MAP_FILTERS = (24, 24, 24)


def pixelcnnpp(net, c):
    """PixelCNN++ (Salimans et al. 2017) on an m x m patch: six blocks of gated layers, three going down in resolution
    (m, m/2, m/4), three coming back with skip connections; told in every gated layer where it is (Akoury & Nguyen 2017).

    Stream `u` sees all rows above, stream `ul` rows above and pixels to the left. "x" is [C, m, m] in [-1, 1]; "places.k" what
    is told at each place of resolution k, the code z what is told of the whole image.

    Args:
        net: the words.
        c: a `NetworkConfig`.
    """
    nf, U, UL = c.filters, down(2, 3), down_right(2, 2)
    x = net.input("x", c.channels, ones=True, drawn=True)
    places = [net.input(f"places.{k}", c.place_inputs, k) if c.place_inputs else None for k in range(3)]
    z = net.code(c.latent)

    # Per resolution, one projection for all gated layers, which take their parts in the order they run: u, ul, u, ul ...
    h = [iter(net.told(f"conditioning.{k}", 2 * c.gated_layers(k), 2 * nf, places[k], z)) for k in range(3)]

    def gated(name, k, x, kernel, *aux):
        return gated_resnet(net, name, x, kernel, aux, next(h[k]), c.dropout)

    def conv(name, x, kernel=None, outputs=nf):
        return net.conv(name, x, outputs, kernel, exact=True)

    us = [conv("u_in", x, down(2, 3).shifted(down=1))]
    above, left = down(1, 3).shifted(down=1), down_right(2, 1).shifted(right=1)
    uls = [conv("ul_in_above", x, above) + conv("ul_in_left", x, left)]
    for k in range(3):
        for i in range(c.layers):
            us.append(gated(f"u_down.{k}.{i}", k, us[-1], U))
            uls.append(gated(f"ul_down.{k}.{i}", k, uls[-1], UL, us[-1]))
        if k < 2:
            us.append(conv(f"u_shrink.{k}", us[-1], U.halved()))
            uls.append(conv(f"ul_shrink.{k}", uls[-1], UL.halved()))

    u, ul = us.pop(), uls.pop()
    for k in (2, 1, 0):
        for i in range(c.gated_layers(k) - c.layers):  # one more than going down at 0 and 1, to consume every skip
            u = gated(f"u_up.{k}.{i}", k, u, U, us.pop())
            ul = gated(f"ul_up.{k}.{i}", k, ul, UL, u, uls.pop())
        if k > 0:
            u = conv(f"u_grow.{k - 1}", u, U.doubled(crop=1))
            ul = conv(f"ul_grow.{k - 1}", ul, UL.doubled())
    return conv("nin_out", net.elu(ul), outputs=c.outputs)


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
