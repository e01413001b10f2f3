#!/usr/bin/env bash
# The demo's stages one by one, on this machine: what `flashjax run` does in one command.
set -euo pipefail
cd "$(dirname "$0")/.."
CONFIG=${1:-configs/nano.py}
WORKDIR=${2:-runs/nano}
# Large pages for large arrays: without them half of a CPU's time goes into page faults.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
for verb in import prepare guide match split merge export quantize evaluate report; do
    .venv/bin/flashjax "$verb" --config "$CONFIG" --workdir "$WORKDIR"
done
