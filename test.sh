#!/usr/bin/env bash
# Everything that has to pass: packages, format, lints, docs, tests, models, examples.
# As root it installs the Debian packages that the tests need; otherwise it says which are missing.
set -euo pipefail
cd "$(dirname "$0")"

step() { printf '\n== %s\n' "$*"; }

step "packages and the guest's kernel"
bash tests/vm/setup.sh

step "format"
cargo fmt --all --check

step "lints"
cargo clippy --workspace --all-targets --locked -- -D warnings

step "the parts that must not do I/O"
bash tests/sans-io.sh

step "documentation"
# (nvme-loom has no documentation of its own: it is parts of nvme-mpath, compiled for a model.)
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --exclude nvme-loom --no-deps --locked \
    --document-private-items

step "tests, loom models and doc tests"
# An emulated guest that dies by itself (its kernel panics, or QEMU fails an assertion) says nothing
# about the code: only then are the test programs concerned run once more, and it is said aloud.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! cargo test --workspace --locked --no-fail-fast 2>&1 | tee "$log"; then
    failed=$(grep -c '^test .* FAILED$' "$log" || true)
    died=$(grep -c 'the guest is gone; ' "$log" || true)
    mapfile -t again < <(sed -n 's/^    `\(-p .*\)`$/\1/p' "$log")
    if ((died == 0 || failed > died || ${#again[@]} == 0)); then
        exit 1
    fi
    step "the guest died $died time(s), see above; once more: ${again[*]}"
    for target in "${again[@]}"; do
        # The words are options: -p PACKAGE --test NAME.
        # shellcheck disable=SC2086
        cargo test --locked $target
    done
fi

step "fuzz targets compile"
RUSTFLAGS="-D warnings" cargo check --manifest-path fuzz/Cargo.toml --locked

step "quickstart"
cargo run --release --locked --example quickstart -- --json

step "instructions per I/O"
cargo run --release --locked -p nvme-host-benches --bin instructions
