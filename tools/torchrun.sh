#!/usr/bin/env bash
# Used by dist_train.sh and dist_test.sh: torchrun.sh PROCESSES SCRIPT [arguments]
# MAX_RESTARTS: how often all processes restart after one is lost.
set -euo pipefail
whole() { [[ $2 =~ ^[0-9]+$ && $2 -ge $3 ]] || { echo "error: $1 must be a whole number of at least $3, got '$2'" >&2; exit 2; }; }
[[ $1 =~ ^(gpu|cpu|auto)$ ]] || whole 'the number of processes' "$1" 1
whole MAX_RESTARTS "${MAX_RESTARTS:-0}" 0
whole NNODES "${NNODES:-1}" 1
whole PORT "${PORT:-29500}" 1
if [ "${NNODES:-1}" = 1 ]; then
    rendezvous=(--standalone)  # a free port, so that two runs on one machine do not conflict
else
    rendezvous=(--nnodes="$NNODES" --node_rank="${NODE_RANK:?rank of this node}" \
                --master_addr="${MASTER_ADDR:?address of node 0}" --master_port="${PORT:-29500}")
fi
# Without this, restarted processes read the addresses of the lost ones and wait for ever.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
root=$(cd "$(dirname "$0")/.." && pwd)
has_host='import importlib.util, sys; sys.exit(importlib.util.find_spec("mmengine") is None)'
if [ -z "${PYTHON:-}" ] && ! python -c "$has_host" 2>/dev/null && [ -x "$root/.venv/bin/python" ]; then
    PYTHON=$root/.venv/bin/python  # no environment is active: use the one that `make` creates
fi
exec "${PYTHON:-python}" -m torch.distributed.run "${rendezvous[@]}" --nproc_per_node="$1" \
    --max-restarts="${MAX_RESTARTS:-0}" \
    "$(dirname "$0")/$2" "${@:3}" --launcher pytorch
