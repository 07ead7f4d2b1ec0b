#!/usr/bin/env bash
# The run on one host of a slice; startup.sh starts it, in the background.
#
#   host.sh FOLDER
#
# FOLDER holds `arguments` and gets `code`, `pid` and `train.log`, which is uploaded every minute
# (GOPD_LOG_SECONDS). When the run has ended for good, gs://BUCKET/NAME/ended says how.
set -uo pipefail
home=$1
cd "$home" || exit 2
rm -rf code && mv unpacked code && cd code || exit 2
mapfile -t arguments <"$home/arguments"
# shellcheck source=/dev/null
if [[ -r environment ]]; then source ./environment; fi

upload() { gcloud storage cp "$home/train.log" "$GOPD_ROOT/logs/worker-$GOPD_WORKER.log" --quiet; }

bash scripts/restarting.sh "$GOPD_PYTHON" -m gopd_jax.train "${arguments[@]}" &
child=$!
echo "$child" >"$home/pid"
while kill -0 "$child" 2>/dev/null; do
  timeout "${GOPD_LOG_SECONDS:-60}" tail --pid="$child" -f /dev/null
  upload >/dev/null 2>&1 || echo "the log cannot be uploaded; the run goes on"
done
wait "$child"
status=$?
# SIGTERM (143) comes at shutdown: the next boot goes on. stop.sh writes the mark itself.
if [[ $status -ne 143 && $GOPD_WORKER -eq 0 ]]; then
  echo "exit status $status" | gcloud storage cp - "$GOPD_ROOT/ended" --quiet
fi
exit "$status"
