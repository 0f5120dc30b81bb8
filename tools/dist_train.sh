#!/usr/bin/env bash
# Train on several GPUs of one machine, or on several machines (set NNODES, NODE_RANK, MASTER_ADDR;
# a second run on a machine needs another PORT than 29500):
#   tools/dist_train.sh CONFIG GPUS [arguments of train.py]
#
# When a process dies, torchrun ends the others. With MAX_RESTARTS=3 it starts all of them anew, three
# times at most, and they go on from the newest good checkpoint. SIGTERM or SIGUSR1 to this script, or
# Ctrl-C, saves and stops all of them at the same iteration; the same command with --resume goes on. The
# exit status is that of train.py, and what went wrong is said last.
set -euo pipefail
if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [arguments of train.py]" >&2
    exit 2
fi
config=$1
gpus=$2
shift 2
exec "${PYTHON:-python}" -m mmsalmask.torchrun \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    --nproc_per_node="$gpus" --max_restarts="${MAX_RESTARTS:-0}" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"
