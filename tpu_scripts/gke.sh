#!/usr/bin/env bash
# Prints a JobSet for GKE that runs the train command on one TPU slice, with a pod for each host.
#
#   tpu_scripts/gke.sh --name=math-4b --topology=v6e:4x4 --image=IMAGE --bucket=BUCKET -- \
#     --config=math:qwen3_4b | kubectl apply -f -
#
# What follows "--" are the arguments of gopd_jax.train. The cluster needs JobSet and a node pool of
# that slice (docs/tpu.md). Nothing but printing is done here. Of the settings below it takes name,
# bucket, spot and settings.
#
#   --topology=v5e:4x4   a slice of v4, v5e, v5p or v6e
#   --image=IMAGE        made with tpu_scripts/Dockerfile
#   --account=NAME       Kubernetes service account that may write to the bucket (default: default)
#   --queue=NAME         a LocalQueue of Kueue, which starts the run when there is room

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"

topology='' image='' account=default queue=''
more=(topology image account queue) needs=(name bucket topology image)
parse "$@"
declare -A accelerators=([v4]=tpu-v4-podslice [v5e]=tpu-v5-lite-podslice [v5p]=tpu-v5p-slice
  [v6e]=tpu-v6e-slice)
family=${topology%%:*} shape=${topology#*:}
[[ -n $family && -n ${accelerators[$family]:-} && $shape =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] \
  || die "--topology=$topology: expected one such as v5e:4x4, v6e:8x8 or v5p:2x2x4"
chips=$((${shape//x/*})) on_one=4
[[ $family != v5e && $family != v6e || $chips -ne 8 ]] || on_one=8 # 2x4 is one host of 8 chips
hosts=$((chips > on_one ? chips / on_one : 1))
[[ $((chips % hosts)) -eq 0 && $((chips / hosts)) -le $on_one ]] \
  || die "--topology=$topology: expected 4 chips on each host"
[[ ${#rest[@]} -gt 0 ]] || die "no arguments after --: expected those of gopd_jax.train; see --help"
[[ " ${rest[*]}" == *" --workdir"* ]] || rest+=("--workdir=$root/run")

# Of single-quoted YAML texts, each ' within doubled.
arguments=$(printf ", '%s'" "${rest[@]//\'/\'\'}")
selector="cloud.google.com/gke-tpu-accelerator: ${accelerators[$family]}"
selector+=", cloud.google.com/gke-tpu-topology: '$shape'" tolerations=
if $spot; then
  selector+=", cloud.google.com/gke-spot: 'true'"
  tolerations="{key: cloud.google.com/gke-spot, operator: Equal, value: 'true', effect: NoSchedule}"
fi
declare -A values=([NAME]=$name [HOSTS]=$hosts [CHIPS]=$((chips / hosts)) [IMAGE]=$image
  [ACCOUNT]=$account [ARGUMENTS]="[${arguments:2}]" [SELECTOR]="{$selector}"
  [TOLERATIONS]="[$tolerations]" [LABELS]="{${queue:+kueue.x-k8s.io/queue-name: $queue}}")
manifest=$(<"$here/jobset.yaml")
for key in "${!values[@]}"; do manifest=${manifest//@$key@/"${values[$key]}"}; done
echo "$manifest"
