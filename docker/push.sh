#!/usr/bin/env bash
# Pushes an image to Amazon ECR, Google Artifact Registry or Azure ACR; the name of the target says which:
#
#     docker/push.sh memprof:latest 123456789012.dkr.ecr.eu-west-1.amazonaws.com/memprof:0.1.0
#     docker/push.sh memprof:latest europe-docker.pkg.dev/PROJECT/REPOSITORY/memprof:0.1.0
#     docker/push.sh memprof:latest NAME.azurecr.io/memprof:0.1.0
#
# Signs in with what aws, gcloud or az already hold; the token goes to docker through a pipe and into a folder that is
# removed. The repository has to be there.
set -euo pipefail
if [[ $# -ne 2 ]]; then
    echo "usage: docker/push.sh IMAGE REGISTRY/REPOSITORY:TAG" >&2
    exit 2
fi
image=$1
target=$2
registry=${target%%/*}
if [[ $target != */*:* ]]; then
    echo "error: $target names no repository with a tag; write REGISTRY/REPOSITORY:TAG" >&2
    exit 2
fi

DOCKER_CONFIG=$(mktemp -d)
export DOCKER_CONFIG
trap 'rm -rf "$DOCKER_CONFIG"' EXIT

sign_in() {
    docker login --username "$1" --password-stdin "$registry"
}

if [[ $registry =~ ^[0-9]{12}\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?$ ]]; then
    aws ecr get-login-password --region "${BASH_REMATCH[1]}" | sign_in AWS
elif [[ $registry =~ ^[a-z0-9-]+-docker\.pkg\.dev$ ]]; then
    gcloud auth print-access-token | sign_in oauth2accesstoken
elif [[ $registry =~ ^[a-z0-9]+\.azurecr\.io$ ]]; then
    # The user's name that goes with a token, see
    # https://learn.microsoft.com/azure/container-registry/container-registry-authentication
    az acr login --name "${registry%%.*}" --expose-token --output tsv --query accessToken |
        sign_in 00000000-0000-0000-0000-000000000000
else
    echo "error: $registry is none of ECR, Artifact Registry or ACR; sign in yourself and use docker push" >&2
    exit 2
fi
docker tag "$image" "$target"
docker push "$target"
