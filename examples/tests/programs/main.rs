//! The programs as users run them: as processes, on the software target.

mod common;
mod nvmeh;
mod quickstart;
