"""README and docs are true: their commands have options that exist, their files are there, and their Python runs."""

import contextlib
import importlib
import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from spx.models import registry

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = {
    "spx-sample": "sample", "spx-score": "score", "spx-plan": "plan", "spx-train": "train", "spx-eval": "evaluate",
    "spx-train-lenet": "lenet", "spx-reproduce": "reproduce", "spx-doctor": "doctor",
}  # fmt: skip


def expanded(words: list[str]) -> list[str]:
    """What a shell makes of a,b in braces."""
    result = []
    for word in words:
        braces = re.fullmatch(r"(.*)\{([^{}]*,[^{}]*)\}(.*)", word)
        result += [braces[1] + part + braces[3] for part in braces[2].split(",")] if braces else [word]
    return result


def commands(page: Path) -> list[str]:
    """Every spx command of a page: lines of its shell blocks, joined where they go on, and words between backticks."""
    text = page.read_text()
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.S):
        found += block.replace("\\\n", " ").splitlines()
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    found += [line.replace("\n", " ").replace("\\|", "|") for line in re.findall(r"`([^`]+)`", prose)]
    return [line for line in found if line.split(" ")[0] in COMMANDS and " " in line.strip()]


LINES = [pytest.param(page, line, id=f"{page.stem}: {line[:60]}") for page in PAGES for line in commands(page)]


@pytest.mark.parametrize(("page", "line"), LINES)
def test_a_command_has_options_that_exist(page, line):
    name, *words = expanded(shlex.split(line, comments=True))
    if words and all(word.startswith("-") for word in words) and len(words) == 1:
        words = []  # "spx-train --fused": an option that is spoken of
    module = importlib.import_module(f"spx.cli.{COMMANDS[name]}")
    options = {option for word in re.findall(r"(?<!\S)--[a-z][a-z-]*", line) for option in [word]}
    families = [after for word, after in pairwise(words) if word == "--model" and after in registry.names()]
    known = {text for action in module.parser(*families)._actions for text in action.option_strings}
    assert options <= known, f"{page.name}: {sorted(options - known)}"
    numbers = {"T": "1", "K": "2", "S": "1", "D": "3", "N": "28", "tf32|bf16": "bf16"}
    words = [numbers.get(word, word) for word in words]
    if words and name != "spx-train":  # whose parser leaves names and ranges to the settings
        with contextlib.suppress(SystemExit):
            module.parser().parse_args(words)
            return
        pytest.fail(f"{page.name}: {line} is refused")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_are_there(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http") and "|" not in target:
            assert (page.parent / target).exists(), target
    for name in re.findall(r"`((?:spxcore|kernels|csrc|python|tests|benchmarks|docs|examples)/[\w./-]+)`", text):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_links_to_headings_are_there():
    """As GitHub names headings: small letters, blanks as dashes, other signs left out."""
    headings = {}
    for page in PAGES:
        prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
        titles = re.findall(r"^#+ (.*)$", prose, flags=re.M)
        headings[page.resolve()] = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    found = 0
    for page in PAGES:
        for target, heading in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text()):
            whole = (page.parent / target).resolve() if target else page.resolve()
            assert heading in headings[whole], f"{page.name}: {target}#{heading}"
            found += 1
    assert found > 5


def test_every_picture_is_shown():
    shown = {
        (page.parent / target).resolve() for page in PAGES for target in re.findall(r"\]\(([^)#]+)\)", page.read_text())
    }
    pictures = {path.resolve() for path in (ROOT / "docs" / "images").rglob("*") if path.is_file()}
    assert len(pictures) > 10 and not pictures - shown


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    """As it stands, but smaller."""
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert "height=224" in code
    found: dict = {}
    exec(compile(code.replace("height=224", "height=28"), "README.md", "exec"), found)
    assert found["digits"].shape == (4, 28, 28, 1) and found["again"].shape == (4, 56, 56, 1)
    assert (found["halves"][:, :14] == found["halves"][:1, :14]).all() and len(found["bits"]) == 2
