#!/usr/bin/env bash
# Everything that only a real GPU can show, by phases:
#
#   tools/gpu.sh [PHASE..]        all of them without arguments
#
#   info       the card, its driver, the devices that gristmill sees
#   ptx        the driver compiles every committed module; no kernel spills
#   cuda       the conformance suite, full tier, and the tests of the CUDA backend
#   wgpu       the conformance suite, full tier, and the tests of the wgpu backend, on Vulkan
#   sanitizer  compute-sanitizer over the smoke tier and the CUDA tests (memcheck, racecheck, synccheck, initcheck)
#   bench      every bench case on CUDA and Vulkan, and torch on the same shapes (where python3 has it)
#
# Raw results go to $GRISTMILL_GPU_OUT (target/gpu). The programs come from `tools/gpu.sh build`, which needs cargo and
# puts them into $GRISTMILL_GPU_BIN (target/gpu-bin): build on one machine, carry that folder, run on another without Rust.
# Exits with 1 when a phase failed, after all of them have run.
set -uo pipefail
cd "$(dirname "$0")/.."

bin="${GRISTMILL_GPU_BIN:-target/gpu-bin}"
out="${GRISTMILL_GPU_OUT:-target/gpu}"
mkdir -p "$out"
failed=()

build() {
  set -e
  mkdir -p "$bin"
  cargo build --release --package gristmill-cli --all-features
  cp "${CARGO_TARGET_DIR:-target}/release/gristmill" "$bin/gristmill"
  local features=cpu,wgpu,cuda,conformance,capture
  cargo test --release --no-run --no-default-features --features "$features" --lib \
    --test conformance_cuda --test conformance_wgpu --message-format=json |
    sed -n 's/.*"name":"\([a-z_]*\)".*"executable":"\([^"]*\)".*/\1 \2/p' |
    while read -r name path; do cp "$path" "$bin/test-$name"; done
  strip "$bin"/*
  set +e
}

# A step that fails is named at the end; its output is kept in $out/NAME.txt and its last lines are shown.
step() {
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  # A function of this script keeps its own time.
  if [ "$(type -t "$1")" = function ]; then "$@"; else timeout "$limit" "$@"; fi >"$out/$name.txt" 2>&1
  local code=$?
  printf '== %s: exit %s, %s s\n' "$name" "$code" "$((SECONDS - start))"
  tail -n "${LINES_SHOWN:-4}" "$out/$name.txt"
  if [ "$code" != 0 ]; then failed+=("$name"); fi
}

# The full tier of a device, ops side by side: compiling shaders is host work.
by_op() {
  local op code=0 jobs=()
  for op in mat_mul mat_mul_many grouped_mat_mul attention dequantize quantize kv_write gather_rows rope norm softmax \
    unary binary glu reduce top_k copy conv2d upsample; do
    timeout 400 "$bin/gristmill" verify --device "$1" --tier full --op "$op" >"$out/verify-$1-$op.txt" 2>&1 &
    jobs+=("$!")
  done
  for job in "${jobs[@]}"; do wait "$job" || code=1; done
  cat "$out/verify-$1"-*.txt
  grep -h FAILED "$out/verify-$1"-*.txt
  return "$code"
}

info() {
  LINES_SHOWN=20 step info 60 nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,temperature.gpu,power.limit --format=csv
  LINES_SHOWN=60 step devices 60 "$bin/gristmill" devices
}

ptx() {
  GRISTMILL_REQUIRE_CUDA=1 LINES_SHOWN=8 step ptx 300 "$bin/test-gristmill" --nocapture --test-threads 1 compiles_every_module
}

cuda() {
  export GRISTMILL_REQUIRE_CUDA=1
  step cuda-verify 300 "$bin/gristmill" verify --device cuda --tier full --markdown "$out/cuda-verify.md"
  LINES_SHOWN=12 step cuda-tests 300 "$bin/test-conformance_cuda"
  # The tests of the preflight build a stand-in driver with rustc.
  step cuda-unit 120 "$bin/test-gristmill" cuda --skip preflight
}

wgpu() {
  export GRISTMILL_REQUIRE_WGPU=1
  LINES_SHOWN=40 step wgpu-verify 0 by_op wgpu
  LINES_SHOWN=12 step wgpu-tests 300 "$bin/test-conformance_wgpu"
}

# The four tools side by side.
under_sanitizer() {
  local tool code=0 jobs=()
  for tool in memcheck racecheck synccheck initcheck; do
    GRISTMILL_TIER=smoke timeout 400 compute-sanitizer --tool "$tool" --error-exitcode 9 --launch-timeout 300 \
      "$bin/test-conformance_cuda" --test-threads 1 >"$out/sanitizer-$tool.txt" 2>&1 &
    jobs+=("$!")
  done
  for job in "${jobs[@]}"; do wait "$job" || code=1; done
  for tool in memcheck racecheck synccheck initcheck; do
    echo "$tool: $(grep -c "^test .* ok$" "$out/sanitizer-$tool.txt") tests ok; $(grep "SUMMARY" "$out/sanitizer-$tool.txt")"
  done
  return "$code"
}

sanitizer() {
  step sanitizer 0 under_sanitizer
}

bench() {
  LINES_SHOWN=2 step bench-cuda 300 "$bin/gristmill" bench --device cuda --all-kernels --json --seconds 0.05 --svg "$out/cuda.svg"
  LINES_SHOWN=2 step bench-wgpu 300 "$bin/gristmill" bench --device wgpu --all-kernels --json --seconds 0.05 --svg "$out/wgpu.svg"
  if python3 -c 'import torch; torch.cuda.current_device()' 2>/dev/null; then
    LINES_SHOWN=200 step table 300 python3 tools/gpu_table.py "$out/bench-cuda.txt" "$out/bench-wgpu.txt"
  else
    echo "== torch: none here, so no table beside it"
  fi
}

phases=("$@")
if [ "${#phases[@]}" = 0 ]; then
  if command -v cargo >/dev/null; then build; fi
  phases=(info ptx cuda wgpu sanitizer bench)
fi
for phase in "${phases[@]}"; do
  case "$phase" in
    build | info | ptx | cuda | wgpu | sanitizer | bench) "$phase" ;;
    *)
      echo "no phase is called $phase; there are build, info, ptx, cuda, wgpu, sanitizer and bench" >&2
      exit 2
      ;;
  esac
done
if [ "${#failed[@]}" != 0 ]; then
  echo "failed: ${failed[*]}"
  exit 1
fi
