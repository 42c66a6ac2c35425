//! What a parser of variable length structures finds wrong.

/// Why bytes from a peer are not the structure that they should be. Offsets count from the start of the buffer that
/// was given to the parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The buffer ends inside a structure.
    #[error("{what} at byte {offset} needs {needed} bytes, {available} are there")]
    Truncated {
        /// Which structure or list.
        what: &'static str,
        /// Where it begins.
        offset: usize,
        /// Bytes it needs; `u64` since a peer's count may ask for more than memory can hold.
        needed: u64,
        /// Bytes from `offset` to the end of the buffer.
        available: usize,
    },
    /// A field has a value which the specification does not allow or which this host cannot use.
    #[error("{what} at byte {offset} is {value:#x}: {rule}")]
    Invalid {
        /// Which field.
        what: &'static str,
        /// Where it is.
        offset: usize,
        /// What it holds.
        value: u64,
        /// What it should hold.
        rule: &'static str,
    },
    /// A text field holds something other than printable ASCII.
    #[error("{what} is not printable ASCII from byte {offset}")]
    Text {
        /// Which field.
        what: &'static str,
        /// First offending byte within the field.
        offset: usize,
    },
}
