//! The controller state machine against a model controller, in virtual time.

mod bringup;
mod model;
mod recovery;
mod rig;
