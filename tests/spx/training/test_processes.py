"""Several processes train what one does."""

import os
import subprocess
import sys

import pytest
from runs import MODES, options, run, settings
from safetensors.torch import load_file

from spx.checkpoints import load_model


@pytest.mark.slow
def test_two_processes_equal_one(uninterrupted, data_dir, tmp_path):
    """The same global batch, half of it in each of two gloo processes: the same weights up to the order of sums."""
    s, folder = settings("no latent", data_dir), tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "spx.cli.train",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = ["--device=cpu", "--threads=1", "--quiet", *options(s), "--out", str(folder)]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("done:") == 1
    one, two = (load_file(f / "checkpoint" / "model.safetensors") for f in (uninterrupted("no latent"), folder))
    assert one.keys() == two.keys()
    # Adam makes a whole step of the sign of a gradient that is nothing but rounding: so the mean, not the largest, difference,
    # in units of what one step more would make.
    run(settings("no latent", data_dir, steps=5), tmp_path / "longer")
    longer = load_file(tmp_path / "longer" / "checkpoint" / "model.safetensors")

    def apart(other: dict) -> float:
        return sum((other[name] - one[name]).abs().sum().item() for name in one)

    assert apart(two) < 0.02 * apart(longer)


@pytest.mark.skipif(
    os.environ.get("SPX_TEST_COMPILE") != "1", reason="compiles for minutes; SPX_TEST_COMPILE=1 runs it"
)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.timeout(1800)
def test_torch_compile(mode, data_dir, tmp_path):
    run(settings(mode, data_dir, compile=True, validate_every=2), tmp_path / "run")
    load_model(tmp_path / "run" / "checkpoint")
