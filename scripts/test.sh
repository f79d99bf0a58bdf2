#!/usr/bin/env bash
# Runs all checks and tests, also after failures, and ends with one line for all suites:
# "N passed, N failed".
set -uo pipefail
cd "$(dirname "$0")/.." || exit

passed=0
failed=0
failures=
output=$(mktemp)
trap 'rm -f "$output"' EXIT

# Prints the numbers of passed and failed tests in a test runner's output: the sum over the summary lines
# of cargo's runners and of pytest, else the last line with counts.
count() {
    sed 's/\x1b\[[0-9;]*m//g' "$1" | awk '
        function number(word,   at) {
            return match(line, "[0-9]+ " word) ? substr(line, RSTART) + 0 : 0
        }
        { line = $0 }
        /^test result: | Summary \[/ { passed += number("passed"); failed += number("failed"); sum = 1 }
        /[0-9]+ (passed|failed|errors?)(, | in ).*[0-9]s( \(|=| |$)/ && !/ Summary \[/ {
            passed += number("passed"); failed += number("failed") + number("error"); sum = 1
        }
        / passed/ && !sum { p = number("passed"); f = number("failed") + number("error") }
        END { print (sum ? passed : p) + 0, (sum ? failed : f) + 0 }'
}

# suite NAME COMMAND...: runs tests and adds up their counts. A command that fails without a failed test
# counts as one failure.
suite() {
    local p f status
    echo "=== $1"
    "${@:2}" 2>&1 | tee "$output"
    status=${PIPESTATUS[0]}
    read -r p f <<<"$(count "$output")"
    if [ "$status" != 0 ] && [ "$f" = 0 ]; then
        echo "=== $1: exit status $status"
        f=1
    fi
    passed=$((passed + p))
    failed=$((failed + f))
    [ "$f" = 0 ] || failures+="--- $1: $f failed
$(failed_tests)
"
}

# Prints the lines that name failed tests, or the last lines if no line does.
failed_tests() {
    sed 's/\x1b\[[0-9;]*m//g' "$output" | grep -E '^ +(FAIL|SIGABRT|TIMEOUT) |^(FAILED|ERROR) |FAIL \||broke a promise|^test .* FAILED' |
        sort -u | head -40 | grep . || tail -15 "$output"
}

tests() {
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --locked --workspace --no-fail-fast
    else
        cargo test --locked --workspace --no-fail-fast --lib --bins --tests
    fi
}

suite "lints" make --no-print-directory lint
suite "build" cargo build --locked --workspace --bins
suite "tests" tests
suite "documentation's examples" cargo test --locked --workspace --doc --no-fail-fast
suite "conformance of real clients" verify/conformance/run.sh
suite "real models" verify/models/run.sh
suite "questions to a GPU, on the processor" verify/gpu/test.sh
suite "the book's reference" scripts/reference.sh --check
suite "the chart" helm/tests/run.sh
suite "boards and alerts" dashboards/check.py
suite "live page in a browser" verify/browser/run.sh
suite "junk over HTTP, the short tier" verify/fuzz/live/fuzz_socket.py --seconds 10
suite "junk in Redis, the short tier" verify/fuzz/live/fuzz_redis.py --seconds 10
suite "faults, the short tier" target/debug/batchfleet-chaos --short
suite "a rollout of gateways over gRPC" target/debug/batchfleet-chaos --short --grpc --only F12

[ -z "$failures" ] || printf '=== what failed\n%s' "$failures"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
