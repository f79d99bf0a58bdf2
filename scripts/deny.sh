#!/usr/bin/env bash
# Checks the dependencies against deny.toml. The advisory database is on GitHub: where it cannot be fetched, the
# check of advisories is skipped with a warning.
#
# Usage: deny.sh CARGO_DENY      the path of the program
set -euo pipefail
cd "$(dirname "$0")/.."

"$1" --locked check -D warnings --hide-inclusion-graph bans licenses sources

if reason=$(timeout 60 "$1" --locked fetch db 2>&1); then
    "$1" --locked check --hide-inclusion-graph advisories
else
    echo "WARNING: advisories NOT CHECKED, because the advisory database could not be fetched:" >&2
    echo "${reason##*$'\n'}" >&2
fi
