"""spx-plan: the cost of drawing with a checkpoint: stages, multiply-adds by what they depend on, and memory."""

from __future__ import annotations

import argparse
import json
import sys

from .command import Command, Work


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    from . import options
    from .values import text

    p = argparse.ArgumentParser(
        prog="spx-plan",
        description="Compile a checkpoint's network and print its stages, its multiply-adds by what they depend on, and its memory.",
    )
    p.add_argument(
        "checkpoint", type=text, nargs="?", default="mnist-8x8", help="shipped name, folder, or hub name (mnist-8x8)"
    )
    p.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    options.add_version(p)
    return p


def plan(arguments: argparse.Namespace) -> Work:
    """Read the checkpoint. The work: compile its networks."""
    from spxcore.lower.summary import as_text, image_summary, image_text, summary, whole_summary, whole_text
    from spxcore.plan import plan_at
    from spxcore.schedules import Raster

    from ..checkpoints import read_checkpoint

    checkpoint = read_checkpoint(arguments.checkpoint)

    def work() -> str:
        plans, whole = {}, isinstance(checkpoint.model.schedule(checkpoint.config), Raster)
        figures: dict = {}
        for prefix, network in checkpoint.networks.items():
            side = checkpoint.model.side(checkpoint.config, prefix)
            plans[prefix.split(".")[-1]] = plan_at(network.graph, side, side, fold=not (whole and network.graph.drawn))
            if network.graph.drawn and not figures:
                plan = plans[prefix.split(".")[-1]]
                figures = whole_summary(plan, network.graph) if whole else summary(plan)
        images = image_summary({name: plan for name, plan in plans.items() if not plan.drawn})
        if arguments.json:
            return json.dumps({**figures, "image_networks": images})
        return "\n\n".join([(whole_text if whole else as_text)(figures), *([image_text(images)] if images else [])])

    return work


main = Command("spx-plan", lambda _: parser(), plan)

if __name__ == "__main__":
    sys.exit(main())
