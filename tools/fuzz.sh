#!/usr/bin/env bash
# Fuzzes every target, or the one that is named, for so many seconds each: tools/fuzz.sh [SECONDS] [TARGET]. Installs cargo-fuzz if it
# is not there. Ends with a failure, and the name of the target, at the first that finds something or cannot be run.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
targets=()
for file in fuzz/fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
if [ -n "${2:-}" ]; then
    [[ " ${targets[*]} " == *" $2 "* ]] || { echo "there is no target $2; there are ${targets[*]}" >&2; exit 64; }
    targets=("$2")
fi
[[ "$seconds" =~ ^[1-9][0-9]*$ ]] || { echo "\"$seconds\" is no number of seconds" >&2; exit 64; }
command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked --quiet
for name in "${targets[@]}"; do
    echo "== $name, $seconds s"
    # The toolchain is stable; the coverage flags are not.
    if ! RUSTC_BOOTSTRAP=1 cargo fuzz run "$name" -- -max_total_time="$seconds" -print_final_stats=1 -max_len=4096; then
        echo "== $name FAILED" >&2
        exit 1
    fi
done
echo "== all of ${targets[*]} passed, $seconds s each"
