#!/usr/bin/env bash
# Stops a run on all hosts: its last finished step is saved. The slice stays, and is paid for.
#
#   tpu_scripts/stop.sh --name=math-4b
#
# A watcher that is running then deletes the slice; otherwise delete.sh does. create.sh with the
# same arguments goes on with the run.

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"

needs=(name project zone bucket)
parse "$@"
# The signal first: hosts agree on the step at which all of them stop.
step gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker=all \
  --command="sudo sh -c 'kill -TERM \$(cat /opt/gopd/pid)'"
mark=$(mktemp)
trap 'rm -f "$mark"' EXIT
echo "stopped by stop.sh" >"$mark"
step gcloud storage cp "$mark" "$root/ended"
