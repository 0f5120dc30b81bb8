#!/usr/bin/env bash
# Train under Slurm:
#   GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=8 tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of train.py]
#
# Called from a batch job, a run that is to end (preemption, time limit) saves, and the job is put
# into the queue again, where it goes on:
#   sbatch --requeue --open-mode=append --signal=USR1@120 --wrap 'tools/slurm_train.sh …'
# USR1@120: two minutes before the time limit, Slurm sends SIGUSR1 to all processes of the run.
# Outside of a batch job the script exits with 75 instead; the same command with --resume goes on.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG [arguments of train.py]" >&2
    exit 2
fi
partition=$1
job_name=$2
config=$3
shift 3
gpus=${GPUS:-4}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
saved=75 # how train.py exits when a signal stopped it and everything is saved

# srun passes signals on to all processes of the run; this shell waits for their status.
trap : TERM INT USR1
status=0
# SRUN_ARGS is a list of words on purpose.
# shellcheck disable=SC2086
srun -p "$partition" --job-name="$job_name" \
    --gres="gpu:$gpus_per_node" --ntasks="$gpus" --ntasks-per-node="$gpus_per_node" \
    --cpus-per-task="${CPUS_PER_TASK:-8}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$config" --launcher slurm "$@" || status=$?

if [ "$status" -eq $saved ] && [ -n "${SLURM_JOB_ID:-}" ]; then
    echo "saved; job $SLURM_JOB_ID goes back into the queue" >&2
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
