#!/usr/bin/env bash
# Used by dist_train.sh and dist_test.sh: torchrun.sh PROCESSES SCRIPT [arguments]
# MAX_RESTARTS: how often all processes restart after one is lost. For several nodes also NNODES, NODE_RANK, MASTER_ADDR
# and PORT on each.
set -euo pipefail
whole() { [[ $2 =~ ^[0-9]+$ && $2 -ge $3 ]] || { echo "error: $1 must be a whole number of at least $3, got '$2'" >&2; exit 2; }; }
[[ $1 =~ ^(gpu|cpu|auto)$ ]] || whole 'the number of processes' "$1" 1
whole MAX_RESTARTS "${MAX_RESTARTS:-0}" 0
whole NNODES "${NNODES:-1}" 1
whole PORT "${PORT:-29500}" 1
if [ "${NNODES:-1}" != 1 ]; then
    : "${NODE_RANK:?rank of this node}" "${MASTER_ADDR:?address of node 0}"
    # Without this, restarted processes read the addresses of the lost ones and wait for ever.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
fi
here=$(dirname "$0")
root=$(cd "$here/.." && pwd)
has_host='import importlib.util, sys; sys.exit(importlib.util.find_spec("mmengine") is None)'
if [ -z "${PYTHON:-}" ] && ! python -c "$has_host" 2>/dev/null && [ -x "$root/.venv/bin/python" ]; then
    PYTHON=$root/.venv/bin/python  # no environment is active: use the one that `make` creates
fi
exec "${PYTHON:-python}" "$here/torchrun.py" "$1" "$here/$2" "${@:3}" --launcher pytorch
