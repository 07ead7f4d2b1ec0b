# shellcheck shell=bash disable=SC2034,SC2154  # the variables are for and from the scripts
# What the scripts of this folder share. Sourced, not run; `usage` prints the following lines.
#
# Settings, each --NAME=VALUE or a line NAME=VALUE of tpu_scripts/settings.env (there with _ for -):
#   name             of the run, its slice and its folder in the bucket: a-z, 0-9 and "-"
#   project, zone    where the slice is
#   type             accelerator type, such as v5litepod-16, v6e-16 or v5p-32
#   runtime          version of the TPU VM's software (default: by type)
#   bucket           of the run's code, logs and results
#   service-account  of the hosts (default: that of the project)
#   spot             true (default) or false; a spot slice is cheaper and may be taken away
#   wait             how long to stay in the queue, such as 6h (default: without end)
#   settings         another file of settings
# --dry-run prints the commands and runs none; --help prints this text.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
known=(name project zone type runtime bucket service-account spot wait settings)

usage() {
  sed -n '2,/^\([^#]\|$\)/s/^# \{0,1\}//p' "$0"
  sed -n '/^# Settings/,/^[^#]/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

die() {
  echo "error: $*" >&2
  exit 2
}

# parse OPTION...: sets a variable for each setting, and `rest` to what follows "--". A script has
# its own settings in `more`, its switches in `switches` and the settings that it needs in `needs`.
parse() {
  local given=() key
  dry=false rest=() name='' project='' zone='' type='' runtime='' bucket='' service_account=''
  spot=true wait='' settings=''
  while [[ $# -gt 0 && $1 != -- ]]; do
    key=${1#--} && key=${key%%=*}
    case $1 in
      --help | -h) usage && exit 0 ;;
      --dry-run) dry=true ;;
      --settings=*) settings=${1#*=} ;;
      --*=*)
        [[ " ${known[*]} ${more[*]:-} " == *" $key "* ]] \
          || die "$1: unknown; expected one of ${known[*]} ${more[*]:-}"
        given+=("${key//-/_}=${1#*=}")
        ;;
      *)
        [[ $1 == --* && " ${switches[*]:-} " == *" $key "* ]] \
          || die "$1: expected --NAME=VALUE${switches:+ or one of ${switches[*]}}; see --help"
        given+=("$key=true")
        ;;
    esac
    shift
  done
  [[ $# -eq 0 ]] || rest=("${@:2}")
  [[ -z $settings || -r $settings ]] || die "--settings=$settings: expected a file"
  settings=${settings:-$here/settings.env}
  # shellcheck source=/dev/null
  if [[ -r $settings ]]; then source "$settings"; fi
  for key in "${given[@]}"; do declare -g "$key"; done
  for key in "${needs[@]}"; do [[ -n ${!key} ]] || die "--$key is not set; see --help"; done
  [[ $name =~ ^[a-z]([-a-z0-9]{0,60}[a-z0-9])?$ ]] || die "--name=$name: expected a-z, 0-9 and -"
  [[ $spot =~ ^(true|false)$ ]] || die "--spot=$spot: expected true or false"
  case $type in
    v5litepod-*) runtime=${runtime:-v2-alpha-tpuv5-lite} ;;
    v5p-*) runtime=${runtime:-v2-alpha-tpuv5} ;;
    v6e-*) runtime=${runtime:-v2-alpha-tpuv6e} ;;
    *) runtime=${runtime:-tpu-ubuntu2204-base} ;;
  esac
  bucket=${bucket#gs://} && root=gs://${bucket%/}/$name
  place=("--project=$project" "--zone=$zone")
}

# Prints a command as it can be typed, and runs it unless --dry-run is given.
step() {
  printf '%q ' "$@" && echo
  if ! $dry; then "$@"; fi
}
