//! The programs as users run them: as processes, on the software target and on Linux's own.

mod common;
mod nvmeh;
mod nvmet;
mod quickstart;
