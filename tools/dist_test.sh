#!/usr/bin/env bash
# Evaluate on several processes: tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
set -euo pipefail
[ $# -ge 3 ] || { echo "usage: $0 CONFIG CHECKPOINT GPUS [arguments of tools/test.py]" >&2; exit 2; }
CONFIG=$1
CHECKPOINT=$2
GPUS=$3
exec "$(dirname "$0")/torchrun.sh" "$GPUS" test.py "$CONFIG" "$CHECKPOINT" "${@:4}"
