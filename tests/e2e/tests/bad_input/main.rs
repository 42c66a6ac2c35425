//! Addresses, peers, pages and requests that are wrong: each a clear error that names what and
//! where; nothing is lost, nothing panics, and the host can be shut down afterwards.

mod addresses;
mod cuts;
mod pages;
mod proxy;
mod requests;
