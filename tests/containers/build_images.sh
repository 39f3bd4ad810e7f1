#!/usr/bin/env bash
# Build the images that the compose file names, from the real Dockerfiles. Runs under tests/tools/containers.sh.
# usage: build_images.sh NAME_OF_THE_PROMETHEUS_IMAGE     (in the root of the checkout)
set -euo pipefail
build() { /usr/bin/docker build --quiet $BUILD_ARGUMENTS "$@"; }
# TORCH_INDEX is empty: pip's own configuration says where torch's CPU build comes from.
build --file docker/coordinator.Dockerfile --tag fedmedlora/coordinator .
build --file docker/site_agent.Dockerfile --tag fedmedlora/site-agent --build-arg TORCH_INDEX= .
build --tag "$1" - <tests/containers/prometheus.Dockerfile
/usr/bin/docker image prune --force >/dev/null # what the tags moved away from; the layers stay in the build cache
/usr/bin/docker builder prune --force --keep-storage 4GB >/dev/null
