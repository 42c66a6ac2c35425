//! The multipath head: hosts, subsystems, heads, paths, failover, delayed removal, pins, events.
