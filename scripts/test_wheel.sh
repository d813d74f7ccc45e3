#!/usr/bin/env bash
# Installs the wheel of `make wheel` into an empty environment on this machine, and in bare Debian 11 and 12, which have neither a compiler
# nor LLVM. What this machine lacks is skipped by name. Bare systems are made by debootstrap, which needs root and the network (100 MB each).
# usage: scripts/test_wheel.sh [WHEEL]
set -euo pipefail
cd "$(dirname "$0")/.."
out="${CARGO_TARGET_DIR:-target}/wheel"
wheel="${1:-$(compgen -G "$out/moec-*.whl" || true)}"
[[ -f "$wheel" ]] || { echo "error: there is no wheel in $out: make wheel" >&2; exit 1; }
spec=examples/specs/tiny.toml
releases=(bullseye:11 bookworm:12)
failed=0
skipped() { echo "skipped: $1 ($2)"; }

export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1
scratch="$(mktemp -d)"
bare=
cleanup() {
    if [[ -n "$bare" ]] && mountpoint --quiet "$bare/proc"; then umount "$bare/proc"; fi
    rm -rf --one-file-system "$scratch"
}
trap cleanup EXIT

echo "== An empty environment on this machine"
if python3 -c 'import ensurepip, venv' 2> /dev/null; then
    mkdir "$scratch/here"
    env -u MOEC scripts/portable/check_wheel.sh "$wheel" "$spec" "$scratch/here" || failed=1
else
    skipped "an environment on this machine" "python3 has no venv; Debian: apt-get install python3-venv"
fi

echo "== moec[ptxas]"
if ! python3 -c 'import ensurepip, venv' 2> /dev/null; then
    skipped "moec[ptxas]" "python3 has no venv"
else
    python3 -m venv "$scratch/ptxas"
    if "$scratch/ptxas/bin/pip" install --quiet --disable-pip-version-check "$wheel[ptxas]" 2> "$scratch/log"; then
        moec=(env -i "HOME=$scratch" PATH=/nowhere "$scratch/ptxas/bin/moec")
        doctor="$("${moec[@]}" doctor --no-measure)"
        compiled="$("${moec[@]}" compile "$spec" --target sm_90a -o "$scratch/ptxas.moec" 2>&1)" || failed=1
        found="$(grep -c "($scratch/ptxas/lib.*/nvidia/.*/bin/\(ptxas\|fatbinary\))" <<< "$doctor" || true)"
        if [[ "$found" == 2 && "$compiled" == *" cubin "* ]]; then
            grep -E '^(ptxas|fatbinary)' <<< "$doctor" | sed "s|$scratch/||; s/^/    /"
            sed -n '1s/^/    /p' <<< "$compiled"
        else
            printf 'FAILED: ptxas and fatbinary were not found:\n%s\n%s\n' "$doctor" "$compiled"
            failed=1
        fi
    else
        skipped "moec[ptxas]" "pip did not install it: $(tail -n 1 "$scratch/log")"
    fi
fi

for release in "${releases[@]}"; do
    name="Debian ${release#*:}"
    echo "== $name, bare"
    if ! command -v debootstrap > /dev/null; then
        skipped "$name" "there is no debootstrap"
        continue
    elif [[ "$(id -u)" != 0 ]]; then
        skipped "$name" "debootstrap needs root"
        continue
    fi
    # Kept where a folder for it is given, since making one takes minutes.
    bare="${BARE_SYSTEMS:-$scratch}/${release%:*}"
    if [[ ! -f "$bare/made" ]]; then
        rm -rf --one-file-system "$bare"
        mkdir -p "$bare"
        if ! debootstrap --variant=minbase --include=python3-venv "${release%:*}" "$bare" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} > "$scratch/log" 2>&1; then
            skipped "$name" "debootstrap: $(tail -n 1 "$scratch/log")"
            continue
        fi
        touch "$bare/made"
    fi
    if compgen -G "$bare/usr/bin/*gcc*" > /dev/null || compgen -G "$bare/usr/lib/*/libLLVM*" > /dev/null; then
        echo "FAILED: $name is not bare"
        failed=1
        continue
    fi
    rm -rf "$bare/check"
    mkdir -p "$bare/check/work"
    cp "$wheel" "$spec" scripts/portable/check_wheel.sh "$bare/check/"
    mount -t proc proc "$bare/proc" 2> /dev/null || echo "    without /proc, which could not be mounted"
    echo "    glibc $(chroot "$bare" ldd --version | sed -n '1s/.* //p')"
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/check/work \
        chroot "$bare" /check/check_wheel.sh "/check/$(basename "$wheel")" "/check/$(basename "$spec")" /check/work || failed=1
    if mountpoint --quiet "$bare/proc"; then umount "$bare/proc"; fi
    bare=
done
exit "$failed"
