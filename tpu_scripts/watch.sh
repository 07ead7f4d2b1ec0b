#!/usr/bin/env bash
# Watches a run from outside of its slice, on a laptop or a small VM, until the run has ended.
#
#   tpu_scripts/watch.sh --name=math-4b
#
# A spot slice that was preempted stays, suspended, and holds its name and its quota. This script
# deletes it, node and queued resource, and asks for a new one, whose hosts go on with the run. When
# the run has ended, it deletes the slice. It may be stopped and started at any time. Exit status:
# 0 if the run is complete, else 1.
#
#   --interval=60   seconds between two looks
#   --keep          keep the slice when the run has ended

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/slice.sh"

interval=60 keep=false more=(interval) switches=(keep) needs=(name project zone type bucket)
parse "$@"
if $dry; then
  echo "# when the slice is suspended, has failed, or its node is gone:"
  delete_slice && request_slice
  exit 0
fi

before=
while true; do
  if ended=$(gcloud storage cat "$root/ended" 2>/dev/null); then
    echo "the run has ended: $ended; its log: tpu_scripts/logs.sh --name=$name"
    $keep || delete_slice
    [[ $ended == "exit status 0" ]] && exit 0 || exit 1
  fi
  state=$(state_of queued-resources state.state)
  [[ $state != ACTIVE ]] || state=ACTIVE/$(state_of tpu-vm state)
  [[ $state == "$before" ]] || echo "$(date -u +%FT%TZ) $state"
  before=$state
  case $state in
    NONE) request_slice || echo "not created; the next try is in $interval s" ;;
    SUSPENDED | FAILED | ACTIVE/PREEMPTED | ACTIVE/TERMINATED | ACTIVE/STOPPED | ACTIVE/NONE)
      delete_slice || echo "not deleted; the next try is in $interval s"
      continue
      ;;
  esac
  sleep "$interval"
done
