#!/usr/bin/env bash
# Runs at each boot of each host of a slice: installs, starts the run in the background and ends.
#
# create.sh and watch.sh hand it to the slice. Metadata of the VM say where code and arguments are,
# which host this is and where the others are. A boot after a preemption, or a reboot, goes on with
# the run, because its checkpoints are in the bucket. boot.log and train.log are in /opt/gopd.
#
# GOPD_HOME: another folder; GOPD_PYTHON: a Python that has the packages, so that nothing is
# installed; GCE_METADATA_HOST: another metadata server. TPU VM images come with Python 3.10, and uv
# installs the 3.11 that is needed.
set -euo pipefail
home=${GOPD_HOME:-/opt/gopd}
export HOME=${HOME:-/root} PATH=$PATH:/snap/bin # boot sets neither
mkdir -p "$home" && cd "$home"
exec >>boot.log 2>&1
echo "== boot, $(date -u)"

metadata() {
  local server=${GCE_METADATA_HOST:-metadata.google.internal}
  curl -fsS --retry 10 --retry-connrefused -H 'Metadata-Flavor: Google' \
    "http://$server/computeMetadata/v1/instance/attributes/$1"
}

GOPD_ROOT=$(metadata gopd-root) GOPD_WORKER=$(metadata agent-worker-number)
export GOPD_ROOT GOPD_WORKER
trap 'gcloud storage cp boot.log "$GOPD_ROOT/logs/boot-$GOPD_WORKER.log"' EXIT
if ended=$(gcloud storage cat "$GOPD_ROOT/ended" 2>/dev/null); then
  echo "the run has ended ($ended): nothing is started" && exit 0
fi
IFS=, read -ra hosts <<<"$(metadata worker-network-endpoints)" # each HOST or NAME:ID:HOST
if [[ ${#hosts[@]} -gt 1 ]]; then
  export GOPD_COORDINATOR=${hosts[0]##*:}:${GOPD_PORT:-8476} GOPD_PROCESSES=${#hosts[@]}
  export GOPD_PROCESS=$GOPD_WORKER GOPD_JOIN_SECONDS=${GOPD_JOIN_SECONDS:-1800}
fi

gcloud storage cp "$GOPD_ROOT/code.tar.gz" "$GOPD_ROOT/arguments" .
rm -rf unpacked && mkdir unpacked && tar -xzf code.tar.gz -C unpacked
lock=unpacked/requirements.lock
if [[ -z ${GOPD_PYTHON:-} ]] && ! cmp -s "$lock" venv/requirements.lock; then
  export UV_INSTALL_DIR=$home/bin UV_NO_MODIFY_PATH=1 UV_PYTHON_INSTALL_DIR=$home/python
  curl -LsSf --retry 5 https://astral.sh/uv/0.13.9/install.sh | sh
  bin/uv venv --clear --python 3.11 venv
  bin/uv pip install --python venv/bin/python --constraint "$lock" \
    --requirement unpacked/requirements.txt "jax[tpu]" gcsfs
  cp "$lock" venv/
fi

export GOPD_PYTHON=${GOPD_PYTHON:-$home/venv/bin/python} GOPD_CACHE=${GOPD_CACHE:-$home/cache}
# One run at a time, should this script be run again. New code waits for the next boot.
setsid flock --nonblock --close lock bash unpacked/tpu_scripts/host.sh "$home" \
  </dev/null >>train.log 2>&1 &
echo "the run is started as worker $GOPD_WORKER of ${#hosts[@]}"
