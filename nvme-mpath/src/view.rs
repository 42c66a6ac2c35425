//! What a channel sees of a head: an immutable table, replaced as a whole.
//!
//! The control plane publishes a new [`HeadView`] when anything changes and then moves the
//! generation. A channel keeps its own reference and compares generations, so that steady-state
//! I/O reads one counter that nobody writes, and takes no lock.

use nvme_core::time::Duration;

use crate::hedge::HedgeOptions;
use crate::ids::AssociationId;
use crate::policy::PathPolicy;
use crate::published::Published;
use crate::window::LossCause;

/// A path that may be used, as far as the control plane knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathView {
    pub(crate) association: AssociationId,
    pub(crate) nsid: u32,
    /// Paths with a lower rank are used first, and others only if there is none of them: ANA
    /// optimized (or no ANA) before non-optimized, and what is marked as marginal after all that
    /// is not.
    pub(crate) rank: u8,
    /// The one that the program prefers.
    pub(crate) preferred: bool,
    /// The NUMA node that the controller is near, if known.
    pub(crate) numa_node: Option<u32>,
    /// Delays for the status field's CRD values 1 to 3.
    pub(crate) retry_delays: [Duration; 3],
    /// Most bytes that one command moves on it (MDTS, and what the transport can do).
    pub(crate) max_transfer: usize,
}

/// What becomes of a request when no path can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPath {
    /// It waits: a path may come.
    Park,
    /// It fails: none is expected.
    Fail,
    /// It fails: the head is gone.
    Removed(LossCause),
}

/// Size and shape of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes in a logical block: a power of two, 512..=65,536.
    pub block_size: u32,
    /// Size in logical blocks.
    pub blocks: u64,
    /// Most bytes that the buffer of one request can have, a multiple of
    /// [`buffer_block`](Self::buffer_block). Metadata beside it comes on top. It is the least of all
    /// paths that the head has, those that cannot be used at the moment included, so that a request
    /// of this size fits whichever path comes next; it may become less when a path joins, and more
    /// when one leaves. A request that was accepted before it became less goes to a path that takes
    /// it, and waits for one as for any path; see [`IoError::TooLarge`](crate::IoError::TooLarge).
    pub max_transfer: usize,
    /// Writes are refused.
    pub read_only: bool,
    /// Bytes of metadata with each block, 0 for none.
    pub metadata_size: u16,
    /// The metadata follows each block's data in the same buffer, and a block takes
    /// `block_size + metadata_size` bytes there ([`Geometry::buffer_block`]). Otherwise the metadata
    /// of all blocks is beside the data
    /// ([`Buffer::with_metadata`](nvme_core::buffer::Buffer::with_metadata)).
    pub extended_metadata: bool,
}

impl Geometry {
    /// Bytes that a logical block takes in the buffer of a request: its data, and its metadata if
    /// that follows.
    #[must_use]
    pub const fn buffer_block(&self) -> u32 {
        let metadata = if self.extended_metadata { self.metadata_size as u32 } else { 0 };
        self.block_size + metadata
    }

    pub(crate) const fn layout(&self) -> Layout {
        let shift = self.block_size.trailing_zeros();
        let extended = (self.extended_metadata as u32) << 16;
        Layout(shift << 17 | extended | self.metadata_size as u32)
    }
}

/// All that says how a number of blocks lies in memory, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout(u32);

impl Layout {
    /// Bytes that a block takes in the buffer of a request.
    pub(crate) const fn buffer_block(self) -> usize {
        let extended = self.0 >> 16 & 1 != 0;
        let metadata = if extended { self.0 & 0xffff } else { 0 };
        (1 << (self.0 >> 17)) + metadata as usize
    }
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct HeadView {
    pub(crate) geometry: Geometry,
    /// The geometry's.
    pub(crate) layout: Layout,
    pub(crate) paths: Box<[PathView]>,
    pub(crate) policy: PathPolicy,
    /// How reads are hedged, if they are.
    pub(crate) hedge: Option<HedgeOptions>,
    pub(crate) no_path: NoPath,
    /// There are paths that cannot be used now and may be usable later.
    pub(crate) more_may_come: bool,
    /// Most bytes that one command moves on any of those; 0 if there is none.
    pub(crate) later_transfer: usize,
}

/// Where the current [`HeadView`] is found.
pub(crate) type ViewCell = Published<HeadView>;
