#!/usr/bin/env bash
# Builds the image and prints its name. What it is made of comes from the environment:
#
#     TORCH_VERSION (2.13.0)  CUDA_VERSION (13.0.2)  checked against each other first
#     TORCH_INDEX_ROOT        the root of PyTorch's wheel indexes, for a CUDA version that the default index lacks
#     BASE_DIGEST             sha256:... of the base image; asked of its registry where it is not given
#     IMAGE                   memprof:torch2.13.0-cuda13.0.2 by default
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
torch=${TORCH_VERSION:-2.13.0}
cuda=${CUDA_VERSION:-13.0.2}
index_root=${TORCH_INDEX_ROOT:-}
image=${IMAGE:-memprof:torch$torch-cuda$cuda}
base=nvidia/cuda:$cuda-base-ubuntu24.04

python3 docker/versions.py check --torch "$torch" --cuda "$cuda" --index-root "$index_root" >&2
digest=${BASE_DIGEST:-$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$base")}
if [[ ! $digest =~ ^sha256:[0-9a-f]{64}$ ]]; then
    echo "error: '$digest' is no digest of $base; give one as BASE_DIGEST=sha256:..." >&2
    exit 2
fi
docker buildx build --load --file docker/Dockerfile --tag "$image" \
    --build-arg "BASE_IMAGE=$base@$digest" \
    --build-arg "CUDA_VERSION=$cuda" \
    --build-arg "TORCH_VERSION=$torch" \
    --build-arg "TORCH_INDEX_ROOT=$index_root" \
    --build-arg "REVISION=$(git rev-parse HEAD)" \
    . >&2
echo "$image"
