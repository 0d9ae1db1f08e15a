#!/usr/bin/env bash
# What is to be known about the GPU engines on this machine:
#   benchmarks/gpu_report.sh [-o FOLDER] [PART...]      PYTHON=... chooses the interpreter
# Parts: smoke tests benchmarks profile train; all of them by default. Where a command may take ten minutes, call it three times:
# "smoke tests", "benchmarks profile" and "train". Each call installs spx first, without a network, into PYTHON's environment, which has
# torch, triton, numpy, setuptools, pybind11, cmake, ninja and pytest. The build has BUILD seconds (150). No part begins after LIMIT seconds
# (570), and none outlasts them.
# Leaves at most six files in FOLDER (build/gpu-report): summary.txt, logs.txt, gpu.json, gpu.md, training.json and profile.ncu-rep.
# In the summary a part has passed, FAILED, is unsupported (something is not on this machine) or was not reached. It exits with 1 if a
# part has failed, and with 2 if there is no GPU.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=build/gpu-report
if [ "${1:-}" = -o ]; then
  folder=${2:?expected a folder after -o}
  shift 2
fi
for name in "$@"; do
  case $name in
    smoke | tests | benchmarks | profile | train) ;;
    *)
      echo "gpu_report.sh: expected parts of smoke, tests, benchmarks, profile and train, got $name" >&2
      exit 2
      ;;
  esac
done
wanted=" ${*:-smoke tests benchmarks profile train} "
folder=$(realpath -m "$folder")
python=${PYTHON:-python3}
last=${LIMIT:-570}
build=${BUILD:-150}
# The tree's own spxcore has no kernels: what is imported is what was installed.
export PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONPATH=$PWD/tests/support${PYTHONPATH:+:$PYTHONPATH}
export PATH=${CUDA_HOME:-/usr/local/cuda}/bin:$PATH
unset TRITON_INTERPRET
if ! nvidia-smi -L >/dev/null 2>&1; then
  echo "gpu_report.sh: expected an NVIDIA GPU with its driver, found none" >&2
  exit 2
fi
mkdir -p "$folder"
: >"$folder/logs.txt"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=0

# What a tool says where the machine does not let it do its work.
unsupported='Device not supported|LibraryNotLoaded|ERR_NVGPUCTRPERM|profiler is not supported'

say() { echo "$*" | tee -a "$folder/summary.txt"; }

part() {  # part NAME SECONDS COMMAND...: run a part within so many seconds, and say what became of it; status 3 is "unsupported"
  local name=$1 limit=$2 start=$SECONDS status=0 result
  shift 2
  [ "$limit" -le $((last - SECONDS)) ] || limit=$((last - SECONDS))
  if [ "$limit" -lt 10 ]; then
    say "$name not reached: $SECONDS of $last s are over"
    failed=1
    return 1
  fi
  # Interrupted, it has five of its seconds to write what it has.
  timeout --signal=INT --kill-after=5 $((limit - 5)) "$@" >"$log" 2>&1 || status=$?
  case $status in
    0) result=passed ;;
    3) result=unsupported ;;
    124 | 137) result="FAILED (it took more than $((limit - 5)) s)" ;;
    *)
      result="FAILED ($status)"
      if grep -qE "$unsupported" "$log"; then result=unsupported; fi
      ;;
  esac
  # Tests that were all skipped have shown nothing.
  if [ "$result" = passed ] && tail -n 1 "$log" | grep -q " skipped" && ! tail -n 1 "$log" | grep -q " passed"; then
    result=unsupported
  fi
  case $result in FAILED*) failed=1 ;; esac
  say "$name $result after $((SECONDS - start)) s: $(grep . "$log" | tail -n 1)"
  { echo "==== $name $result"; cat "$log"; } >>"$folder/logs.txt"
  [ "$result" = passed ]
}

tool() {  # tool NAME SECONDS PROGRAM OPTIONS...: the same with one of the CUDA toolkit's tools
  if command -v "$3" >/dev/null; then
    part "$@"
  else
    say "$1 unsupported: $3 was not found; it comes with the CUDA toolkit"
  fi
}

asked() { [[ $wanted == *" $1 "* ]]; }

has() { "$python" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$1') is None)" 2>/dev/null; }

draw() {  # the Python that draws images of a small random network on the cuda engine: draw HEIGHT WIDTH IMAGES PRESET
  cat <<PYTHON
from helpers import drawn, job
from spx.models.spatial.config import preset
from spxcore import engines, native
if not native.have_cuda():
    print(native.why_no_cuda())
    raise SystemExit(3)
print(drawn(engines.get("cuda", precision="bf16"), job(preset("$4"), $1, $2, $3)).pixels.mean())
PYTHON
}

benchmark() {  # benchmark NAME SECONDS JSON WHICH: some of benchmarks/test_gpu.py
  if ! has pytest_benchmark; then
    say "$1 unsupported: pytest-benchmark is not installed"
    return
  fi
  part "$1" "$2" "$python" -m pytest -q -s benchmarks/test_gpu.py -k "$4" --benchmark-only --benchmark-json "$folder/$3"
}

versions() {
  date -u
  echo "parts$wanted"
  echo "commit $(git rev-parse HEAD 2>/dev/null || echo unknown)"
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
  nvcc --version | tail -n 2
  "$python" --version
  for name in torch triton numpy setuptools pybind11 pytest; do
    "$python" -c "import importlib.metadata as m; print('$name', m.version('$name'))" 2>&1 | tail -n 1
  done
}
versions >"$folder/summary.txt" 2>&1
cat "$folder/summary.txt"

if command -v nvcc >/dev/null; then
  cuda=1
else
  cuda=0
  say "cuda unsupported: nvcc was not found; it comes with the CUDA toolkit"
fi
# --no-build-isolation and --no-deps: what it needs is there or is said to be missing, and nothing is fetched.
if ! part build "$build" env SPX_CUDA=$cuda SPX_REQUIRE_NATIVE=1 CUDAARCHS="${CUDAARCHS:-native}" "$python" -m pip install \
  --disable-pip-version-check --no-index --no-build-isolation --no-deps -v -e .; then
  say "spx could not be installed, so nothing else is tried: see logs.txt"
  exit 1
fi
processes=()
if has xdist; then processes=(-n 4); fi

if asked smoke; then
  part smoke-triton 60 "$python" tests/support/gpu_smoke.py triton
  part smoke-cuda 40 "$python" tests/support/gpu_smoke.py cuda
fi
if asked tests; then
  part tests-cuda 180 "$python" -m pytest -v "${processes[@]}" -m gpu tests/spxcore/engines/test_cuda.py
  # All of Triton's tests: where there is a GPU none runs in the interpreter. Most of their time is the compiler's.
  part tests-triton 130 "$python" -m pytest -v "${processes[@]}" -k "not compile" tests/spxcore/engines/test_triton.py \
    tests/spxcore/engines/test_triton_raster.py tests/kernels/test_gated.py
fi
if asked benchmarks; then
  benchmark benchmarks 200 gpu.json "not training"
  [ -s "$folder/gpu.json" ] && "$python" benchmarks/gpu_table.py "$folder/gpu.json" | tee "$folder/gpu.md" >>"$folder/summary.txt"
fi
if asked profile; then
  tool memcheck 40 compute-sanitizer --tool memcheck --error-exitcode 1 "$python" -c "$(draw 10 14 2 small-4x4)"
  tool racecheck 40 compute-sanitizer --tool racecheck --error-exitcode 1 "$python" -c "$(draw 6 8 1 small-4x4)"
  # Clocks as they are: a machine that is shared does not let them be set.
  tool profile 60 ncu --force-overwrite --clock-control none --set full --kernel-name regex:draw_kernel --launch-count 1 \
    --export "$folder/profile" "$python" -c "$(draw 64 256 1 small-8x8)"
fi
if asked train; then
  benchmark training 120 training.json "training"
fi
say "all of it took $SECONDS s; the results are in $folder"
exit $failed
