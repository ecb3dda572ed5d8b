#!/usr/bin/env bash
# Train on several processes: tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# After a lost process all restart from this launch's last good checkpoint, at most three times (MAX_RESTARTS). On
# several nodes only if MAX_RESTARTS is set, because torchrun's fixed node ranks make restarts unreliable there.
# For several nodes set NNODES, NODE_RANK, MASTER_ADDR and PORT on each. Without GPUs, GPUS is the number of processes.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 CONFIG GPUS [arguments of tools/train.py]" >&2; exit 2; }
CONFIG=$1
GPUS=$2
[ "${NNODES:-1}" != 1 ] || export MAX_RESTARTS="${MAX_RESTARTS:-3}"
exec "$(dirname "$0")/torchrun.sh" "$GPUS" train.py "$CONFIG" "${@:3}"
