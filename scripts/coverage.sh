#!/usr/bin/env bash
# Measures which lines of the product the Rust tests run, in the test binaries and in the programs that
# tests start. Prints the share of covered lines per file, lowest first, and writes
# target/coverage/html/index.html. A program that is killed with SIGKILL records no coverage.
#
# Usage: coverage.sh CARGO_LLVM_COV      the path of the program
set -euo pipefail
cd "$(dirname "$0")/.."

tool=$PWD/$1
export CARGO_TARGET_DIR=$PWD/target/coverage
ignore='/(verify|tests|examples|benches)/|/tests\.rs$'

# llvm-cov must have the version of rustc's LLVM: of rustup's component if installed, else Debian's.
read -r host llvm < <(rustc -vV | awk '/^host/ { host = $2 } /^LLVM/ { print host, int($3) }')
if [ ! -x "$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-cov" ]; then
    scripts/prerequisites.sh "llvm-cov-$llvm"
    export LLVM_COV=llvm-cov-$llvm LLVM_PROFDATA=llvm-profdata-$llvm
fi

settings=$("$tool" llvm-cov show-env --sh --no-cfg-coverage)
eval "$settings"
"$tool" llvm-cov clean --workspace
cargo build --locked --workspace --bins
status=0
# Instrumented code does not keep the time limit of the skipped test.
cargo test --locked --workspace --no-fail-fast --lib --bins --tests -- \
    --skip choosing_n_takes_less_than_10_microseconds || status=$?

"$tool" llvm-cov report --ignore-filename-regex "$ignore" --html --output-dir "$CARGO_TARGET_DIR"
"$tool" llvm-cov report --ignore-filename-regex "$ignore" --summary-only |
    awk '$10 ~ /%$/ { printf "%7s of %5d lines  %s\n", $10, $8, $1 }' | sort -n |
    tee "$CARGO_TARGET_DIR/summary.txt"
exit $status
