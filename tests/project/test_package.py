"""What is installed, and what the sdist and the wheel contain, built without a network in a copy of the tree."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import spxcore
from spxcore._version import __version__

ROOT = Path(__file__).resolve().parents[2]
BUILD_TOOLS = ("build", "setuptools", "pybind11", "cmake", "ninja")


def python(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run this Python, both its streams in .stdout."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout's own files, so that a build leaves nothing in it and finds nothing of an earlier one."""
    missing = [name for name in BUILD_TOOLS if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"building without a network needs {', '.join(missing)}: pip install -e '.[dev]'")
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a git checkout, to know which files are the project's")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    copy = tmp_path_factory.mktemp("tree")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def archives(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it alone."""
    folder = tmp_path_factory.mktemp("dist")
    # For time's sake CUDA is left out, and the compiler told last not to optimise: the checkout's install, which other tests use, has both.
    compiler = tmp_path_factory.mktemp("compiler") / "c++"
    compiler.write_text(f'#!/bin/sh\nexec {os.environ.get("CXX", "c++")} "$@" -O0\n')
    compiler.chmod(0o755)
    environment = {"SPX_REQUIRE_NATIVE": "1", "SPX_CUDA": "0", "CXX": str(compiler)}
    built = python("-m", "build", "--no-isolation", "--outdir", str(folder), ".", cwd=tree, **environment)
    assert built.returncode == 0, built.stdout[-4000:]
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def assets(tree: Path) -> set[str]:
    """The package data of spx, as names under python/."""
    return {
        file.relative_to(tree / "python").as_posix()
        for file in (tree / "python/spx/assets").rglob("*")
        if file.is_file()
    }


def test_version_is_the_distribution_s():
    assert importlib.metadata.version("spx") == __version__ == spxcore.__version__


def test_commands_are_declared():
    commands = {
        e.name: e.value for e in importlib.metadata.distribution("spx").entry_points if e.group == "console_scripts"
    }
    assert commands["spx-sample"] == "spx.cli.sample:main"
    assert commands["spx-train"] == "spx.cli.train:main"


def test_kernels_import_from_the_checkout_s_root():
    """There ./spxcore shadows the installed package, and ./kernels has to be found as spxcore.kernels all the same."""
    if Path(spxcore.__file__).resolve().parents[1] != ROOT:
        pytest.skip("spx is installed, but not as editable")
    result = python("-c", "import spxcore.kernels as k; print(k.__file__)", cwd=ROOT)
    assert result.returncode == 0, result.stdout
    assert Path(result.stdout.strip()).parent == ROOT / "kernels"


@pytest.mark.package
def test_sdist_has_what_a_build_needs(tree, archives):
    with tarfile.open(archives[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"CMakeLists.txt", "setup.py", "pyproject.toml", "LICENSE", "README.md", "spxcore/_version.py"}
    needed |= {file.relative_to(tree).as_posix() for file in (tree / "csrc").rglob("*") if file.is_file()}
    needed |= {f"python/{name}" for name in assets(tree)}
    assert needed <= names
    assert not [name for name in names if name.endswith((".so", ".pyc")) or name.startswith((".venv", "build", ".ci"))]


@pytest.mark.package
def test_wheel_has_the_packages_and_nothing_else(tree, archives):
    with zipfile.ZipFile(archives[1]) as archive:
        names = set(archive.namelist())
    expected = assets(tree)
    for folder, package in (("spxcore", "spxcore"), ("kernels", "spxcore/kernels"), ("python/spx", "spx")):
        expected |= {f"{package}/{f.relative_to(tree / folder).as_posix()}" for f in (tree / folder).rglob("*.py")}
    native = {name for name in names if name.startswith("spxcore/_native.") and name.endswith((".so", ".pyd"))}
    assert len(native) == 1
    assert {name for name in names if ".dist-info/" not in name} == expected | native
    assert f"spx-{__version__}.dist-info/licenses/LICENSE" in names


@pytest.mark.package
def test_wheel_imports_without_a_gpu(archives, tmp_path):
    with zipfile.ZipFile(archives[1]) as archive:
        archive.extractall(tmp_path)
    code = (
        "import spxcore, spxcore.kernels, spxcore.native as n; print(spxcore.__file__, n.have_native(), n.have_cuda())"
    )
    result = python("-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path), CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 0, result.stdout
    assert result.stdout.split() == [str(tmp_path / "spxcore/__init__.py"), "True", "False"]


@pytest.mark.package
def test_no_compiler_still_gives_a_package(tree, tmp_path):
    no_compiler = {"CXX": "/bin/false", "SPX_CUDA": "0"}
    build = ("-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path), ".")
    built = python(*build, cwd=tree, SPX_REQUIRE_NATIVE="0", **no_compiler)
    assert built.returncode == 0, built.stdout[-4000:]
    assert "going on without spxcore._native: no C++17 compiler" in built.stdout
    assert "apt install g++" in built.stdout
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if "_native" in name and not name.endswith(".py")]

    refused = python(*build, cwd=tree, SPX_REQUIRE_NATIVE="1", **no_compiler)
    assert refused.returncode != 0
    assert "spxcore._native is required (SPX_REQUIRE_NATIVE=1) but no C++17 compiler" in refused.stdout
    assert "Traceback" not in refused.stdout


@pytest.mark.package
def test_a_bad_switch_is_refused(tree, tmp_path):
    refused = python(
        "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path), ".", cwd=tree, SPX_CUDA="yes"
    )
    assert refused.returncode != 0
    assert "SPX_CUDA: expected 0, 1 or nothing, got 'yes'" in refused.stdout
