//! NVMe wire structures, one controller as a state machine without I/O, and the transport traits.
