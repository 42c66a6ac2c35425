//! NVMe over TCP: a connection core without sockets and a thin shell around it.
#![forbid(unsafe_code)]

pub mod conn;
