#!/bin/sh
# Everything that needs a GPU, in one go: builds the library, checks it, measures it. Less than eight minutes: the limits of the steps
# sum to 470 s, and most need a fraction of theirs on an H100 with 16 cores.
#
#   bench/cuda/run.sh [OUT]            OUT: a folder for logs, default bench/cuda/out
#
#   JS=/path/to/node     node 22.18 or newer, or bun: for whole models, the story and figures from JavaScript. Nothing has to be built
#                        for it, but it wants node_modules. Default: node or bun of PATH; JS=none does without.
#   LIBRARY=/path/x.so   a library that was built before (npm run build:cuda), where this machine has no nvcc
#   SHIM=/path/y.so      the CPU shim, built before
#   MODEL=/path/z.gguf   the model for figures from JavaScript; default: random weights in the shape of BitNet-b1.58-2B-4T
#   PEER=/path/libbitnet.so   bitnet.cpp's kernels (its gpu/bitnet_kernels), to time them beside ours in the same run
#   MEASURE=tiny         few and small sizes, and limits ten times as long: to try this script with the CPU shim as LIBRARY and as SHIM
#
# Each step says what it does without. The exit status is 1 when a check failed. A table of what was hoped for is printed last.
set -u
cd "$(dirname "$0")/../.." || exit 2
OUT=${1:-bench/cuda/out}
mkdir -p "$OUT" || exit 2
rm -f "$OUT"/measure.txt "$OUT"/bench.csv "$OUT"/story.txt
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
JS=${JS:-$(command -v node || command -v bun || echo none)}
PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
NATIVE=src/kernels/cuda/native
TINY=${MEASURE:-}
FAILED=0
START=$(date +%s)

have() { command -v "$1" >/dev/null 2>&1; }
step() { echo; echo "== $1 ($(($(date +%s) - START)) s)"; }
failed() { echo "FAILED: $1"; FAILED=1; }
why() { if [ "$1" = 124 ]; then echo "out of time"; else echo "exit status $1"; fi; }
# A step that takes too long must not take the others with it: exit status 124.
limited() {
  seconds=$1
  shift
  [ -z "$TINY" ] || seconds=$((seconds * 10))
  if have timeout; then timeout "$seconds" "$@"; else "$@"; fi
}
# Each file by itself, all at once: compile SECONDS SUFFIX COMPILER FLAGS.. -- FILES..
compile() {
  most=$1 suffix=$2 flags=''
  shift 2
  while [ "$1" != -- ]; do flags="$flags $1" && shift; done
  shift
  for source; do
    # shellcheck disable=SC2086
    limited "$most" $flags -c -o "$WORK/$(basename "$source").$suffix" "$source" >"$WORK/$(basename "$source").$suffix.log" 2>&1 &
  done
  wait
}

step "what is here"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || echo "no nvidia-smi"
TYPESCRIPT=''
if [ "$JS" = none ]; then
  echo "no JavaScript engine: no whole models, no story, no figures from JavaScript"
elif ! "$JS" --version >/dev/null 2>&1; then
  failed "JS=$JS does not run"
  JS=none
else
  echo 'const one: number = 1; console.log(one);' >"$WORK/probe.ts"
  if ! "$JS" "$WORK/probe.ts" >/dev/null 2>&1; then echo "$JS $("$JS" --version) runs no TypeScript: Node 22.18 or newer does, and bun"
  elif ! [ -d node_modules/koffi ]; then echo "no node_modules (npm ci): no whole models, no story, no figures from JavaScript"
  else TYPESCRIPT=1 && echo "$JS $("$JS" --version)"; fi
fi

step "build"
LIBRARY=${LIBRARY:-}
if [ -n "$LIBRARY" ]; then
  [ -f "$LIBRARY" ] || { echo "FAILED: LIBRARY=$LIBRARY is no file"; exit 1; }
elif ! have nvcc; then
  echo "FAILED: no nvcc in PATH or CUDA_HOME, and no LIBRARY: nothing to check"
  exit 1
else
  LIBRARY=$WORK/libbitnet-cuda.so
  # One architecture and all cores: this library is for this card.
  ARCH=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d .)
  ARCH=${ARCH:-90}
  if [ "$JS" != none ]; then
    limited 90 "$JS" src/kernels/cuda/build.mjs --arch "$ARCH" --jobs 8 --allow-spills --out "$LIBRARY" >"$OUT/build.txt" 2>&1
  else
    # The flags of build.mjs.
    compile 80 o nvcc -fmad=false -prec-div=true -prec-sqrt=true -ftz=false -std=c++17 -O3 -Xcompiler -fPIC,-fvisibility=hidden \
      -Xptxas -v "-gencode=arch=compute_$ARCH,code=sm_$ARCH" -- "$NATIVE"/*.cu
    cat "$WORK"/*.o.log >"$OUT/build.txt"
    limited 10 nvcc -shared -cudart static -o "$LIBRARY" "$WORK"/*.cu.o >>"$OUT/build.txt" 2>&1
  fi
  [ -f "$LIBRARY" ] || { tail -n 20 "$OUT/build.txt"; echo "FAILED: build, see $OUT/build.txt"; exit 1; }
fi
echo "$LIBRARY"
CXX=${CXX:-g++}
have "$CXX" || { echo "FAILED: no $CXX, which compiles the programs of bench/cuda"; exit 1; }
SHIM=${SHIM:-}
if [ -z "$SHIM" ]; then
  SHIM=$WORK/shim.so
  compile 20 shim "$CXX" -std=c++17 -O2 -fPIC -ffp-contract=off -fvisibility=hidden -DBN_SHIM -Itest/cuda/shim "-I$NATIVE" -x c++ -- \
    "$NATIVE"/*.cu test/cuda/shim/*.cpp
  "$CXX" -shared -o "$SHIM" "$WORK"/*.shim || failed "the CPU shim"
fi
"$CXX" -std=c++17 -O2 bench/cuda/check.cpp -o "$WORK/check" -ldl || failed "check.cpp"
if have nvcc; then
  limited 20 nvcc -x cu -std=c++17 -O2 -DWITH_CUDART bench/cuda/measure.cpp -o "$WORK/measure" -ldl || failed "measure.cpp"
else
  "$CXX" -std=c++17 -O2 bench/cuda/measure.cpp -o "$WORK/measure" -ldl || failed "measure.cpp"
fi

step "every op against the CPU shim, bit for bit"
limited 40 "$WORK/check" "$LIBRARY" "$SHIM" ${TINY:+small} || failed "check, $(why $?)"

step "compute-sanitizer"
if [ -n "$TINY" ]; then
  echo "there is no card to watch: not run"
elif have compute-sanitizer; then
  for tool in memcheck racecheck; do
    limited 45 compute-sanitizer --tool $tool --error-exitcode 9 "$WORK/check" "$LIBRARY" "$SHIM" small >"$OUT/$tool.txt" 2>&1
    status=$?
    # So it is in some virtual machines, whatever the card: nothing was looked at, so nothing is wrong either.
    if grep -qi 'device not supported' "$OUT/$tool.txt"; then echo "$tool: not for this device or its virtual machine: not run"
    elif [ $status != 0 ]; then failed "$tool, $(why $status), see $OUT/$tool.txt"; fi
    tail -n 2 "$OUT/$tool.txt"
  done
else
  echo "not on this machine: not run"
fi

step "the conformance suite and whole models against kernels/ts, bit for bit"
if [ -n "$TYPESCRIPT" ]; then
  limited 50 "$JS" bench/cuda/conform.ts "$LIBRARY" ops models || failed "conformance, $(why $?)"
else
  echo "needs JS: not run"
fi

step "a story of the embedded model, greedy, against the CPU"
if [ -n "$TYPESCRIPT" ]; then
  limited 20 "$JS" bench/cuda/conform.ts "$LIBRARY" story >"$OUT/story.txt" || failed "story, $(why $?)"
  cat "$OUT/story.txt"
else
  echo "needs JS: not run"
fi

step "kernels and steps"
# Not in a pipe, which would lose the exit status.
limited 60 "$WORK/measure" "$LIBRARY" ${TINY:+tiny} >"$OUT/measure.txt" || failed "measure, $(why $?)"
grep -v '^reach |' "$OUT/measure.txt"

step "from JavaScript"
# Tokens of prompts and answers as in bitnet.cpp's gpu/README.md, with its milliseconds on an A100 (W2A8).
PUBLISHED='64,16:57.40 64,32:112.22 64,64:221.08 256,16:61.24 256,32:115.47 256,64:224.16 512,16:68.06 512,32:122.72 512,64:231.82'
MODEL=${MODEL:-}
if [ -n "$TYPESCRIPT" ]; then
  CLI=dist/cli/main.js
  [ -f "$CLI" ] || CLI=src/cli/main.ts
  if [ -z "$MODEL" ]; then
    MODEL=$WORK/random.gguf PRESET=2b
    [ -z "$TINY" ] || PRESET=tiny
    limited 25 "$JS" "$CLI" synth --quiet --preset "$PRESET" -o "$MODEL" || failed "synth"
  fi
  set -- -p 512 -n 128
  for one in $PUBLISHED; do set -- "$@" -pg "${one%:*}"; done
  [ -z "$TINY" ] || set -- -p 8 -n 4 -pg 3,2
  BITNET_CUDA_LIBRARY=$LIBRARY limited 55 "$JS" "$CLI" bench -m "$MODEL" --backend cuda -r 3 "$@" -o csv >"$OUT/bench.csv" ||
    failed "bench, $(why $?)"
  awk -F'","' 'NR > 1 { printf "%-12s %10.1f ms %12.1f tokens/s\n", $20, $22 / 1e6, $24 }' "$OUT/bench.csv"
else
  echo "needs JS: not run"
fi

step "what was hoped for"
[ -z "$TINY" ] || echo "sizes are tiny: these figures mean nothing"
row='%-44s %18s %12s   %s\n'
# shellcheck disable=SC2059
printf "$row" figure outcome reach ceiling
# shellcheck disable=SC2059
sed -n 's/^reach | //p' "$OUT/measure.txt" | while IFS='|' read -r what figure reach ceiling; do
  printf "$row" "${what% }" "$(echo "$figure" | xargs)" "$(echo "$reach" | xargs)" "${ceiling# }"
done
# A third of the published time, scaled by the memory of the two cards (A100 2.04, H100 3.35 TB/s); the ceiling reads the 1.18 GB of
# weights and F16 head once a token.
[ ! -f "$OUT/bench.csv" ] || awk -F'","' -v published="$PUBLISHED" '
  BEGIN { n = split(published, all, " "); for (i = 1; i <= n; i++) { split(all[i], one, ":"); ms[one[1]] = one[2] } }
  NR > 1 && $16 > 0 && $17 > 0 {
    key = $16 "," $17
    reach = key in ms ? sprintf("%.1f ms", ms[key] / 3 * 2.04 / 3.35) : "-"
    printf "%-44s %18s %12s   %.1f ms by bytes of weights\n", $16 " in, " $17 " out, from JavaScript", sprintf("%.1f ms", $22 / 1e6), reach, $17 * 1.178 / 3.35
  }' "$OUT/bench.csv"

echo
echo "$(($(date +%s) - START)) s in all; $([ $FAILED = 0 ] && echo "all checks passed" || echo "CHECKS FAILED")"
exit $FAILED
