"""Small networks that no model has, for what engines have to run besides Spatial PixelCNN's, and jobs that draw with them."""

from __future__ import annotations

import functools

import numpy as np

from spxcore import Job, Logistics, Network, Sampling
from spxcore.feeds import Pixels, Places, axis, unit_levels
from spxcore.plan import execute, plan_at
from spxcore.schedules import Window
from spxcore.schedules.window import window_origin
from spxcore.walk.language import down, down_right
from spxcore.walk.shapes import shapes_of


def relu_net(
    net, pixel: int = 1, outputs: int = 9, told: int = 0, latent: int = 0, filters: int = 7, gated: bool = False
):
    """ReLUs at two resolutions; a gate without a residual, a residual without a gate; told at level 1 only.

    Args:
        pixel: numbers the network sees of a pixel.
        outputs: P.
        told: D, numbers a place is told; 0: nothing.
        latent: Z.
        gated: with a sum that is read as it is and gated.
    """
    causal = down_right(2, 2)
    x = net.input("x", pixel, ones=True, drawn=True)
    places = net.input("where", told, 1) if told else None
    (u,) = net.told("told", 1, 2 * filters, places, net.code(latent))
    above = net.conv("above", x, filters, down(2, 3).shifted(down=1))
    h = above + net.conv("left", x, filters, down_right(1, 2).shifted(right=1))
    if gated:
        s = net.conv("sum", net.relu(h), 2 * filters, causal)
        h = net.conv("of_gated", net.tanh_gate(s), filters, causal) + net.conv("of_sum", s, filters) + h
    low = net.conv("shrink", net.relu(h), filters, causal.halved())
    low = net.gate("gate", None, net.conv("before", net.relu(low), 2 * filters, causal), u)
    grown = net.conv("grow", net.relu(low), filters, causal.doubled()) + h
    return net.conv("out", net.relu(grown), outputs)


def spread(walk, seed: int = 0) -> Network:
    """A network whose tensors are drawn at random, nothing at its neutral value."""
    g = np.random.default_rng(seed)
    centre = {"g": (1.0, 0.3), "bias": (0.0, 0.3)}
    tensors = {}
    for name, shape in shapes_of(walk).items():
        mean, deviation = centre.get(name.rsplit(".", 1)[-1], (0.0, 0.5))
        tensors[name] = (mean + deviation * g.normal(size=shape)).astype(np.float32)
    return Network(walk, tensors)


def relu_job(
    side: int, height: int, width: int, images: int = 1, head=None, told: bool = False, latent: int = 0, embedding: int = 1,
    seed: int = 7, draw: int = 0, gated: bool = False, **sampling,
) -> Job:  # fmt: skip
    """A job that draws with `relu_net`; told: two maps and an extra number at every place."""
    head, g = head or Logistics(1, 3), np.random.default_rng(seed)
    walk = functools.partial(
        relu_net,
        pixel=head.channels * embedding,
        outputs=head.parameters,
        told=5 if told else 0,
        latent=latent,
        gated=gated,
    )
    table = unit_levels(head.levels) if embedding == 1 else g.normal(size=(head.levels, embedding))
    feeds = {"x": Pixels(table)}
    if told:
        feeds["where"] = Places(g.normal(size=(images, 2, 5, 3)), g.normal(size=1))
    code = g.normal(size=(images, latent)) if latent else None
    return Job(
        spread(walk),
        head,
        Window(side),
        feeds,
        height,
        width,
        np.arange(images),
        code,
        seed,
        draw,
        Sampling(**sampling),
    ).check()


def window_inputs(job: Job, pixels: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """What the window of every pixel of image n holds: float64 [H * W, places, C] of each of the network's inputs.

    Written anew from the definitions (Akoury & Nguyen 2017, section 4.1): no engine's code.
    """
    m, graph, result = job.schedule.side, job.network.graph, {}
    r, c = (a.ravel() for a in np.indices((job.height, job.width)))
    r0, c0 = window_origin(r, c, m)
    for name in graph.inputs:
        feed = job.feeds[name]
        if isinstance(feed, Pixels):
            rows, columns = r0[:, None, None] + np.arange(m)[:, None], c0[:, None, None] + np.arange(m)
            seen = feed.table.astype(np.float64)[pixels[n, rows, columns]]
        else:
            h, w = graph.values[name].size(m, m)
            y, x = (
                np.stack([np.interp(np.arange(s) / (s - 1) if s > 1 else [0.5], [0, 1], [on[a], on[a + m - 1]]) for a in first])
                for s, on, first in ((h, axis(job.height), r0), (w, axis(job.width), c0))
            )  # fmt: skip
            maps = np.zeros((1, 0, 1, 1)) if feed.maps is None else feed.maps.astype(np.float64)
            maps = maps[n if len(maps) > 1 else 0]
            at_y, at_x = ((a + 1) / 2 * (s - 1) for a, s in ((y, maps.shape[1]), (x, maps.shape[2])))
            (y0, y1, fy), (x0, x1, fx) = (
                (np.floor(a).astype(int), np.ceil(a).astype(int), a - np.floor(a)) for a in (at_y, at_x)
            )
            y0, y1, fy, x0, x1, fx = *(a[:, :, None] for a in (y0, y1, fy)), *(a[:, None] for a in (x0, x1, fx))
            upper, lower = (maps[:, row, x0] * (1 - fx) + maps[:, row, x1] * fx for row in (y0, y1))
            sampled = np.moveaxis(upper * (1 - fy) + lower * fy, 0, -1)
            extra = np.broadcast_to(feed.extra, (*sampled.shape[:3], len(feed.extra)))
            place = np.broadcast_arrays(y[:, :, None], x[:, None])
            seen = np.concatenate([np.stack(place, axis=-1), extra, sampled], axis=-1)
        result[name] = seen.reshape(len(r), -1, graph.values[name].channels)
    return result


def expected_params(job: Job, pixels: np.ndarray) -> np.ndarray:
    """Every pixel's parameters, given the pixels before it, by the plan's meaning in float64: [N, H, W, P]."""
    m, graph = job.schedule.side, job.network.graph
    plan, result = plan_at(graph, m, m), []
    r, c = (a.ravel() for a in np.indices((job.height, job.width)))
    r0, c0 = window_origin(r, c, m)
    for n in range(len(job.images)):
        code = None if job.code is None else np.repeat(job.code[n : n + 1].astype(np.float64), len(r), axis=0)
        params = execute(plan, window_inputs(job, pixels, n), code)[plan.output]
        result.append(params[np.arange(len(r)), (r - r0) * m + c - c0].reshape(job.height, job.width, -1))
    return np.stack(result)
