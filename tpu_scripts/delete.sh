#!/usr/bin/env bash
# Deletes a slice, running or not, so that nothing more is paid for it. What is in the bucket stays.
#
#   tpu_scripts/delete.sh --name=math-4b
#
# Stop a watcher first: it would ask for a new slice. The run can go on later (create.sh).

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/slice.sh"

needs=(name project zone)
parse "$@"
delete_slice
if [[ -n $bucket ]]; then
  echo "results are kept; to delete them too: gcloud storage rm --recursive $root"
fi
