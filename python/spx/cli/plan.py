"""spx-plan: what drawing with a checkpoint costs: its stages, multiply-adds by what they depend on, and memory."""

from __future__ import annotations

import argparse
import json
import sys

from spxcore import __version__
from spxcore.errors import SpxError

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
    from spxcore.config import NetworkConfig
    from spxcore.engines import Weights
    from spxcore.plan import compile_network
    from spxcore.plan.summary import as_text, summary

    from ..checkpoints import read_config, read_tensors, resolve

    folder = resolve(arguments.checkpoint)
    tensors, prefix = read_tensors(folder), "network."
    mine = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    try:
        config = NetworkConfig(**read_config(folder)["network"])
    except TypeError as error:
        raise SpxError(f"{folder / 'config.json'}: unknown or missing field ({error})") from error
    figures = summary(compile_network(Weights(config, mine)))
    print(json.dumps(figures) if arguments.json else as_text(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
