# shellcheck shell=bash
# Where images are built and run; sourced. Sets `docker`, a command and its first arguments, and
# makes sure that the base image is there.
#
# A running Docker is used as it is. Where none answers, a daemon is started for as long as the
# script runs, with all it keeps in .cache/docker; where no registry can be reached, the base image
# is made by debootstrap.

BASE=debian:bookworm-slim
STATE=.cache/docker

# A client that builds with BuildKit: Docker's own without its plugin cannot.
client() {
    local candidate
    while read -r candidate; do
        if DOCKER_BUILDKIT=1 "$candidate" build --help >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done < <(type -ap docker)
    return 1
}

engine() {
    local program
    if ! program=$(client); then
        scripts/prerequisites.sh docker.io
        program=/usr/bin/docker
    fi
    docker=("$program")
    "${docker[@]}" info >/dev/null 2>&1 || daemon
    export DOCKER_BUILDKIT=1
    "${docker[@]}" image inspect "$BASE" >/dev/null 2>&1 && return
    "${docker[@]}" pull --quiet "$BASE" 2>/dev/null || debootstrapped
}

# No rule of the machine's firewall is touched: containers reach each other, and nothing else.
daemon() {
    command -v dockerd >/dev/null || scripts/prerequisites.sh docker.io
    mkdir -p "$STATE"
    local state left=300
    state=$(cd "$STATE" && pwd -P)
    docker+=(--host "unix://$state/socket")
    # Another run's, still there.
    "${docker[@]}" info >/dev/null 2>&1 && return
    echo "no Docker answers: starting a daemon in $STATE"
    setsid dockerd --host "unix://$state/socket" --data-root "$state/data" \
        --exec-root "$state/exec" --pidfile "$state/pid" --iptables=false --ip6tables=false \
        >"$state/log" 2>&1 </dev/null &
    DAEMON=$!
    trap 'end_daemon' EXIT
    until "${docker[@]}" info >/dev/null 2>&1; do
        if ! kill -0 "$DAEMON" 2>/dev/null || [ $((left -= 1)) = 0 ]; then
            tail -n 5 "$state/log" >&2
            exit 1
        fi
        sleep 0.1
    done
}

end_daemon() {
    kill "$DAEMON" && wait "$DAEMON"
} 2>/dev/null

debootstrapped() {
    local root=$STATE/base
    echo "no registry answers: making $BASE with debootstrap"
    scripts/prerequisites.sh debootstrap
    rm -rf "$root"
    debootstrap --variant=minbase bookworm "$root" >"$STATE/debootstrap.log"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    tar --create --directory "$root" --numeric-owner . |
        "${docker[@]}" import --change 'CMD ["bash"]' - "$BASE" >/dev/null
    rm -rf "$root"
}

# A Redis image: the usual one, or where no registry answers one of Debian's redis-server. Prints its
# name.
redis_image() {
    local usual=docker.io/library/redis:7.2 made=batchfleet/redis:dev folder=target/images-redis
    if "${docker[@]}" image inspect "$usual" >/dev/null 2>&1 ||
        "${docker[@]}" pull --quiet "$usual" >/dev/null 2>&1; then
        echo "$usual"
        return
    fi
    scripts/prerequisites.sh redis-server >&2
    rm -rf "$folder"
    mkdir -p "$folder/lib"
    cp "$(command -v redis-server)" "$folder/"
    # The libraries that it names, less those of the base.
    ldd "$folder/redis-server" | awk '/=> \// && !/lib(c|m)\.so/ { print $3 }' |
        xargs cp --dereference --target-directory "$folder/lib"
    cat >"$folder/Dockerfile" <<END
FROM $BASE
COPY lib /usr/local/lib/
COPY redis-server /usr/local/bin/
ENV LD_LIBRARY_PATH=/usr/local/lib
RUN redis-server --version
USER 65532:65532
CMD ["redis-server"]
END
    "${docker[@]}" build --quiet --network none --tag "$made" "$folder" >/dev/null
    rm -r "$folder"
    echo "$made"
}
