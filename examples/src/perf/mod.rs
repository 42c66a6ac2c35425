//! What a measurement is made of: what I/O has cost, how it went over time, and a picture of both.

mod cost;
mod picture;

pub use cost::Cost;
pub use picture::{Moment, Picture};
