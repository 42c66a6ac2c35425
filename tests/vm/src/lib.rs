//! The guest: Debian's kernel under QEMU with nvmet-tcp, driven by tests.
