"""Every registered command is given hostile values for every one of its options: it refuses in one sentence, or it takes them.

The table is made of the registry and of each parser's own options, so a new command, and a new option, is in it. Only what a command does
before its work runs here: that is where everything has to be refused.
"""

import argparse
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import digits, write_dataset
from PIL import Image

from spx.cli.command import MODULES, commands
from spx.cli.values import Number

COMMANDS = {command.name: command for command in commands()}
NUMBERS = [
    "", "-1", "0", "nan", "inf", "-inf", "1e400", str(10**21), str(2**32), str(2**63 - 1), str(2**63), str(2**64), "9" * 5000, "١٢", "1_0",
    "a", "\0",
]  # fmt: skip
# Names; {} is a folder with things in it that are no data, no checkpoint and no place for a picture.
NAMES = [
    "", " ", ".", "..", "/", "\0", "a\0b", "\n", "\udcff", "~nouser", "~nouser/x", "a" * 300, "a/" * 3000 + "x", "/dev/null", "/dev/full",
    "/proc/self/mem", "/proc/nothing/x", "{}/fifo", "{}/folder", "{}/file", "{}/file/x", "{}/unreadable", "{}/loop", "{}/loop/x",
    "{}/dangling", "{}/folder/" + "b" * 255, "owner/../name", "http://x/y",
]  # fmt: skip
# What a command needs beside the option that is tried.
NEEDS = {
    "spx-train": ["--preset=small-8x8", "--data=idx", "--out={out}", "--data-dir={data}"],
    "spx-train-lenet": ["--data=idx", "--out={out}", "--data-dir={data}"],
    "spx-eval": ["--data=idx", "--data-dir={data}", "--checkpoint={checkpoint}", "--lenet={lenet}"],
    "spx-reproduce": ["--data=idx", "--out={out}", "--data-dir={data}", "--lenet={lenet}", "--vae={checkpoint}"],
    "spx-sample": ["--checkpoint={checkpoint}"],
    "spx-score": ["--checkpoint={checkpoint}", "{picture}"],
    "spx-plan": [],
    "spx-doctor": [],
}


def test_every_script_of_the_package_is_registered():
    """A command that is not in the registry would not be in the table."""
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    scripts = dict(re.findall(r'^(spx-[a-z-]+) = "(.*)"$', text, flags=re.M))
    assert scripts == {command.name: f"spx.cli.{module}:main" for command, module in zip(commands(), MODULES)}
    assert scripts.keys() == NEEDS.keys()


@pytest.fixture(scope="module")
def places(tmp_path_factory, checkpoint) -> dict[str, str]:
    """Good inputs, and a folder of bad ones."""
    from spx.evaluation.lenet import LeNet, save_lenet

    root = tmp_path_factory.mktemp("places")
    write_dataset(root / "data", train=48, test=4)
    save_lenet(LeNet(10), root / "lenet", {})
    Image.fromarray(digits(1)[0][0]).save(root / "picture.png")
    bad = root / "bad"
    (bad / "folder").mkdir(parents=True)
    (bad / "file").write_text("x")
    (bad / "unreadable").write_text("x")
    (bad / "unreadable").chmod(0)
    (bad / "loop").symlink_to(bad / "loop")
    (bad / "dangling").symlink_to(bad / "nothing" / "here")
    os.mkfifo(bad / "fifo")
    return {name: str(root / name) for name in ("data", "lenet", "bad")} | {
        "checkpoint": str(checkpoint), "picture": str(root / "picture.png"),
    }  # fmt: skip


def options(command: str) -> list[argparse.Action]:
    passive = (argparse._HelpAction, argparse._VersionAction)
    return [a for a in COMMANDS[command].parser([])._actions if not isinstance(a, passive)]


def cases() -> list:
    found = []
    for name in COMMANDS:
        for action in options(name):
            if action.nargs != 0:
                option = action.option_strings[-1] if action.option_strings else ""
                found.append(pytest.param(name, option, id=f"{name} {option or action.dest}"))
    return found


def contents(folder: Path) -> dict[str, tuple]:
    return {str(p.relative_to(folder)): (p.lstat().st_mode, p.lstat().st_size) for p in sorted(folder.rglob("*"))}


@pytest.fixture
def tried(places, tmp_path, monkeypatch, capsys):
    """Give a command arguments, in an empty folder, without its work: exit code and standard error."""
    monkeypatch.chdir(tmp_path)
    for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(variable, "1")

    def run(name: str, arguments: list[str]) -> tuple[int, str]:
        command = COMMANDS[name]

        def prepare(given: argparse.Namespace):
            command.prepare(given)
            return lambda: ""

        try:
            code = replace(command, prepare=prepare)(arguments)
        except SystemExit as stop:  # argparse's
            code = stop.code
        return code, capsys.readouterr().err

    return run


def values_of(action: argparse.Action) -> list[str]:
    return NUMBERS if isinstance(action.type, Number) else [*NAMES, "-1", "nan", str(10**21)]


COUNTS = {"tried": 0, "refused": 0}


@pytest.mark.fault("traceback", "hostile values of every option of every command")
@pytest.mark.parametrize(("name", "option"), cases())
def test_hostile(name, option, tried, places, tmp_path):
    action = next(a for a in options(name) if (a.option_strings or [""])[-1] == option)
    before = contents(Path(places["bad"]))
    several = 2 if action.nargs == 2 else 1
    for value in values_of(action):
        given = (
            [f"{option}={value}"] if option and several == 1 else [option, *[value] * several] if option else [value]
        )
        given = [text.replace("{}", places["bad"]) for text in given]
        needs = [text.format(out=tmp_path / "out", **places) for text in NEEDS[name]]
        began = time.monotonic()
        code, err = tried(name, [*needs, *given])
        seconds = time.monotonic() - began
        said = [line for line in err.splitlines() if "error: " in line]
        assert code in (0, 2) and "Traceback" not in err, (value[:50], code, err[-500:])
        assert len(said) == (code == 2), (value[:50], err[-500:])
        assert seconds < 5, (value[:50], seconds)
        assert list(tmp_path.iterdir()) == [], (value[:50], list(tmp_path.iterdir()))
        COUNTS["tried"] += 1
        COUNTS["refused"] += code == 2
    assert contents(Path(places["bad"])) == before
