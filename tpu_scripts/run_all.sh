#!/usr/bin/env bash
# Runs a command on all hosts of a slice, over ssh.
#
#   tpu_scripts/run_all.sh --name=math-4b -- df -h /opt/gopd
#
#   --worker=all   or the number of one host

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"

worker=all more=(worker) needs=(name project zone)
parse "$@"
[[ ${#rest[@]} -gt 0 ]] || die "no command after --: expected one; see --help"
step gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker="$worker" \
  --command="${rest[*]}"
