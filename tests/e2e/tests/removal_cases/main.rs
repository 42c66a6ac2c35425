//! Delayed removal, beyond what blktests nvme/068 looks at. On the software target.

mod common;
mod handles;
mod leaving;
mod limits;
mod many;
mod pins;
mod returning;
mod window;
