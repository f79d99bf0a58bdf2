#!/usr/bin/env bash
# A fleet on this machine: Redis, two gateways and two workers as background processes.
#
# Usage: fleet.sh up|down
#
# Process ids and logs are in .cache/run. The variables below change the ports.
set -euo pipefail
cd "$(dirname "$0")/../.."

REDIS_PORT=${REDIS_PORT:-6390}
read -ra GATEWAY_PORTS <<<"${GATEWAY_PORTS:-8081 8082}"
read -ra GATEWAY_ADMIN_PORTS <<<"${GATEWAY_ADMIN_PORTS:-9081 9082}"
read -ra WORKER_ADMIN_PORTS <<<"${WORKER_ADMIN_PORTS:-9091 9092}"
MODELS=${MODELS:-.cache/models}
PROGRAMS=target/release
RUN=.cache/run
READY_SECONDS=60
STOP_SECONDS=60

up() {
    local pids
    mkdir -p "$RUN"
    if pids=$(ls "$RUN"/*.pid 2>/dev/null); then
        echo "a fleet is already running (${pids//$'\n'/ }): \`make down\` stops it" >&2
        exit 1
    fi
    trap 'echo "start failed; the logs are in $RUN" >&2; down' ERR

    launch redis redis-server deploy/local/redis.conf --port "$REDIS_PORT" --dir "$PWD/$RUN"
    await redis redis-cli -p "$REDIS_PORT" ping
    local redis=redis://127.0.0.1:$REDIS_PORT n
    for n in "${!WORKER_ADMIN_PORTS[@]}"; do
        launch "worker$n" "$PROGRAMS/batchfleet-worker" --redis-url "$redis" \
            --admin-listen "127.0.0.1:${WORKER_ADMIN_PORTS[n]}" --model-repository "$MODELS"
    done
    for n in "${!GATEWAY_PORTS[@]}"; do
        launch "gateway$n" "$PROGRAMS/batchfleet-gateway" --redis-url "$redis" \
            --admin-listen "127.0.0.1:${GATEWAY_ADMIN_PORTS[n]}" \
            --listen "127.0.0.1:${GATEWAY_PORTS[n]}"
    done
    for n in "${!WORKER_ADMIN_PORTS[@]}"; do
        await "worker$n" answers "${WORKER_ADMIN_PORTS[n]}/readyz"
    done
    for n in "${!GATEWAY_PORTS[@]}"; do
        await "gateway$n" answers "${GATEWAY_PORTS[n]}/v2/health/ready"
    done

    echo
    echo "gateways   ${GATEWAY_PORTS[*]/#/http://127.0.0.1:}"
    echo "metrics    ${GATEWAY_ADMIN_PORTS[*]/#/http://127.0.0.1:} ${WORKER_ADMIN_PORTS[*]/#/http://127.0.0.1:} (/metrics)"
    echo "queue      $redis"
    echo "logs       $RUN/*.log"
    echo "stop       make down"
}

# Stops gateways first, so that workers still answer accepted requests, and Redis last.
down() {
    local pid_file
    for pid_file in "$RUN"/gateway*.pid "$RUN"/worker*.pid "$RUN"/redis.pid; do
        [ -e "$pid_file" ] && stop "$pid_file"
    done
    return 0
}

# launch NAME COMMAND...: starts a process in its own session, so that Ctrl-C here does not reach it.
launch() {
    local name=$1
    shift
    setsid "$@" >"$RUN/$name.log" 2>&1 </dev/null &
    echo $! >"$RUN/$name.pid"
    echo "started $name (process $!)"
}

# await NAME COMMAND...: waits until the command succeeds; fails if the process ends first.
await() {
    local name=$1 left=$((READY_SECONDS * 10))
    shift
    until "$@" >/dev/null 2>&1; do
        if ! kill -0 "$(cat "$RUN/$name.pid")" 2>/dev/null || [ $((left -= 1)) -le 0 ]; then
            echo "$name is not ready; the end of its log:" >&2
            tail -n 5 "$RUN/$name.log" >&2
            return 1
        fi
        sleep 0.1
    done
    echo "$name is ready"
}

answers() {
    curl --silent --fail --max-time 2 "http://127.0.0.1:$1"
}

stop() {
    local name left=$((STOP_SECONDS * 10))
    name=$(basename "$1" .pid)
    if alive "$1"; then
        kill -TERM "$(cat "$1")"
        while alive "$1" && [ $((left -= 1)) -gt 0 ]; do
            sleep 0.1
        done
        if alive "$1"; then
            echo "$name did not stop in $STOP_SECONDS s: killing it" >&2
            kill -KILL "$(cat "$1")"
        fi
        echo "stopped $name"
    fi
    rm "$1"
}

# Whether the process of a pid file is alive and one of this fleet, because process ids are reused.
alive() {
    local command
    read -rd '' command <"/proc/$(cat "$1")/cmdline" || [ -n "${command:-}" ] || return 1
    case $command in
        redis-server* | "$PROGRAMS"/*) return 0 ;;
        *) return 1 ;;
    esac
} 2>/dev/null

case ${1:-} in
    up | down) "$1" ;;
    *)
        echo "usage: fleet.sh up|down" >&2
        exit 64
        ;;
esac
