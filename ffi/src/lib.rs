//! The C library `libnvmehost`: the room is reserved, the binding is not built yet.
//!
//! It will convert arguments, errors and ownership between C and `nvme-mpath`, and hold no logic of
//! its own: opaque handles, functions named `nvmeh_*`, negative errno with the text of the last
//! error per thread, no panic across the boundary. The header goes to `include/`.

#![forbid(unsafe_code)]
