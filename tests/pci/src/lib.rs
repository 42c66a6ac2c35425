//! A tiny driver, made of an admin queue and nothing else, to test backends without the real one.

mod admin;
mod check;

pub use admin::Admin;
pub use check::{Failure, Result, check};
