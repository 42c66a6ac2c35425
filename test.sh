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
cargo test --workspace --locked

step "fuzz targets compile"
cargo check --manifest-path fuzz/Cargo.toml --locked

step "quickstart"
cargo run --release --locked --example quickstart -- --json
