#!/usr/bin/env bash
# Every test of the workspace, and at the end how many there were, which failed and which were skipped.
set -euo pipefail
cd "$(dirname "$0")/.."

mkdir -p target
log="target/test.log"
started=$SECONDS
status=0
cargo test --workspace --locked --no-fail-fast 2>&1 | tee "$log" || status=$?

echo
if grep -q '^skipped: ' "$log"; then
    echo "Skipped, because this machine lacks something:"
    grep '^skipped: ' "$log" | sort -u | sed 's/^skipped: /  /'
fi
if grep -qE '^test .* FAILED$' "$log"; then
    echo "Failed:"
    grep -E '^test .* FAILED$' "$log" | sed -E 's/^test (.*[^ ]) +\.\.\. FAILED$/  \1/'
fi
awk -v seconds=$((SECONDS - started)) -v status="$status" '
    /^test result: / { passed += $4; failed += $6; ignored += $8 }
    END {
        verdict = status == 0 ? "ok" : "FAILED"
        printf "%s: %d passed, %d failed, %d skipped, %d s with building\n", verdict, passed, failed, ignored, seconds
    }' "$log"
exit "$status"
