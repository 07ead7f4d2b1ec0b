#!/usr/bin/env bash
# Runs a training command until it has ended for good; each new start resumes the run.
#
#   scripts/restarting.sh COMMAND...
#
# It is over with exit status 0 (complete), 3 (a number is not finite), 2 where the command is one
# process (bad input; one of several also ends so when the others do not come), and when this script
# gets SIGTERM or Ctrl-C, which the command is told. After anything else the command starts again.
# Five short starts in a row that fail are enough: the exit status is then that of the last.
# GOPD_RESTART_SECONDS (10) is the pause between two starts.
set -uo pipefail
[[ $# -gt 0 && $1 != --help ]] || { sed -n '2,/^\([^#]\|$\)/s/^# \{0,1\}//p' "$0" && exit 2; }

stopped=false child=
trap 'stopped=true; kill -TERM "$child" 2>/dev/null || true' TERM INT
failures=0
while true; do
  begun=$SECONDS
  "$@" &
  child=$!
  wait "$child"
  status=$?
  if $stopped; then # the signal has ended the wait, and not the command
    wait "$child"
    exit $?
  fi
  case $status in
    0 | 3) exit "$status" ;;
    2) [[ -n ${GOPD_PROCESSES:-} ]] || exit 2 ;;
  esac
  [[ $((SECONDS - begun)) -lt 900 ]] || failures=0
  failures=$((failures + 1))
  [[ $failures -lt 5 ]] || exit "$status"
  echo "exit status $status; the command starts again (failure $failures of 5 in a row)" >&2
  sleep "${GOPD_RESTART_SECONDS:-10}"
  ! $stopped || exit 143
done
