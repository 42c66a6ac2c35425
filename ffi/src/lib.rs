//! The C library: the room is reserved, the binding is not built yet.
