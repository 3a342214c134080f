#!/usr/bin/env bash
# Everything that needs a GPU, in one command of less than ten minutes: builds for the device of this machine,
# runs the GPU tests, compute-sanitizer on a small case, the audit of the bound, then the benchmarks: top-k beside torch
# and CuPy; ALS beside torch and, where it is installed, implicit; blended top-k and attention beside torch. Needs
# nvcc, cmake, ninja, pybind11, CuPy, PyTorch and what the tests need, but no network. Results go to $OUT where that is
# set, else to benchmarks/results.
#
#     bash benchmarks/gpu.sh            # all of it
#     bash benchmarks/gpu.sh --quick    # fewer shapes and rounds
set -uo pipefail
[ -d /usr/local/cuda/bin ] && PATH="$PATH:/usr/local/cuda/bin"  # compute-sanitizer is often there alone
cd "$(dirname "$0")/.."
work="${SALIENCE_GPU_WORK:-${TMPDIR:-/tmp}/salience-gpu}"
out="${OUT:-$PWD/benchmarks/results}"
mkdir -p "$work/site" "$out"
failed=""
start=$SECONDS

step() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - start)); }
fail() { failed="$failed $1"; echo "FAILED: $1"; }

step "device"
nvidia-smi --query-gpu=name,compute_cap,driver_version,clocks.sm,clocks.max.sm,clocks.mem,memory.total --format=csv,noheader || exit 1
nvcc --version | tail -n 2
arch="$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)"

step "build for sm_$arch"
cmake -S . -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSALIENCE_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="$arch-real" \
  -Dpybind11_DIR="$(python3 -m pybind11 --cmakedir)" -DPython_EXECUTABLE="$(command -v python3)" \
  -DSKBUILD_PROJECT_VERSION="$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)" > "$work/configure.log" 2>&1 &&
  timeout 240 cmake --build "$work/build" > "$work/build.log" 2>&1 || { tail -n 40 "$work/configure.log" "$work/build.log"; exit 1; }
rm -rf "$work/site/salience" && cp -r python/salience "$work/site/" && rm -f "$work/site/salience/"*.so
cp "$work/build/"_core*.so "$work/build/"_cuda*.so "$work/site/salience/"
export PYTHONPATH="$work/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
(cd "$work" && python3 -c 'import salience; c = salience.show_config(); print(c["cuda"]); print(c["gpu"] or c["cuda_why_not"])') || exit 1

step "tests on the GPU"
export SALIENCE_REQUIRE_GPU=1 SALIENCE_ONLY_GPU=1
timeout 150 python3 -m pytest -q --maxfail=10 -p no:cacheprovider -W default tests/cuda || fail "tests"
timeout 75 python3 tests/cuda/fuzz_cuda.py 200 --gpu || fail "random configurations"

step "compute-sanitizer"
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    if [ $((SECONDS - start)) -gt 260 ]; then echo "SKIPPED: no time is left for $tool"; continue; fi
    timeout 60 compute-sanitizer --tool $tool --error-exitcode 9 python3 tests/cuda/fuzz_cuda.py 8 --gpu > "$work/$tool.log" 2>&1
    status=$?
    tail -n 4 "$work/$tool.log"
    if [ $status = 124 ]; then echo "$tool: ran out of time"; elif [ $status != 0 ]; then fail "$tool"; fi
  done
else
  echo "SKIPPED: there is no compute-sanitizer on this machine"
fi

step "audit of the bound, then the benchmark of top-k"
left=$((505 - (SECONDS - start)))  # half for each
timeout $((left / 2 + 15)) python3 benchmarks/bench_gpu.py --save "$out" --budget $((left / 2 - 20)) "$@" || fail "benchmark of top-k"

step "the benchmark of ALS"
left=$((515 - (SECONDS - start)))
timeout $left python3 benchmarks/bench_gpu_als.py --save "$out" --budget $((left - 20)) "$@" || fail "benchmark of ALS"

step "the benchmark of blended top-k and of attention"
left=$((575 - (SECONDS - start)))
timeout $left python3 benchmarks/bench_gpu_serving.py --save "$out" --budget $((left - 30)) "$@" || fail "benchmark of serving"

if [ -n "$failed" ]; then echo "FAILED:$failed"; exit 1; fi
