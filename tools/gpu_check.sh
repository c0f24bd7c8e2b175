#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# On a machine with a GPU: build, test, check memory and measure.
#
#   tools/gpu_check.sh DIRECTORY
#
# leaves one JSON file per benchmark and the logs in DIRECTORY. It installs nothing and needs no
# network: PYTHON (default python3) has torch with CUDA, numpy, pytest, setuptools, pybind11 and
# ninja. The extension is built in place, for this GPU unless DIFFISO_CUDA_ARCHS says otherwise.
set -euo pipefail

if [[ $# -ne 1 ]]; then
  echo "usage: tools/gpu_check.sh DIRECTORY" >&2
  exit 2
fi
mkdir -p "$1"
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

failed=()
step() {
  local name=$1 begin=$SECONDS
  shift
  printf '\n===== %s\n' "$name"
  if ! "$@" 2>&1 | tee "$out/$name.log"; then failed+=("$name"); fi
  printf '===== %s: %d s\n' "$name" "$((SECONDS - begin))"
}

step build "$python" setup.py --quiet egg_info build_ext --inplace
if [[ ${#failed[@]} -gt 0 ]]; then exit 1; fi
"$python" -c 'import diffiso, json; print(json.dumps(diffiso.build_info(), indent=2))'

step tests "$python" -m pytest -m cuda
if command -v compute-sanitizer >/dev/null; then
  step memcheck compute-sanitizer --tool memcheck --error-exitcode 1 "$python" tools/gpu_smoke.py
else
  echo "gpu_check: no compute-sanitizer here, memory is not checked"
fi
step bench "$python" -m bench --device cuda --json "$out"

if [[ ${#failed[@]} -gt 0 ]]; then
  echo "gpu_check: failed: ${failed[*]}" >&2
  exit 1
fi
echo "gpu_check: all passed; results are in $1"
