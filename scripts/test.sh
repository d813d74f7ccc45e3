#!/usr/bin/env bash
# The tests of the workspace: all but what is only sampled by day, with `all` everything, with `quick` those that take seconds.
# At the end how many there were, how many of the trials ran, which failed, which were skipped and which took longest.
set -euo pipefail
cd "$(dirname "$0")/.."

# Files of tests, and families of trials, that take more than some seconds on two cores: `quick` leaves them out.
slow=(emulated ptxas fixtures mutants determinism engines python_loader
    schedule_routing schedule_layers statistics priority routing padding training soft launcher gpu_kit
    cli cli_compare cli_compile cli_files cli_interrupt cli_route cli_run import_check import_fields)

arguments=(--workspace)
skips=()
case ${1:-} in
quick)
    # Without the examples of the documentation, each of which is linked.
    arguments+=(--lib --bins --tests)
    for name in "${slow[@]}"; do
        compgen -G "*/tests/$name*" > /dev/null || compgen -G "*/*/tests/$name*" > /dev/null \
            || { echo "no such tests: $name" >&2; exit 1; }
        skips+=(--skip "$name::")
    done
    ;;
all) export MOEC_TEST_ALL=1 ;;
'') ;;
*) echo "usage: $0 [quick | all]" >&2; exit 1 ;;
esac

mkdir -p target
log="target/test.log"
started=$SECONDS
status=0
cargo test "${arguments[@]}" --locked --no-fail-fast -- "${skips[@]}" 2>&1 | tee "$log" || status=$?

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
echo "The slowest programs:"
awk '/^ +Running /{ name = $NF; sub(/^.*\//, "", name); sub(/-[0-9a-f]+\)$/, "", name) }
    match($0, /finished in [0-9.]+s/) { printf "%8.1f s  %s\n", substr($0, RSTART + 12, RLENGTH - 13), name }' "$log" \
    | sort -rn | sed -n 1,5p
echo "The ten slowest trials:"
sed -n 's/^trial: //p' "$log"
echo "Trials that ran (make test-all runs all of them): $(sed -n 's/^trials that ran: //p' "$log")"
awk -v seconds=$((SECONDS - started)) -v status="$status" -v skipped="$(grep -c . <<< "$skipped")" '
    /^test result: / { passed += $4; failed += $6 }
    END {
        verdict = status == 0 ? "ok" : "FAILED"
        printf "%s: %d passed, %d failed, %d skipped, %d s with building\n", verdict, passed, failed, skipped, seconds
    }' "$log"
exit "$status"
