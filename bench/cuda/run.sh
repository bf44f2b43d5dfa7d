#!/bin/sh
# Everything that needs a GPU, in one go: builds the library, checks it, measures it. Less than eight minutes on an H100.
#
#   bench/cuda/run.sh [OUT]            OUT: a folder for logs, default bench/cuda/out
#
#   JS=/path/to/node     node 22.18 or newer, or bun: for the build script, the conformance suite and the command line. Where there
#                        is none, nvcc is called from here, and the kernels are checked against the CPU shim only.
#   LIBRARY=/path/x.so   a library that was built before (npm run build:cuda), where this machine has no nvcc
#   SHIM=/path/y.so      the CPU shim, built before, where this machine has no g++
#   MODEL=/path/z.gguf   a model for `bitnet bench --backend cuda`
#   MEASURE=tiny         small sizes, to try this script with the CPU shim as LIBRARY and as SHIM
#
# Each step says what it does without; the exit status is 1 when a check failed. Speed is printed last, with its ceilings.
set -u
cd "$(dirname "$0")/../.." || exit 2
OUT=${1:-bench/cuda/out}
mkdir -p "$OUT"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
JS=${JS:-$(command -v node || command -v bun || true)}
PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
NATIVE=src/kernels/cuda/native
FAILED=0
START=$(date +%s)

step() { echo; echo "== $1 ($(($(date +%s) - START)) s)"; }
failed() { echo "FAILED: $1"; FAILED=1; }
# A step that takes too long must not take the others with it.
limited() { seconds=$1; shift; if command -v timeout >/dev/null; then timeout "$seconds" "$@"; else "$@"; fi; }

step "the card"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "no nvidia-smi"

step "build"
LIBRARY=${LIBRARY:-}
if [ -z "$LIBRARY" ] && command -v nvcc >/dev/null; then
  LIBRARY=$WORK/libbitnet-cuda.so
  # One architecture and all cores: this library is for this card.
  ARCH=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
  ARCH=${ARCH:-90}
  if [ -n "$JS" ]; then
    limited 240 "$JS" src/kernels/cuda/build.mjs --arch "$ARCH" --jobs 8 --out "$LIBRARY" >"$OUT/build.txt" 2>&1 || failed "build, see $OUT/build.txt"
  else
    # The flags of build.mjs.
    FLAGS="-fmad=false -prec-div=true -prec-sqrt=true -ftz=false -std=c++17 -O3 -Xcompiler -fPIC,-fvisibility=hidden -Xptxas -v"
    for source in "$NATIVE"/*.cu; do
      # shellcheck disable=SC2086
      nvcc $FLAGS -gencode=arch=compute_"$ARCH",code=sm_"$ARCH" -c -o "$WORK/$(basename "$source").o" "$source" \
        >"$WORK/$(basename "$source").log" 2>&1 &
    done
    wait
    cat "$WORK"/*.log >"$OUT/build.txt"
    nvcc -shared -cudart static -o "$LIBRARY" "$WORK"/*.cu.o >>"$OUT/build.txt" 2>&1 || failed "build, see $OUT/build.txt"
  fi
fi
[ -f "$LIBRARY" ] || { echo "no library and no nvcc: nothing to do"; exit 1; }
echo "$LIBRARY"
g++ -std=c++17 -O2 bench/cuda/check.cpp -o "$WORK/check" -ldl || failed "check.cpp"
if command -v nvcc >/dev/null; then
  nvcc -x cu -std=c++17 -O2 -DWITH_CUDART bench/cuda/measure.cpp -o "$WORK/measure" -ldl || failed "measure.cpp"
else
  g++ -std=c++17 -O2 bench/cuda/measure.cpp -o "$WORK/measure" -ldl || failed "measure.cpp"
fi
SHIM=${SHIM:-}
if [ -z "$SHIM" ]; then
  SHIM=$WORK/shim.so
  for source in "$NATIVE"/*.cu test/cuda/shim/*.cpp; do
    g++ -std=c++17 -O2 -fPIC -ffp-contract=off -fvisibility=hidden -DBN_SHIM -Itest/cuda/shim -I"$NATIVE" -c \
      -o "$WORK/$(basename "$source").shim" -x c++ "$source" &
  done
  wait
  g++ -shared -o "$SHIM" "$WORK"/*.shim || failed "the CPU shim"
fi

step "every op against the CPU shim, bit for bit"
limited 150 "$WORK/check" "$LIBRARY" "$SHIM" || failed "check, exit status $? (124: out of time)"

step "compute-sanitizer"
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    limited 60 compute-sanitizer --tool $tool --error-exitcode 9 "$WORK/check" "$LIBRARY" "$SHIM" small >"$OUT/$tool.txt" 2>&1 ||
      failed "$tool, see $OUT/$tool.txt"
    tail -n 2 "$OUT/$tool.txt"
  done
else
  echo "not on this machine: not run"
fi

step "the conformance suite against kernels/ts"
if [ -n "$JS" ] && [ -d node_modules/koffi ]; then
  limited 120 "$JS" bench/cuda/conform.ts "$LIBRARY" || failed "conformance, exit status $? (124: out of time; or an engine that cannot run TypeScript)"
else
  echo "no JavaScript engine or no koffi here: not run"
fi

step "kernels and steps"
limited 180 "$WORK/measure" "$LIBRARY" ${MEASURE:-} | tee "$OUT/measure.txt"

step "from JavaScript"
if [ -n "$JS" ] && [ -f dist/cli/main.js ] && [ -n "${MODEL:-}" ]; then
  BITNET_CUDA_LIBRARY=$LIBRARY limited 90 "$JS" dist/cli/main.js bench -m "$MODEL" --backend cuda | tee "$OUT/bench.txt"
else
  echo "needs JS, a built dist/ and MODEL: not run"
fi

echo
echo "$(($(date +%s) - START)) s in all; $([ $FAILED = 0 ] && echo "all checks passed" || echo "CHECKS FAILED")"
exit $FAILED
