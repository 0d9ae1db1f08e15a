"""From the command to a written picture of 8x8 pixels, one window: what a draw costs before its second pixel, and its memory.

Processor seconds and peak resident memory of the process: start-up is the work of one thread, and elapsed time measures the load too.
"""

import json
import subprocess
import sys

import pytest

from spx.checkpoints import SHIPPED

DIGIT = SHIPPED.parent / "digits" / "3.png"
COMMANDS = {
    "new image": [],
    "reconstruction": ["--reconstruct", str(DIGIT)],
}

# Its own process tells what it took; getrusage of the children would mix them.
CODE = """
import json, re, sys, time
from spx.cli.sample import main
assert main(sys.argv[1:]) == 0
peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1])
print(json.dumps({"processor_seconds": time.process_time(), "peak_mebibytes": peak / 1024, "torch": "torch" in sys.modules}))
"""


@pytest.mark.parametrize("engine", ["cpp", "torch"])
@pytest.mark.parametrize("name", COMMANDS)
def test_startup(benchmark, tmp_path, name, engine):
    def run() -> dict:
        arguments = ["--res=8", f"--engine={engine}", "--threads=1", f"--out={tmp_path / 'a.png'}", *COMMANDS[name]]
        done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    found = []
    benchmark.pedantic(lambda: found.append(run()), rounds=5)
    best = min(found, key=lambda figures: figures["processor_seconds"])
    benchmark.extra_info |= {"startup": name, "engine": engine, **best}
