//! The record of a run, and a picture of it.

mod picture;
mod record;

pub use picture::picture;
pub use record::{Happening, Moment, PathMoment, PathName, Recorder, Run};
