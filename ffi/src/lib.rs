//! The C library `libnvmehost`.
//!
//! It converts arguments, errors and ownership between C and `nvme-mpath`, and holds no logic of its
//! own. One file per C object. `include/nvmehost.h` is generated from here by the test `header`, and
//! `README.md` beside this crate says what a program may do when.
//!
//! Every entry checks its handle, catches panics, answers a negative errno, and keeps a text per
//! thread: `object`, `error`. What keeps the shared object mapped is in `selfref`.

mod admin;
#[cfg(not(target_arch = "x86_64"))]
mod arch;
mod buffers;
mod channel;
mod completion;
mod controller;
mod discovery;
mod drive;
mod error;
mod events;
mod head;
#[cfg(feature = "test-hooks")]
mod hooks;
mod host;
mod in_flight;
mod io;
mod object;
mod option_table;
mod options;
mod passthrough;
mod paths;
mod pins;
mod power;
mod removal;
mod request;
mod selfref;
mod snapshot;
mod stats;
mod submit;
mod version;
mod without_data;

pub use options::NVMEH_FOREVER;
