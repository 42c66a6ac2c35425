//! Criterion benches; benches/README.md has the figures.
