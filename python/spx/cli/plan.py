"""spx-plan: what drawing with a checkpoint costs: its stages, multiply-adds by what they depend on, and memory."""

from __future__ import annotations

import argparse
import json
import sys

from spxcore import __version__

from . import run


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    p = argparse.ArgumentParser(
        prog="spx-plan",
        description="Compile a checkpoint's network and print its stages, its multiply-adds by tier, and its memory.",
    )
    p.add_argument("checkpoint", nargs="?", default="mnist-8x8", help="shipped name, folder, or hub name (mnist-8x8)")
    p.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    p.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return p


def main(argv: list[str] | None = None) -> int:
    """Entry point of spx-plan."""
    return run(lambda: _main(parser().parse_args(argv)))


def _main(arguments: argparse.Namespace) -> int:
    from spxcore.plan import compile_network
    from spxcore.plan.summary import as_text, image_summary, image_text, summary

    from ..checkpoints import read_checkpoint
    from ..image_networks import plans

    checkpoint = read_checkpoint(arguments.checkpoint)
    figures, images = summary(compile_network(checkpoint.weights)), image_summary(plans(checkpoint))
    if arguments.json:
        print(json.dumps({**figures, "image_networks": images}))
    else:
        print("\n\n".join([as_text(figures), *([image_text(images)] if images else [])]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
