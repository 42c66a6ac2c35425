//! One controller as a state machine: bring-up, keep-alive, asynchronous events, namespace scan,
//! error recovery and reconnect. It does no I/O and reads no clock: it takes inputs with `now` and
//! leaves [`Action`]s for its driver to carry out.

mod action;
mod config;
mod state;

pub use action::{
    Action, AdminResult, ControllerError, ControllerEvent, ControllerInfo, GoneReason,
    NamespaceInfo, RemovedCause,
};
pub use config::ControllerConfig;
pub use state::State;
