#!/usr/bin/env bash
# Everything that must hold before a change lands: format, lints, documentation, all tests.
# Installs what the tests need (Debian packages and npm packages, by name). In CI a missing tool is a failure; by hand the tests
# that need it are skipped, and the last line counts them.
set -euo pipefail
cd "$(dirname "$0")"
# Scripts that a group can write are refused, and the tests make many.
umask 022

tools/install-test-tools.sh

WSDAEMON_TEST_SKIPS=$(mktemp)
export WSDAEMON_TEST_SKIPS
trap 'rm -f "$WSDAEMON_TEST_SKIPS"' EXIT

cargo fmt --all --check
cargo clippy --workspace --all-targets --quiet -- -D warnings
cargo check --manifest-path fuzz/Cargo.toml --quiet
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
# The tests stop daemons by signals; what was ignored when this was started (nohup, or & in a script) would be ignored by them too.
env --default-signal=HUP,INT,QUIT cargo test --workspace
# Once more with a log at level trace and a token in every client: it must be nowhere but in its file.
WSDAEMON_TEST_SENTINEL=1 env --default-signal=HUP,INT,QUIT cargo test --package ws-daemon --test black_box
# As a stranger would install it, of what is built already.
cargo install --path crates/ws-daemon --debug --locked --offline --quiet --root target/installed --target-dir target --no-track --force
PATH=$PWD/target/installed/bin:$PATH ws-daemon --version

skipped=$(sort -u "$WSDAEMON_TEST_SKIPS" | grep -c . || true)
[ "$skipped" -eq 0 ] || sort -u "$WSDAEMON_TEST_SKIPS"
echo "all tests passed, $skipped skipped for a missing tool"
