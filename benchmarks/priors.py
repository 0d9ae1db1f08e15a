"""Mixture priors of a checkpoint's codes: what each costs in the bound, and how recognisable the samples drawn from it are.

python benchmarks/priors.py --checkpoint mnist-8x8 --data-dir DIR --components 20 40 --spreads 0.7 0.75 0.8 1 --samples 500

With --refine 10 it takes the codes of the shipped model, a quarter of an hour of two cores (without: the encoder's).
"""

import argparse
import math
import sys

import numpy as np
import torch

from spx import data
from spx.api import load
from spx.evaluation.lenet import load_lenet
from spx.evaluation.measures import judged, pieces
from spx.evaluation.metrics import ms_ssim_pairs
from spx.models.parts.gaussian import kl_to_standard_normal, reparameterise
from spx.models.spatial.codes import posterior
from spx.models.spatial.prior import fit_mixture
from spx.request import Request
from spxcore import engines


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--checkpoint", default="mnist-8x8")
    p.add_argument("--data", default="mnist")
    p.add_argument("--data-dir", default="data")
    p.add_argument("--lenet")
    p.add_argument("--components", type=int, nargs="+", default=[40], help="Gaussians a class")
    p.add_argument("--spreads", type=float, nargs="+", default=[0.75, 1.0], help="factors on their deviations")
    p.add_argument("--samples", type=int, default=1000, help="28x28 samples judged of each; 0 none")
    p.add_argument("--refine", type=int, default=0, help="gradient steps on every code (0)")
    p.add_argument("--seed", type=int, default=0)
    arguments = p.parse_args()

    model, lenet, engine = load(arguments.checkpoint), load_lenet(arguments.lenet), engines.get()
    train, test = (data.load(arguments.data, arguments.data_dir, split) for split in ("train", "test"))
    generator = torch.Generator().manual_seed(arguments.seed)
    known, (mean, log_variance) = (
        posterior(model.checkpoint, images.transpose(0, 2, 3, 1), arguments.refine)
        for images in (train.images, test.images)
    )
    z = reparameterise(mean, log_variance, generator).double()
    entropy = -torch.distributions.Normal(mean.double(), (0.5 * log_variance).exp().double()).log_prob(z).sum(dim=1)
    dimensions = test.images[0].size
    closed = float(kl_to_standard_normal(mean, log_variance).mean())
    print(f"KL to N(0, I): {closed:.1f} nats, {closed / math.log(2) / dimensions:.4f} bits per dimension\n")
    print(
        "| Gaussians a class | spread | KL, nats | bits per dimension | confidence | pieces of ink / ground | MS-SSIM |"
    )
    print("|---|---|---|---|---|---|---|")
    for components in arguments.components:
        for spread in arguments.spreads:
            prior = fit_mixture(
                known[0].numpy(), known[1].exp().numpy(), train.labels, components, spread, arguments.seed
            )
            kl = -entropy.numpy() - prior.log_density(z.numpy())
            cells = [
                f"{kl.mean():.1f} +- {kl.std() / math.sqrt(len(kl)):.1f}",
                f"{kl.mean() / math.log(2) / dimensions:.4f}",
            ]
            sampled = ["", "", ""]
            if arguments.samples:
                code = prior.sample(arguments.seed, np.arange(arguments.samples))
                drawn = model.draw(Request(28, seed=arguments.seed, code=code), engine=engine)
                found = {**judged(lenet, drawn), **pieces(drawn)}
                sampled = [
                    f"{found['confidence']:.2f} +- {found['confidence_error']:.2f}",
                    f"{found['ink_pieces']:.2f} / {found['ground_pieces']:.2f}",
                    f"{ms_ssim_pairs(drawn[:500])[0]:.4f}",
                ]
            print(f"| {components} | {spread:g} | {' | '.join(cells + sampled)} |")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
