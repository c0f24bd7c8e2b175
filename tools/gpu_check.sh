#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# On a machine with a GPU: build, test, check memory and measure.
#
#   tools/gpu_check.sh DIRECTORY
#
# leaves one JSON file per benchmark and the logs in DIRECTORY. It installs nothing and needs no
# network: PYTHON (default python3) has torch with CUDA, numpy, pytest, setuptools, pybind11 and
# ninja. Tests that need more, such as trimesh, are skipped and named; peers that are missing, too.
# The extension is built in place, for this GPU unless DIFFISO_CUDA_ARCHS says otherwise.
#
# It ends within SECONDS_IN_ALL (default 470): tests and the memory checker have their shares, and
# benchmarks take what is left, small sizes first; those that time did not suffice for are named.
set -euo pipefail

if [[ $# -ne 1 ]]; then
  echo "usage: tools/gpu_check.sh DIRECTORY" >&2
  exit 2
fi
if ! { mkdir -p "$1" && touch "$1/.writable" && rm "$1/.writable"; }; then
  echo "gpu_check: DIRECTORY must be a folder that can be written, got $1" >&2
  exit 2
fi
out=$(cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}

"$python" - <<'PROGRAM'
import sys, torch
if not torch.cuda.is_available():
    sys.exit(f"gpu_check: torch {torch.__version__} sees no CUDA device")
print("torch", torch.__version__, "CUDA", torch.version.cuda, "on", torch.cuda.get_device_name())
PROGRAM
capability=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
export DIFFISO_CUDA=on DIFFISO_CUDA_ARCHS=${DIFFISO_CUDA_ARCHS:-$capability}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

budget=${SECONDS_IN_ALL:-470}
failed=() unfinished=()

# step NAME MOST COMMAND...: run it for at most so many seconds, and never beyond the budget.
step() {
  local name=$1 most=$2 begin=$SECONDS left=$((budget - SECONDS)) status=0
  shift 2
  printf '\n===== %s\n' "$name"
  if [[ $left -lt 5 ]]; then
    unfinished+=("$name")
    return
  fi
  timeout --kill-after=10 "$((left < most ? left : most))" "$@" 2>&1 | tee "$out/$name.log" ||
    status=$((PIPESTATUS[1] ? 1 : PIPESTATUS[0]))  # a log that cannot be written is a failure
  case $status in
    0) ;;
    124) unfinished+=("$name") ;;
    137) if [[ $((SECONDS - begin)) -ge $((left < most ? left : most)) ]]; then
      unfinished+=("$name")
    else
      failed+=("$name")  # killed before its time, for memory
    fi ;;
    *) failed+=("$name") ;;
  esac
  printf '===== %s: %d s\n' "$name" "$((SECONDS - begin))"
}

step build 240 "$python" setup.py --quiet egg_info build_ext --inplace
if [[ ${#failed[@]} -gt 0 || ${#unfinished[@]} -gt 0 ]]; then
  echo "gpu_check: the build failed, or took too long" >&2
  exit 1
fi
"$python" -c 'import diffiso, json; print(json.dumps(diffiso.build_info(), indent=2))'

step tests 150 "$python" -m pytest -m cuda --bare
PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
if command -v compute-sanitizer >/dev/null; then
  # Every tensor by itself: in torch's cached blocks an access beyond one hits its neighbour.
  step memcheck 90 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck \
    --error-exitcode 1 "$python" tools/gpu_smoke.py
else
  step smoke 90 "$python" tools/gpu_smoke.py
  echo "gpu_check: no compute-sanitizer here, memory is not checked"
fi
step bench-quick 90 "$python" -m bench --device cuda --quick --json "$out/quick"
step bench "$budget" "$python" -m bench --device cuda --scaling --json "$out"

if [[ ${#failed[@]} -gt 0 ]]; then
  echo "gpu_check: failed: ${failed[*]}" >&2
  exit 1
fi
if [[ ${#unfinished[@]} -gt 0 ]]; then
  echo "gpu_check: time was up in ${unfinished[*]}: what they had done is in $1"
  for name in "${unfinished[@]}"; do
    case $name in tests | memcheck | smoke) exit 1 ;; esac
  done
fi
echo "gpu_check: all else passed; results are in $1"
