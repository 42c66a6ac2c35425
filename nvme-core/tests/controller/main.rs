//! The controller state machine against a model controller, in virtual time.

mod ana;
mod bringup;
mod chaos;
mod cross_reset;
mod events;
mod host_memory;
mod keep_alive;
mod model;
mod quirks;
mod recovery;
mod rig;
mod scan;
mod state_pairs;
