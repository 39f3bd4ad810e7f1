#!/usr/bin/env bash
# Run a command against a Docker engine that exists only as long as the command does.
#
# usage: containers.sh WORKDIR online|isolated COMMAND [ARGUMENT...]
#
#   WORKDIR   keeps the base image and the engine's images and layers, so that the next run is quick; not in the clone
#   online    the engine shares the machine's network and can give containers none of their own: for `docker build`.
#             BUILD_ARGUMENTS holds what a build needs to get at packages the way this machine's pip does
#   isolated  the engine lives in a network namespace of its own, without a way out: for running what was built
#
# COMMAND finds the engine through DOCKER_HOST, a socket in WORKDIR, and may hand that on. Nothing is left running:
# the engine and its containers are in a PID namespace that ends with this script, even when it is killed.
#
# Needs root, and Debian's docker.io, iptables and mmdebstrap. debian:bookworm-slim is made from Debian's packages,
# because there need be no image registry where this runs; the name is the one that the Dockerfiles ask for.
set -euo pipefail

work=$(realpath -m "$1")
network=$2
shift 2
readonly work network base=debian:bookworm-slim

make_base() {
  [ -s "$work/base.tar" ] && return
  local without=()
  for folder in doc info locale man; do without+=(--dpkgopt="path-exclude=/usr/share/$folder/*"); done
  mmdebstrap --quiet --variant=minbase "${without[@]}" \
    --dpkgopt=force-unsafe-io --aptopt='Apt::Install-Recommends "false"' bookworm "$work/partial.tar" >&2
  mv "$work/partial.tar" "$work/base.tar"
}

start_engine() {
  # /run is private (see below), so that two engines, or one that was killed, cannot meet there.
  /usr/sbin/dockerd --host "unix://$work/engine.sock" --data-root "$work/engine" --exec-root /run/engine \
    --pidfile /run/engine.pid --storage-driver overlay2 "$@" >"$work/engine-$network.log" 2>&1 &
  engine=$!
  export DOCKER_HOST="unix://$work/engine.sock"
  for _ in $(seq 300); do
    /usr/bin/docker info >/dev/null 2>&1 && return
    kill -0 "$engine" 2>/dev/null || break
    sleep 0.2
  done
  tail -n 20 "$work/engine-$network.log" >&2
  return 1
}

# pip inside a build sees neither this machine's certificates nor a folder of wheels that pip is set up with here
# (such as one with torch's CPU build): the first becomes a build secret, the second is served to the build.
offer_packages() {
  local wheels port=8099
  printf '[global]\ncert = /run/secrets/ca\n' >"$work/pip.conf"
  wheels=$(pip config get :env:.find-links 2>/dev/null || pip config get global.find-links 2>/dev/null || true)
  if [ -d "$wheels" ]; then
    python3 -m http.server "$port" --bind 127.0.0.1 --directory "$wheels" >/dev/null 2>&1 &
    printf 'find-links = http://127.0.0.1:%s/\n' "$port" >>"$work/pip.conf"
  fi
  export DOCKER_BUILDKIT=1
  export BUILD_ARGUMENTS="--network host --secret id=pip_conf,src=$work/pip.conf
    --secret id=ca,src=/etc/ssl/certs/ca-certificates.crt"
}

# Inside the namespaces.
if [ "${FEDMED_ENGINE_INSIDE:-}" = yes ]; then
  mount -t tmpfs tmpfs /run
  if [ "$network" = online ]; then
    start_engine --bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false
    /usr/bin/docker image inspect "$base" >/dev/null 2>&1 ||
      /usr/bin/docker import --change 'CMD ["bash"]' "$work/base.tar" "$base" >/dev/null
    offer_packages
  else
    ip link set lo up
    start_engine
  fi
  result=0
  "$@" || result=$?
  kill "$engine" && wait "$engine" || true
  exit "$result"
fi

mkdir -p "$work"
exec 9>"$work/lock"
flock 9
make_base
spaces=(--mount --pid --fork --kill-child --mount-proc)
[ "$network" = online ] || spaces+=(--net)
result=0
FEDMED_ENGINE_INSIDE=yes setpriv --pdeathsig KILL unshare "${spaces[@]}" bash "$0" "$work" "$network" "$@" 9>&- ||
  result=$?
# A killed engine leaves its control groups; they are empty by now, and only empty ones can be removed.
find /sys/fs/cgroup -depth -type d \( -path '*/docker' -o -path '*/docker/*' \) -exec rmdir {} \; 2>/dev/null || true
exit "$result"
