#!/usr/bin/env bash
# Proves, inside the container and on its card, that the card is visible, that kernels run on its architecture and that
# memprof predicts one real step:
#
#     docker run --rm --gpus all --entrypoint /opt/memprof/docker/test.sh IMAGE [SCENARIO.yaml]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scenario=${1:-$here/smoke.yaml}

if ! card=$(nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader); then
    echo "error: no card is visible; start the container with --gpus all, on a host with NVIDIA's container toolkit" >&2
    exit 1
fi
echo "card: $card"
python "$here/kernel.py"
memprof verify "$scenario"
echo "the image works on this card"
