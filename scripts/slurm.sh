#!/usr/bin/env bash
# Trains on several GPU hosts under Slurm: one process per host, which uses all GPUs of it.
#
#   sbatch --nodes=2 --gpus-per-node=8 --time=24:00:00 scripts/slurm.sh \
#     --config=multi_teacher:qwen3_4b --workdir=/shared/multi_4b ...
#
# Submit it from the folder of the repository, which all hosts see, as they see the workdir.
# Arguments are those of gopd_jax.train. DRY_RUN=1 prints the command of each process instead.
# PYTHON is the interpreter (.venv/bin/python). The job is over when the run is complete, and after
# bad input (2) or a number that is not finite (3). After anything else it is queued again, at most
# 20 times, and the run goes on. Two minutes before its time is over, the run saves its last step.
#SBATCH --job-name=gopd
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@120
set -uo pipefail
[[ -n ${SLURM_JOB_ID:-} ]] || { sed -n '2,/^#SB/{/^#SB/!s/^# \{0,1\}//p}' "$0" && exit 2; }

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export GOPD_COORDINATOR=$first:${GOPD_PORT:-8476} GOPD_PROCESSES=$SLURM_JOB_NUM_NODES
export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}
# shellcheck disable=SC2016  # expanded on each host
program='GOPD_PROCESS=$SLURM_PROCID exec ${DRY_RUN:+echo} "$0" -m gopd_jax.train "$@"'
srun --ntasks-per-node=1 --kill-on-bad-exit=0 bash -c "$program" "${PYTHON:-.venv/bin/python}" \
  "$@" &
child=$! stopped=false
trap 'stopped=true; scancel --signal=TERM "$SLURM_JOB_ID"' TERM # the processes, not this script
wait "$child"
status=$?
if $stopped; then # the signal has ended the wait; the processes are saving
  wait "$child"
  status=$?
fi
case $status in 0 | 2 | 3) exit "$status" ;; esac
if [[ ${SLURM_RESTART_COUNT:-0} -lt 20 ]]; then
  echo "exit status $status; the job is queued again, and the run goes on" >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
