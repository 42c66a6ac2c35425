//! What a command moves.

use crate::buffer::Buffer;

/// The data of one command, moved into the queue and back; metadata that is transferred separately
/// is part of the buffer ([`Buffer::with_metadata`]).
#[derive(Debug, Default)]
pub enum Data {
    /// No data phase.
    #[default]
    None,
    /// Controller to host: the queue fills the buffer.
    Read(Buffer),
    /// Host to controller: the queue sends the buffer.
    Write(Buffer),
}

impl Data {
    /// Bytes to be moved.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Read(b) | Self::Write(b) => b.len(),
        }
    }

    /// Whether nothing is to be moved.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether metadata travels beside the data.
    #[must_use]
    #[inline]
    pub fn has_metadata(&self) -> bool {
        match self {
            Self::None => false,
            Self::Read(b) | Self::Write(b) => b.has_metadata(),
        }
    }

    /// The buffer, whatever the direction.
    #[must_use]
    #[inline]
    pub const fn buffer(&self) -> Option<&Buffer> {
        match self {
            Self::None => None,
            Self::Read(b) | Self::Write(b) => Some(b),
        }
    }

    /// Moves the data to `place`, which must have none: it would be forgotten, and not dropped, so that
    /// nothing need be asked. Nothing is left here.
    #[inline]
    #[expect(unsafe_code, reason = "a move between places that is not to be made twice")]
    pub fn move_to(&mut self, place: &mut Self) {
        debug_assert!(matches!(place, Self::None), "data that is forgotten");
        // SAFETY: both are valid and, as they are borrowed mutably, not the same. What was moved has one
        // owner, the place, since it is overwritten here; what was there before is never dropped.
        unsafe {
            std::ptr::copy_nonoverlapping(self, place, 1);
            std::ptr::write(self, Self::None);
        }
    }

    /// The buffer, whatever the direction; empty for [`Data::None`].
    #[must_use]
    #[inline]
    pub fn into_buffer(self) -> Buffer {
        match self {
            Self::None => Buffer::empty(),
            Self::Read(b) | Self::Write(b) => b,
        }
    }
}
