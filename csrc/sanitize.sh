#!/usr/bin/env bash
# Build spxcore._native with a sanitizer, in a copy of the tree, and run the native tests that can tell it something, and under
# `address` calls whose arguments are wrong (tests/csrc/fuzz.py): csrc/sanitize.sh address|thread [pytest options]
set -euo pipefail
cd "$(dirname "$0")/.."
unset MAKEFLAGS  # make's job server is closed to the ninja below
python=${PYTHON:-python3}
kind=${1:?expected address or thread}
shift
case $kind in
  address)
    flags="-fsanitize=address,undefined -fno-sanitize-recover=undefined" library=libasan.so
    tests="not free_running and not shipped and not without_torch and not environment and not filters and not build_info"
    # What differs from another test in Python alone, or is for the thread sanitizer.
    tests+=" and not temperature and not as_torch and not share_weights and not comparison and not grid and not bits and not company"
    tests+=" and not kept-host and not test_q and not resize and not model and not mean_image and not python_threads" ;;
  thread)
    flags="-fsanitize=thread" library=libtsan.so
    tests="(threads or company or report or finished or given or grid or bits)"
    tests+=" and not as_torch and not kept-host and not elsewhere and not bf16-host and not tf32-host" ;;
  *) echo "sanitize.sh: expected address or thread, got $kind" >&2; exit 2 ;;
esac
build=$PWD/build/sanitize-$kind
mkdir -p "$build/tree"
cp -r spxcore kernels "$build/tree/"
rm -f "$build"/tree/spxcore/*.so
"$python" -m cmake --version >/dev/null 2>&1 && cmake=("$python" -m cmake) || cmake=(cmake)
"${cmake[@]}" -S . -B "$build/cmake" -G Ninja -DSPX_CUDA=OFF -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_CXX_FLAGS="$flags -g1 -fno-omit-frame-pointer" -DCMAKE_CXX_FLAGS_RELEASE=-O1 -DPython_EXECUTABLE="$(command -v "$python")" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$build/tree/spxcore" >/dev/null
"${cmake[@]}" --build "$build/cmake" --target _native >/dev/null
# Python is not built with the sanitizer, so its library comes first; what Python itself leaks is not ours to report.
# A request that is too large for the sanitizer's memory is refused as it is without it.
sanitized() {
  LD_PRELOAD="$(c++ -print-file-name=$library) $(c++ -print-file-name=libstdc++.so)" \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 TSAN_OPTIONS="halt_on_error=1 ignore_noninstrumented_modules=1" \
    UBSAN_OPTIONS=print_stacktrace=1 PYTHONPATH="$build/tree:$PWD/python" "$python" -P "$@"
}
[ "$kind" != address ] || sanitized tests/csrc/fuzz.py --calls "${SPX_FUZZ_CALLS:-10000}" --seed "${SPX_FUZZ_SEED:-0}"
sanitized -m pytest -q -p no:cacheprovider -k "$tests" "$@" \
  tests/spxcore/test_native.py tests/spxcore/engines/test_cpp.py tests/spxcore/engines/test_cpp_raster.py \
  tests/spxcore/engines/test_image_networks.py tests/spxcore/engines/test_cuda.py
