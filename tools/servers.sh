#!/usr/bin/env bash
# Installs, where they are missing, the servers that some tests run against: Redis, and Java with Maven for Flink and
# Kafka. Debian and Ubuntu only, as root or with sudo. `make demo` and `make test` go without them.
set -euo pipefail

wanted=()
command -v redis-server > /dev/null || wanted+=(redis-server)
command -v java > /dev/null || wanted+=(openjdk-17-jre-headless)
command -v mvn > /dev/null || wanted+=(maven)
if [ ${#wanted[@]} -gt 0 ]; then
    sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    echo "servers: installing ${wanted[*]}"
    "${sudo[@]}" apt-get update -qq
    # A server of the system's own would start at once: the tests start theirs.
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends "${wanted[@]}"
fi
