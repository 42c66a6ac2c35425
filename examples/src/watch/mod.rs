//! A live view of a host on a terminal: what was seen of late, and how it is drawn.

mod history;
mod view;

pub use history::{Happening, History, Trend};
pub use view::draw;
