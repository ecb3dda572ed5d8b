#!/usr/bin/env bash
# Train under Slurm: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [arguments of tools/train.py]
# Variables, as in the hosts' scripts: GPUS (8), GPUS_PER_NODE (8, or GPUS if fewer), CPUS_PER_TASK (5), and SRUN_ARGS
# with more arguments for srun. Two runs on one node need different values of MASTER_PORT (29500).
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: [GPUS=8] $0 PARTITION JOB_NAME CONFIG [arguments of tools/train.py]" >&2; exit 2; }
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
GPUS=${GPUS:-8}
for number in "$GPUS" "${GPUS_PER_NODE:-8}" "${CPUS_PER_TASK:-5}"; do
    [[ $number =~ ^[1-9][0-9]*$ ]] || { echo "error: GPUS, GPUS_PER_NODE and CPUS_PER_TASK must be whole numbers, got '$number'" >&2; exit 2; }
done
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
# SRUN_ARGS may be several words.
# shellcheck disable=SC2086
exec srun --partition="$PARTITION" --job-name="$JOB_NAME" --gres="gpu:$GPUS_PER_NODE" --ntasks="$GPUS" \
    --ntasks-per-node="$GPUS_PER_NODE" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/train.py" "$CONFIG" "${@:4}" --launcher slurm
