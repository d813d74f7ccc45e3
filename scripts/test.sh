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
# Where there is one thread the line begins with the test's name.
skipped="$(grep -oE 'skipped: .*' "$log" | sort -u | sed 's/^skipped: /  /' || true)"
if [[ -n $skipped ]]; then
    echo "Skipped, because this machine lacks something:"
    echo "$skipped"
fi
if grep -qE '^test .* FAILED$' "$log"; then
    echo "Failed:"
    grep -E '^test .* FAILED$' "$log" | sed -E 's/^test (.*[^ ]) +\.\.\. FAILED$/  \1/'
fi
awk -v seconds=$((SECONDS - started)) -v status="$status" -v skipped="$(grep -c . <<< "$skipped")" '
    /^test result: / { passed += $4; failed += $6 }
    END {
        verdict = status == 0 ? "ok" : "FAILED"
        printf "%s: %d passed, %d failed, %d skipped, %d s with building\n", verdict, passed, failed, skipped, seconds
    }' "$log"
exit "$status"
