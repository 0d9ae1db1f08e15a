#!/usr/bin/env bash
# Everything there is to know about the GPU engines on this machine, in one command under ten minutes:
#   benchmarks/gpu_report.sh [FOLDER]      PYTHON=... chooses the interpreter, of an environment with spx and its tests' tools
# Builds the native modules in the tree, sees that both engines can run, runs the GPU tests, the kernels under compute-sanitizer, the
# benchmarks and a profile. The parts' limits add up to nine and a half minutes; a part that reaches its limit has failed.
# Leaves summary.txt, a log of each part, gpu.json, gpu.md and profile.ncu-rep in FOLDER (build/gpu-report).
set -uo pipefail
cd "$(dirname "$0")/.."
folder=$(realpath -m "${1:-build/gpu-report}")
python=${PYTHON:-python3}
export PYTHONPATH=$PWD:$PWD/python:$PWD/tests/support${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
export PATH=${CUDA_HOME:-/usr/local/cuda}/bin:$PATH
if ! nvidia-smi -L >/dev/null 2>&1; then
  echo "gpu_report.sh: expected an NVIDIA GPU with its driver, found none" >&2
  exit 2
fi
mkdir -p "$folder"
failed=0

{
  date -u
  echo "commit $(git rev-parse HEAD 2>/dev/null || echo unknown)"
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
  nvcc --version | tail -n 2
  "$python" -c "import torch, triton; print('torch', torch.__version__, 'triton', triton.__version__)"
} >"$folder/summary.txt" 2>&1

part() {  # part NAME SECONDS COMMAND...: run a part within so many seconds, keep its log, remember whether it failed
  local name=$1 limit=$2 start=$SECONDS result
  shift 2
  # Interrupted, it has five of its seconds to write what it has.
  if timeout --signal=INT --kill-after=5 $((limit - 5)) "$@" >"$folder/$name.log" 2>&1; then
    result=passed
  else
    result="FAILED ($?)"
    failed=1
  fi
  echo "$name $result after $((SECONDS - start)) s: $(tail -n 1 "$folder/$name.log")" | tee -a "$folder/summary.txt"
}

tool() {  # tool NAME SECONDS PROGRAM OPTIONS...: the same with one of the CUDA toolkit's tools, if it is there
  if command -v "$3" >/dev/null; then
    part "$@"
  else
    echo "$1 skipped: $3 was not found; it comes with the CUDA toolkit" | tee -a "$folder/summary.txt"
  fi
}

draw() {  # the Python that draws images of a small random network on the cuda engine: draw HEIGHT WIDTH IMAGES PRESET
  cat <<PYTHON
from helpers import drawn, job
from spx.models.spatial.config import preset
from spxcore import engines
print(drawn(engines.get("cuda", precision="bf16"), job(preset("$4"), $1, $2, $3)).pixels.mean())
PYTHON
}

engines() {  # the Python that tells whether the GPU engines can run: without them tests and benchmarks would be skipped, not fail
  cat <<PYTHON
import sys
from spxcore import engines
reasons = [f"{name}: {reason}" for name in ("triton", "cuda") if (reason := engines.why_not(name))]
print("; ".join(reasons) or "triton and cuda can run")
sys.exit(bool(reasons))
PYTHON
}

part build 130 env SPX_CUDA=1 SPX_REQUIRE_NATIVE=1 CUDAARCHS="${CUDAARCHS:-native}" "$python" setup.py build_ext --inplace
part engines 15 "$python" -c "$(engines)"
part tests-cuda 75 "$python" -m pytest -q -n 4 -m gpu tests/spxcore/engines/test_cuda.py tests/spxcore/test_native.py
# All of Triton's tests: where there is a GPU none runs in the interpreter. Most of their time is the compiler's.
part tests-triton 90 "$python" -m pytest -q -n 4 -k "not compile" tests/spxcore/engines/test_triton.py tests/kernels/test_gated.py
tool memcheck 35 compute-sanitizer --tool memcheck --error-exitcode 1 "$python" -c "$(draw 10 14 2 small-4x4)"
tool racecheck 35 compute-sanitizer --tool racecheck --error-exitcode 1 "$python" -c "$(draw 6 8 1 small-4x4)"
part benchmarks 150 "$python" -m pytest -q -s benchmarks/test_gpu.py --benchmark-only --benchmark-json "$folder/gpu.json"
[ -s "$folder/gpu.json" ] && "$python" benchmarks/gpu_table.py "$folder/gpu.json" | tee "$folder/gpu.md" >>"$folder/summary.txt"
tool profile 40 ncu --force-overwrite --set full --kernel-name regex:sample_kernel --launch-count 1 \
  --export "$folder/profile" "$python" -c "$(draw 64 256 1 small-8x8)"
echo "all of it took $SECONDS s; the results are in $folder" | tee -a "$folder/summary.txt"
exit $failed
