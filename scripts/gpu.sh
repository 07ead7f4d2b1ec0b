#!/usr/bin/env bash
# Trains on all GPUs of this host, and goes on after a crash.
#
#   scripts/gpu.sh [--dry-run] --config=math:qwen3_1_7b --workdir=runs/math_1_7b ...
#
# Arguments are those of gopd_jax.train. PYTHON is the interpreter (.venv/bin/python, which
# `make train DEVICE=cuda` makes). XLA_PYTHON_CLIENT_MEM_FRACTION is the share of each GPU's memory
# that JAX takes (0.92 here). scripts/restarting.sh says when the run starts again and when not.
# To keep it when you log out: nohup scripts/gpu.sh ... >train.log 2>&1 &
set -euo pipefail
cd "$(dirname "$0")/.."
dry=
case ${1:-} in
  --dry-run) dry='echo' && shift ;;
  "" | --help) sed -n '2,/^\([^#]\|$\)/s/^# \{0,1\}//p' scripts/gpu.sh && exit 2 ;;
esac
python=${PYTHON:-.venv/bin/python}
if ! command -v "$python" >/dev/null; then
  echo "error: PYTHON=$python: no such program; expected the one of make train DEVICE=cuda" >&2
  exit 2
fi
if ! gpus=$(nvidia-smi -L 2>&1); then
  echo "error: nvidia-smi lists no GPU ($(head -n 1 <<<"$gpus")): expected a driver and a GPU" >&2
  exit 2
fi
echo "$gpus" >&2
export JAX_PLATFORMS=cuda,cpu # never the CPU in silence
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
exec $dry scripts/restarting.sh "$python" -m gopd_jax.train "$@"
