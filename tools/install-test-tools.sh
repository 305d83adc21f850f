#!/usr/bin/env bash
# Installs what the tests need and is not there yet. Without the rights or the network to do so it says what is missing and
# goes on: the tests decide what that means.
set -uo pipefail
cd "$(dirname "$0")/.."

# command: Debian package. None of them is started: the tests do that (RUNLEVEL below says so to their packages).
needs=(curl:curl nc:netcat-openbsd faketime:faketime nft:nftables tc:iproute2 timeout:coreutils node:nodejs npm:npm python3:python3 strace:strace ip:iproute2 unshare:util-linux cc:gcc c++:g++ openssl:openssl script:bsdutils systemd-analyze:systemd mkfs.xfs:xfsprogs mkfs.ext4:e2fsprogs mount:mount chromium:chromium mandoc:mandoc zsh:zsh fish:fish git:git php:php-cli adduser:adduser dpkg-shlibdeps:dpkg-dev xz:xz-utils nginx:nginx caddy:caddy valgrind:valgrind)
missing=()
for need in "${needs[@]}"; do
    command -v "${need%%:*}" >/dev/null || missing+=("${need#*:}")
done
# Debian has the part of Python that makes environments in a package of its own.
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq "${missing[@]}"; } >/dev/null ||
            echo "not installed: ${missing[*]}" >&2
    else
        echo "missing, and not installed for want of root: ${missing[*]}" >&2
    fi
fi

stand_ins=crates/ws-daemon/tests/stand-ins
if command -v npm >/dev/null && [ -f "$stand_ins/package-lock.json" ] && [ ! -d "$stand_ins/node_modules/ws" ]; then
    npm ci --prefix "$stand_ins" --no-audit --no-fund --silent || echo "the npm packages of the stand-ins are missing" >&2
fi

# What makes the Debian package.
if ! command -v cargo-deb >/dev/null && [ ! -x target/tools/bin/cargo-deb ]; then
    cargo install cargo-deb --version 3.8.0 --locked --quiet --debug --root target/tools ||
        echo "cargo-deb, which makes the Debian package, is missing (cargo install cargo-deb installs it)" >&2
fi

# The Autobahn test suite, in a Python of its own.
if command -v python3 >/dev/null && [ ! -x target/autobahn/bin/kosoku ]; then
    { python3 -m venv target/autobahn && target/autobahn/bin/python -m pip install --quiet kosoku==0.1.0; } >/dev/null ||
        echo "kosoku, which runs the Autobahn cases, is missing (python3 with venv installs it)" >&2
fi

# The parser of OpenMetrics that others go by, likewise.
if command -v python3 >/dev/null && [ ! -x target/openmetrics/bin/python ]; then
    { python3 -m venv target/openmetrics && target/openmetrics/bin/python -m pip install --quiet prometheus-client==0.26.0; } >/dev/null ||
        { rm -rf target/openmetrics; echo "prometheus-client, which reads the metrics, is missing (python3 with venv installs it)" >&2; }
fi

# Of Debian's prometheus only the program that checks rules: nothing of it is installed or started.
if [ ! -x target/promtool/usr/bin/promtool ] && command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    mkdir -p target/promtool
    (cd target/promtool && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } &&
        dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin/promtool && rm -f prometheus_*.deb) >/dev/null 2>&1 ||
        echo "promtool, which checks the alert rules, is missing (Debian's package prometheus has it)" >&2
fi

# schemathesis, which asks for all that docs/openapi.json describes, in a Python of its own.
if command -v python3 >/dev/null && [ ! -x target/schemathesis/bin/schemathesis ]; then
    { python3 -m venv target/schemathesis && target/schemathesis/bin/python -m pip install --quiet schemathesis==4.32.5; } >/dev/null ||
        echo "schemathesis, which tries the HTTP API, is missing (python3 with venv installs it)" >&2
fi
exit 0
