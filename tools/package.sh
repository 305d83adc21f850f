#!/usr/bin/env bash
# Makes the Debian package: tools/package.sh [FOLDER or FILE] [PROFILE]. The package is for this machine's architecture and release. With a profile
# (dev) it holds what was built by it already; without, the release is built. Installs cargo-deb if it is not there.
set -euo pipefail
output=$(realpath -m "${1:-target/debian}")
cd "$(dirname "$0")/.."
profile=${2:-release}
target=${CARGO_TARGET_DIR:-target}
case $profile in
release)
    cargo build --release --locked --package ws-daemon
    program=$target/release/ws-daemon
    ;;
dev) program=$target/debug/ws-daemon ;;
*)
    echo "there is no profile $profile; there are release and dev" >&2
    exit 64
    ;;
esac
PATH=$PWD/target/tools/bin:$PATH
command -v cargo-deb >/dev/null || cargo install cargo-deb --version 3.8.0 --locked --quiet --debug --root target/tools

# What the program says of itself.
made=target/package
rm -rf "$made"
mkdir -p "$made/completions" "$made/schema"
"$program" man "$made/man" >/dev/null
for shell in bash zsh fish; do "$program" completions "$shell" >"$made/completions/$shell"; done
for file in config contract; do "$program" schema "$file" >"$made/schema/$file.json"; done
"$program" init server --prefix "$made/prefix" >/dev/null
gzip -9n "$made"/man/*.1

# What is built for tests is big, and packed only to be unpacked again.
fast=()
[ "$profile" = release ] || fast=(--fast)
cargo deb --quiet --package ws-daemon --no-build --strip --system-xz --profile "$profile" "${fast[@]}" --output "$output"
