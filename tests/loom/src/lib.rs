//! Models of the concurrent parts of `nvme-mpath`, explored by loom.
//!
//! The modules below are the library's own sources, compiled against loom's lock and atomics: what
//! is checked is what ships. `cargo test -p nvme-loom` runs the models.

#![forbid(unsafe_code)]
#![expect(dead_code, reason = "the models use a part of the sources only")]

#[path = "../../../nvme-mpath/src/letterbox.rs"]
mod letterbox;
#[path = "../../../nvme-mpath/src/lifecycle.rs"]
mod lifecycle;
#[path = "../../../nvme-mpath/src/load.rs"]
mod load;
#[path = "../../../nvme-mpath/src/pin.rs"]
mod pin;
#[path = "../../../nvme-mpath/src/published.rs"]
mod published;
#[path = "../../../nvme-mpath/src/sync.rs"]
mod sync;
#[path = "../../../nvme-mpath/src/window.rs"]
mod window;

#[cfg(test)]
mod counts;
#[cfg(test)]
mod letters;
#[cfg(test)]
mod removal;
#[cfg(test)]
mod table;
