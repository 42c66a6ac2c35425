//! I/O goes on while paths fail and return: nothing is lost, nothing is stale, and every request
//! ends once.

mod ana;
mod ana_matrix;
mod controllers;
mod namespaces;
mod passthrough;
mod paths;
mod queues;
mod sizes;
mod statuses;
mod wire;
