#!/usr/bin/env bash
# Runs the tests of the Rust crates that need no guest under AddressSanitizer, leaks included. Needs the nightly
# tool chain, and long; the standard library itself is not instrumented. usage: rust-asan.sh [CRATE...]
set -euo pipefail
cd "$(dirname "$0")/../.."
export RUSTFLAGS="${RUSTFLAGS:-} -Zsanitizer=address" ASAN_OPTIONS=detect_leaks=1
(($#)) || set -- nvme-core nvme-tcp nvme-mpath nvme-target nvme-pci
for crate; do
    cargo +nightly test --no-fail-fast --locked --target x86_64-unknown-linux-gnu -p "$crate" --lib --tests
done
