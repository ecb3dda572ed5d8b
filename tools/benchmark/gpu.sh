#!/usr/bin/env bash
# Measure a GPU in at most 8 minutes, installation included: tools/benchmark/gpu.sh [--small] [--out FOLDER]
#
# A machine without network installs what it lacks from wheels in the folder $WHEELS (default: wheels). Fill that folder
# elsewhere, for its version of Python: tools/benchmark/gpu.sh --wheels 3.12
# torch and torchvision must be there, and timm for the peers; they stay as they are.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python3} wheels=${WHEELS:-wheels}
modules=(mmengine mmcv mmpretrain mmseg simplejpeg prettytable wcwidth ftfy modelindex ordered_set mat4py
    importlib_metadata lazy_importer yapf platformdirs termcolor addict)
packages=(onedl-mmengine onedl-mmcv onedl-mmpretrain onedl-mmsegmentation prettytable wcwidth ftfy modelindex model-index
    ordered-set mat4py importlib-metadata lazy-importer yapf platformdirs termcolor addict)

if [ "${1:-}" = --wheels ]; then
    version=${2:?which version of Python, such as 3.12}
    "$python" -m pip wheel --no-deps --wheel-dir "$wheels" "${packages[@]}"
    "$python" -m pip download --no-deps --only-binary=:all: --python-version "$version" --implementation cp \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --dest "$wheels" simplejpeg
    exit
fi

export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
missing=$("$python" -c 'import sys; from importlib.util import find_spec
print(*(name for name in sys.argv[1:] if not find_spec(name)))' "${modules[@]}")
if [ -n "$missing" ]; then
    ls "$wheels"/*.whl >/dev/null 2>&1 || { echo "no wheels of $missing in $wheels: see the top of $0" >&2; exit 1; }
    site=$(mktemp -d)
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$wheels"/*.whl
    export PYTHONPATH=$PYTHONPATH:$site
fi
exec "$python" tools/benchmark/gpu.py --seconds $((465 - SECONDS)) --out "${OUT:-work_dirs/gpu}" "$@"
