//! The library on one thread, with a network, targets and a clock that a seed decides about.
//!
//! Everything between the program and the socket is what ships: the control plane driven by
//! `Host::drive`, channels, controllers, and the TCP core of `nvme-tcp` on simulated streams. The peers
//! are `nvme-target`'s front and model, driven likewise. One seed makes one [`World`](world::World), lets
//! it live through trouble, and checks what must hold; the same seed does the same again, to the byte.
//!
//! - [`net`]: connections that break, stall in one direction or both, lose what is on the way or deliver
//!   it late.
//! - [`trouble`]: what befalls network and targets, and what users do meanwhile.
//! - [`passthrough`]: commands of which the library knows little.
//! - [`users`]: what users do to requests, paths and heads under load.
//! - [`load`], [`check`]: requests, and whether what they saw can be.
//! - [`policies`]: no trouble but a slow path or one that stalls, and what path policies make of it.
//! - [`rules`]: whether the events that are told can be.
//! - [`seed`]: the order of a run.
//! - [`peace`], [`ending`]: what must hold when all trouble is over, at rest, and at the end.

#![forbid(unsafe_code)]

pub mod check;
pub mod clock;
pub mod dice;
pub mod ending;
pub mod load;
pub mod making;
pub mod net;
pub mod passthrough;
pub mod peace;
pub mod policies;
pub mod rules;
pub mod seed;
pub mod trace;
pub mod trouble;
pub mod turns;
pub mod users;
pub mod wire;
pub mod world;
