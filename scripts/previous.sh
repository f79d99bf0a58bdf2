#!/usr/bin/env bash
# Builds programs of an older commit, the gateway and the worker by default, and prints their folder.
#
# Usage: previous.sh COMMIT [PROGRAM...]
set -euo pipefail
cd "$(dirname "$0")/.."

commit=$(git rev-parse --verify --quiet "$1^{commit}") || {
    echo "commit $1 not found: fetch the history, or choose a commit with PREVIOUS=COMMIT" >&2
    exit 1
}
shift
[ $# -gt 0 ] || set -- batchfleet-gateway batchfleet-worker
folder=$PWD/.cache/previous/$commit
missing=()
for program in "$@"; do
    [ -x "$folder/$program" ] || missing+=("$program")
done
if [ ${#missing[@]} -gt 0 ]; then
    source=$(mktemp -d)
    trap 'rm -rf "$source"' EXIT
    git archive "$commit" | tar -x -C "$source"
    cargo build --locked --release --manifest-path "$source/Cargo.toml" --target-dir target/previous \
        --workspace "${missing[@]/#/--bin=}" >&2
    mkdir -p "$folder"
    cp "${missing[@]/#/target/previous/release/}" "$folder"
fi
echo "$folder"
