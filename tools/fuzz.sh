#!/usr/bin/env bash
# Fuzzes every target for so many seconds each: tools/fuzz.sh [SECONDS]. Installs cargo-fuzz if it is not there.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked --quiet
for target in fuzz/fuzz_targets/*.rs; do
    name=$(basename "$target" .rs)
    echo "== $name, $seconds s"
    # The toolchain is stable; the coverage flags are not.
    RUSTC_BOOTSTRAP=1 cargo fuzz run "$name" -- -max_total_time="$seconds" -print_final_stats=1 -max_len=4096
done
