//! The TCP front: sockets, PDUs and the loop that moves them.

mod command;
mod connection;
pub(crate) mod event_loop;
pub(crate) mod listener;
pub(crate) mod mailbox;
mod mischief;
mod pdu;
mod receive;
mod reply;
mod slots;
mod transmit;
