#!/usr/bin/env bash
# Every test of the workspace, or with `quick` those that take seconds; at the end how many there were, which failed, which
# were skipped and which programs took longest.
set -euo pipefail
cd "$(dirname "$0")/.."

# What takes more than some seconds on two cores: `make test` runs them.
slow=(emulated ptxas schedule_routing schedule_layers fixtures statistics mutants priority routing padding training soft determinism
    cli cli_compare cli_compile cli_files cli_interrupt cli_route cli_run import_check import_fields)

which=(--workspace)
if [[ ${1:-} == quick ]]; then
    # Cargo takes the names of tests to run, none of tests to leave out.
    tests="$(cargo metadata --no-deps --format-version 1 --locked | python3 -c '
import json, sys
slow = set(sys.argv[1:])
targets = [target for package in json.load(sys.stdin)["packages"] for target in package["targets"]]
names = {target["name"] for target in targets if "test" in target["kind"]}
unknown = slow - names
assert not unknown, f"no such tests: {unknown}"
print(*sorted(f"--test={name}" for name in names - slow))' "${slow[@]}")"
    read -ra which <<< "--workspace --lib --bins $tests"
fi

mkdir -p target
log="target/test.log"
started=$SECONDS
status=0
cargo test "${which[@]}" --locked --no-fail-fast 2>&1 | tee "$log" || status=$?

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
echo "The ten slowest programs:"
awk '/^ +Running /{ name = $NF; sub(/^.*\//, "", name); sub(/-[0-9a-f]+\)$/, "", name) }
    match($0, /finished in [0-9.]+s/) { printf "%8.1f s  %s\n", substr($0, RSTART + 12, RLENGTH - 13), name }' "$log" \
    | sort -rn | sed -n 1,10p
awk -v seconds=$((SECONDS - started)) -v status="$status" -v skipped="$(grep -c . <<< "$skipped")" '
    /^test result: / { passed += $4; failed += $6 }
    END {
        verdict = status == 0 ? "ok" : "FAILED"
        printf "%s: %d passed, %d failed, %d skipped, %d s with building\n", verdict, passed, failed, skipped, seconds
    }' "$log"
exit "$status"
