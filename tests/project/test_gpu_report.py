"""benchmarks/gpu_report.sh, with a pretended GPU, Python and tools: what it runs, and what it says became of it."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_report.sh"

# Each answers as its part is to end. The one for Python tells parts apart by its arguments.
PROGRAMS = {
    "nvidia-smi": "echo pretended GPU",
    "nvcc": "echo release 99.9",
    "compute-sanitizer": 'echo "========= Error: Device not supported"; exit 1',
    "ncu": "sleep 30",
    "python": """
case "$*" in
  *find_spec*xdist*) exit 1 ;;
  *find_spec*) exit 0 ;;
  *"pip install"*) case "$*" in *--no-index*--no-build-isolation*--no-deps*) echo installed ;; *) exit 1 ;; esac ;;
  *"gpu_smoke.py triton"*) echo "triton draws the pixels of cpp" ;;
  *"gpu_smoke.py cuda"*) echo "cuda cannot run here: no driver"; exit 3 ;;
  *test_cuda.py*) echo "2 failed"; exit 1 ;;
  *test_triton.py*) [ "$PYTHONSAFEPATH" = 1 ] && echo "60 passed, 3 skipped" ;;
  *"-k training"*) echo "= 2 skipped in 1 s =" ;;
  *test_gpu.py*) while [ "$1" != --benchmark-json ]; do shift; done; echo figures >"$2"; echo measured ;;
  *gpu_table.py*) echo "| a table |" ;;
esac
""",
}


@pytest.fixture
def report(tmp_path):
    """Runs the script: its exit status, and the summary."""
    programs, folder = tmp_path / "bin", tmp_path / "report"
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)

    def run(*parts: str, without: str = "", limit: int = 570) -> tuple[int, str]:
        if without:
            (programs / without).unlink()
        environment = {
            "PATH": f"{programs}:/usr/bin:/bin", "HOME": str(tmp_path), "PYTHON": str(programs / "python"), "LIMIT": str(limit),
            "CUDA_HOME": str(tmp_path), "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
        }  # fmt: skip
        done = subprocess.run(
            [SCRIPT, "-o", folder, *parts], env=environment, capture_output=True, text=True, timeout=60
        )
        summary = folder / "summary.txt"
        assert len(list(folder.glob("*"))) <= 8 if folder.exists() else done.returncode == 2
        return done.returncode, summary.read_text() if summary.exists() else done.stderr

    return run


def test_every_part_says_what_became_of_it(report):
    status, summary = report("smoke", "tests", "benchmarks", "train")
    assert status == 1
    for line in (
        r"build passed",
        "smoke-triton passed",
        "smoke-cuda unsupported",
        "tests-cuda FAILED (1)",
        "tests-triton passed",
        "benchmarks passed",
        "training unsupported",
        "| a table |",
    ):
        assert line in summary
    assert "memcheck" not in summary
    assert summary.index("release 99.9") < summary.index("build")  # versions come first


def test_a_tool_that_may_not_work_here_has_not_failed(report):
    status, summary = report("profile", without="ncu")
    assert status == 0
    assert "memcheck unsupported" in summary and "racecheck unsupported" in summary
    assert "profile unsupported: ncu was not found" in summary and "smoke" not in summary.split("build")[1]


def test_the_limit_of_the_whole_ends_a_part(report):
    status, summary = report("profile", "train", limit=14)
    assert status == 1
    assert "profile FAILED (it took more than" in summary and "training not reached" in summary


def test_without_a_gpu_or_with_an_unknown_part_it_says_so(report):
    assert report("everything") == (
        2,
        "gpu_report.sh: expected parts of smoke, tests, benchmarks, profile and train, got everything\n",
    )
    assert report("smoke", without="nvidia-smi") == (
        2,
        "gpu_report.sh: expected an NVIDIA GPU with its driver, found none\n",
    )
