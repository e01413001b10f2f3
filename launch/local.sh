#!/usr/bin/env bash
# The demo's stages one by one, on this machine: what `flashjax run` does in one command.
set -euo pipefail
cd "$(dirname "$0")/.."
CONFIG=${1:-configs/nano.py}
WORKDIR=${2:-runs/nano}
for verb in import prepare guide match split merge export quantize evaluate report; do
    .venv/bin/flashjax "$verb" --config "$CONFIG" --workdir "$WORKDIR"
done
