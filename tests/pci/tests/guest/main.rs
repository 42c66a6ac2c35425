//! Tests on QEMU's controllers, inside the guest.

mod backends;
mod common;
mod driver;
