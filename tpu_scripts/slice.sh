# shellcheck shell=bash disable=SC2154  # the variables are those that `parse` of lib.sh sets
# The slice of a run: asked for, looked at, deleted. Sourced after lib.sh.

request_slice() {
  local options=()
  [[ -z $service_account ]] || options+=("--service-account=$service_account")
  [[ -z $wait ]] || options+=("--valid-until-duration=$wait")
  [[ $spot == false ]] || options+=(--spot)
  step gcloud compute tpus queued-resources create "$name" "${place[@]}" --node-id="$name" \
    --accelerator-type="$type" --runtime-version="$runtime" "${options[@]}" \
    --scopes=https://www.googleapis.com/auth/cloud-platform --metadata="gopd-root=$root" \
    --metadata-from-file="startup-script=$here/startup.sh" --quiet
}

# Both go: a preempted node keeps its name and quota until it and its queued resource are deleted.
delete_slice() {
  step gcloud compute tpus tpu-vm delete "$name" "${place[@]}" --quiet \
    || echo "no node was deleted; its queued resource is deleted with what is left of it"
  step gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet
}

# state_of queued-resources|tpu-vm FIELD: the state, NONE if there is no such thing, UNKNOWN if
# gcloud cannot say.
state_of() {
  local said error
  error=$(mktemp)
  if said=$(gcloud compute tpus "$1" describe "$name" "${place[@]}" --format="value($2)" \
    2>"$error"); then
    echo "${said:-UNKNOWN}"
  elif grep -q NOT_FOUND "$error"; then
    echo NONE
  else
    cat "$error" >&2 && echo UNKNOWN
  fi
  rm -f "$error"
}
