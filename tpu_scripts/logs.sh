#!/usr/bin/env bash
# Prints the log of a run, as it was last uploaded to the bucket: also when the slice is gone.
#
#   tpu_scripts/logs.sh --name=math-4b
#
#   --worker=0   of which host
#   --boot       the log of its last boot instead: installation and start
#   --follow     as it grows, over ssh, from the host itself

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"

worker=0 boot=false follow=false
more=(worker) switches=(boot follow) needs=(name project zone bucket)
parse "$@"
file=train.log uploaded=worker-$worker.log
if $boot; then file=boot.log uploaded=boot-$worker.log; fi
if $follow; then
  step gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker="$worker" \
    --command="tail -n 100 -F /opt/gopd/$file"
else
  step gcloud storage cat "$root/logs/$uploaded"
fi
