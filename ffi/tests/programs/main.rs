//! The library as C programs see it: installed by `make install`, linked by C compilers, run.

mod abi;
mod bench;
mod beyond;
mod fio;
mod letgo;
mod matrix;
mod misuse;
mod nbd;
mod nvmet;
mod plugin;
mod programs;
mod quickstart;
mod reach;
mod trouble;
