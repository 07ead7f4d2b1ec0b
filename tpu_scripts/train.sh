#!/usr/bin/env bash
# Start-up script for every host of a TPU VM slice. It sets up .venv and starts or resumes one
# training run on all hosts.
#
#   gcloud compute tpus tpu-vm ssh NAME --worker=all --command \
#     'cd gopd_jax && tpu_scripts/train.sh --config=math:qwen3_4b --workdir=gs://BUCKET/math_4b ...'
#
# After a preemption or on a new slice, the same command resumes from the last checkpoint in the
# workdir. This script has not run on a real slice yet; the path for several hosts is unmeasured.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ $# -eq 0 ]; then
  echo "usage: tpu_scripts/train.sh --config=FILE[:PRESET] --workdir=gs://BUCKET/RUN [--config.field=value ...]" >&2
  exit 2
fi
make --no-print-directory .venv/installed-tpu
export GOPD_DISTRIBUTED=1 # all hosts join one jax.distributed run
exec .venv/bin/python -m gopd_jax.train "$@"
