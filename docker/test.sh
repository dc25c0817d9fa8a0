#!/usr/bin/env bash
# Proves, inside the container and on its card, that the card is visible, that kernels run on its architecture and that
# memprof predicts one real step:
#
#     docker run --rm --gpus all --entrypoint /opt/memprof/docker/test.sh IMAGE [SCENARIO.yaml]
#
# Without a scenario it is smoke.yaml, on the card that is there.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if ! card=$(nvidia-smi --id=0 --query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader); then
    echo "error: no card is visible; start the container with --gpus all, on a host with NVIDIA's container toolkit" >&2
    exit 1
fi
echo "card: $card"
python "$here/kernel.py"
{ cat "$here/smoke.yaml" && echo "device: ${card%%,*}"; } >"$scratch/smoke.yaml"
memprof verify --out "$scratch" "${1:-$scratch/smoke.yaml}"
echo "the image works on this card"
