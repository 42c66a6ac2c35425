//! What a measurement is made of: what I/O has cost, who worked and who waited, how it went over
//! time, and a picture of it.

mod cost;
mod picture;
mod threads;

pub use cost::Cost;
pub use picture::{Moment, Picture};
pub use threads::{Thread, Threads};
