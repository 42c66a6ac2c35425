//! The TCP front: sockets, PDUs and the loop that moves them. Only the loop reads a clock.

mod command;
pub(crate) mod connection;
pub(crate) mod engine;
pub(crate) mod event_loop;
pub(crate) mod listener;
pub(crate) mod mailbox;
mod mischief;
mod pdu;
mod receive;
mod reply;
mod slots;
mod transmit;
pub(crate) mod wire;
