#!/usr/bin/env bash
# Uploads the code and the arguments of a run to the bucket, and asks for a slice that starts it.
#
#   tpu_scripts/create.sh --name=math-4b --project=PROJECT --zone=us-east5-b --type=v6e-16 \
#     --bucket=BUCKET -- --config=math:qwen3_4b --config.domains.math.teacher=FOLDER
#
# What follows "--" are the arguments of gopd_jax.train; without --workdir there, results go to
# gs://BUCKET/NAME/run. The same command again asks for a new slice, which goes on with the run.
#
#   --files=FOLDER   is laid beside the code: a config file of yours and what it imports or reads.
#                    A file named `environment` in it is sourced first: export HF_TOKEN=...

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
source "$(dirname "$0")/slice.sh"

files='' more=(files) needs=(name project zone type bucket)
parse "$@"
[[ ${#rest[@]} -gt 0 ]] || die "no arguments after --: expected those of gopd_jax.train; see --help"
[[ -z $files || -d $files ]] || die "--files=$files: expected a folder"
[[ " ${rest[*]}" == *" --workdir"* ]] || rest+=("--workdir=$root/run")

packed=$(mktemp -d)
trap 'rm -rf "$packed"' EXIT
printf '%s\n' "${rest[@]}" >"$packed/arguments"
printf '# arguments:%s\n' "$(printf " %q" "${rest[@]}")"
beside=()
[[ -z $files ]] || beside=(-C "$(cd "$files" && pwd)" .)
step tar -czf "$packed/code.tar.gz" --exclude=__pycache__ -C "$here/.." \
  gopd_jax configs scripts tpu_scripts requirements.txt requirements.lock "${beside[@]}"
step gcloud storage cp "$packed/code.tar.gz" "$packed/arguments" "$root/"
# A mark of an earlier end would keep the hosts from starting.
step gcloud storage rm "$root/ended" 2>/dev/null || true
request_slice
echo "watch it, and bring it back when it is preempted: tpu_scripts/watch.sh --name=$name"
