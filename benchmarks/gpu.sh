#!/usr/bin/env bash
# Everything the CUDA side still owes, in one go on a machine with an NVIDIA GPU, nvcc and a CUDA torch:
#   bash benchmarks/gpu.sh [OUT]        (about 20 minutes; needs 4 GiB of disk, no network)
# parity (tests marked gpu), compute-sanitizer, throughput beside torch and tiny-cuda-nn, and the
# 100-frame 640x480 loop with its seconds per stage. Each step is told by its exit code at the end;
# OUT/*.log belongs into benchmarks/results/core-gpu.md, with the machine's name from its first line.
set -u
cd "$(dirname "$0")/.."
OUT=${1:-out/gpu}
mkdir -p "$OUT"
export ENDORECON_KERNELS=require ENDORECON_CACHE="$PWD/$OUT/cache" OMP_WAIT_POLICY=PASSIVE
declare -A rc
run() {  # NAME COMMAND...: its output in OUT/NAME.log, its exit code kept
  local name=$1; shift
  echo "== $name: $*"
  "$@" > "$OUT/$name.log" 2>&1
  rc[$name]=$?
  tail -n 6 "$OUT/$name.log"
}

{ nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader
  nvcc --version | tail -n 2; python -c 'import torch; print("torch", torch.__version__)'; } | tee "$OUT/machine.log"
run doctor endorecon doctor
run build python -c 'from endorecon import kernels as k; import time
for n in ("field", "sweep"):
    t = time.time(); assert k.load(n, "cuda"), k.why(n, "cuda"); print(n, round(time.time() - t, 1), "s to build")'
run parity python -m pytest -q -m gpu --timeout 600
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck initcheck synccheck; do
    run "sanitizer-$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 \
      --target-processes all python -m pytest -q -x tests/test_gpu.py --timeout 1200
  done
else
  echo "compute-sanitizer is not on PATH: SKIPPED"; rc[sanitizer]=skipped
fi
run core-4096 python benchmarks/core.py --device cuda --json "$OUT/core-4096.json"
run core-65536 python benchmarks/core.py --device cuda --rays 65536 --no-compile --json "$OUT/core-65536.json"
[ -f "$OUT/phantom/video.mp4" ] || run phantom endorecon phantom "$OUT/phantom" --frames 100 --size 640x480
rm -rf "$OUT/run"
run loop endorecon fit "$OUT/phantom/video.mp4" --camera "$OUT/phantom/calibration.yaml" \
  --out "$OUT/run" --config default --device cuda
run evaluate endorecon evaluate "$OUT/run" --ct "$OUT/phantom/ct" \
  --ct-landmarks "$OUT/phantom/landmarks.mrk.json" --clicks "$OUT/phantom/clicks.csv" \
  --distances "$OUT/phantom/distances.yaml"
python - "$OUT/run/run.json" <<'P'
import json, sys
info = json.load(open(sys.argv[1]))
print("100 frames 640x480, seconds a stage:", info["seconds"], "goal: <= 60 in all;", info["device"], info["kernels"])
P
echo "== exit codes"
for name in "${!rc[@]}"; do echo "$name: ${rc[$name]}"; done | sort
for code in "${rc[@]}"; do [ "$code" = 0 ] || [ "$code" = skipped ] || exit 1; done
