//! One controller as a state machine: bring-up, keep-alive, asynchronous events, namespace scan,
//! error recovery and reconnect. It does no I/O and reads no clock: it takes inputs with `now` and
//! leaves [`Action`]s for its driver to carry out.
//!
//! ```text
//!            start                  all steps done                 loss, reset
//!   New ──────────────▶ Connecting ────────────────▶ Live ─────────────────────▶ Resetting
//!                         │  ▲  ▲                     │                              │
//!                 failed, │  │  └─────────────────────┼────── torn_down ─────────────┘
//!                   wait  └──┘                        │
//!                         └──── ctrl_loss_tmo, refused, delete ────▶ Deleting ──▶ Dead
//! ```
//!
//! Bring-up over fabrics: association, admin queue, Connect, `CAP`, `VS`, `CRTO`, enable, ready,
//! Identify, retry delays, number of queues, event configuration, ANA log, I/O queues. In memory
//! the registers come before the admin queue, and a controller that is enabled is disabled first.
//! Once live: one event request is out, the namespaces are scanned, and Keep Alive goes on.
//!
//! Everything that a controller sends is checked: what cannot be ends the attempt, refuses the
//! namespace, or makes the ANA log count for nothing, with an error that names the field.

mod abort;
mod action;
mod admin;
mod ana_read;
mod bringup;
mod config;
mod cross_reset;
mod events;
mod host_memory;
mod identify_check;
mod io_queues;
mod jitter;
mod keep_alive;
mod link;
mod machine;
mod namespace_check;
mod namespaces;
mod passthrough;
mod power;
mod probe;
mod recovery;
mod registers;
mod retry;
mod scan;
mod shutdown;
mod state;

pub use abort::AbortOutcome;
pub use action::{
    Action, AdminResult, ControllerError, ControllerEvent, ControllerInfo, GoneReason,
    NamespaceInfo, RemovedCause,
};
pub use config::ControllerConfig;
pub use cross_reset::{ControllerInstance, CrossReset};
pub use machine::Controller;
pub use power::PowerState;
pub use state::State;
