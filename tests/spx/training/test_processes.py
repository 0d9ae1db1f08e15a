"""Several processes train what one does."""

import os
import socket

import pytest
from runs import MODES, options, run, settings, start
from safetensors.torch import load_file

from spx.checkpoints import load_model


@pytest.mark.slow
def test_two_processes_equal_one(uninterrupted, data_dir, tmp_path):
    """The same global batch, half of it in each of two gloo processes: the same weights up to the order of sums."""
    s, folder = settings("no latent", data_dir), tmp_path / "run"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    arguments = ["--device=cpu", *options(s), "--out", str(folder)]
    processes = []
    for rank in "01":  # as torchrun starts them
        variables = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        processes.append(start(arguments, tmp_path / rank, **variables))
    for process in processes:
        process.join(200)
    printed = [(tmp_path / rank).read_text() for rank in "01"]
    assert [process.exitcode for process in processes] == [0, 0], printed
    assert [text.count("done:") for text in printed] == [1, 0]
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
