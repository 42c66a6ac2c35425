//! The library as C programs see it: installed by `make install`, linked by C compilers, run.

mod abi;
mod bench;
mod matrix;
mod misuse;
mod plugin;
mod quickstart;
mod reach;
