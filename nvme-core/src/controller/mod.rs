//! One controller as a state machine: bring-up, keep-alive, asynchronous events, namespace scan,
//! error recovery and reconnect. It does no I/O and reads no clock: it takes inputs with `now` and
//! leaves [`Action`]s for its driver to carry out.

mod action;
mod admin;
mod ana_read;
mod bringup;
mod config;
mod events;
mod identify_check;
mod io_queues;
mod jitter;
mod keep_alive;
mod link;
mod machine;
mod namespace_check;
mod namespaces;
mod passthrough;
mod probe;
mod recovery;
mod registers;
mod scan;
mod shutdown;
mod state;

pub use action::{
    Action, AdminResult, ControllerError, ControllerEvent, ControllerInfo, GoneReason,
    NamespaceInfo, RemovedCause,
};
pub use config::ControllerConfig;
pub use machine::Controller;
pub use state::State;
