//! Tests on QEMU's controllers, inside the guest.

mod backends;
mod cmb;
mod common;
mod driver;
mod events;
mod metadata;
