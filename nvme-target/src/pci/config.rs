//! How a device presents itself.

use nvme_core::spec::registers::{CmbLoc, CmbSz};

/// Describes a PCI function with an NVMe controller behind it.
#[derive(Clone, Debug)]
pub struct PciConfig {
    pub(crate) port: usize,
    pub(crate) mqes: Option<u16>,
    pub(crate) dstrd: u8,
    pub(crate) mpsmin: u8,
    pub(crate) ready_units: u8,
    pub(crate) bar_bytes: usize,
    pub(crate) vectors: u16,
    pub(crate) inline: bool,
    pub(crate) shadow: bool,
    pub(crate) cmb: Option<Cmb>,
    pub(crate) host_memory: HostMemoryWish,
    pub(crate) subsystem_reset: bool,
    pub(crate) ids: [u16; 4],
}

/// What Identify Controller says of the host memory buffer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HostMemoryWish {
    pub preferred: u32,
    pub least: u32,
    pub least_piece: u32,
    pub most_pieces: u16,
}

/// A controller memory buffer as it is, and as its registers tell of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cmb {
    pub bytes: usize,
    pub location: u32,
    pub size: u32,
}

impl Default for PciConfig {
    fn default() -> Self {
        Self {
            port: 1 << 16,
            mqes: None,
            dstrd: 0,
            mpsmin: 0,
            ready_units: 15,
            bar_bytes: 16 << 10,
            vectors: 64,
            inline: false,
            shadow: true,
            cmb: None,
            host_memory: HostMemoryWish::default(),
            subsystem_reset: false,
            ids: [0; 4],
        }
    }
}

impl PciConfig {
    /// A sound device: a BAR of 16 KiB, 64 interrupts, doorbells 4 bytes apart, ready within 7.5 s,
    /// queues as long as the subsystem allows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number under which ANA states are set for this device, as listeners have theirs
    /// ([`Subsystem::set_ana`](crate::Subsystem::set_ana)); 65,536 by default.
    #[must_use]
    pub fn port(mut self, port: usize) -> Self {
        self.port = port;
        self
    }

    /// Vendor, device, subsystem vendor and subsystem identifiers in configuration space; all zero by
    /// default.
    #[must_use]
    pub fn ids(mut self, vendor: u16, device: u16, subsystem_vendor: u16, subsystem: u16) -> Self {
        self.ids = [vendor, device, subsystem_vendor, subsystem];
        self
    }

    /// CAP.MQES as it stands in the register: 0 breaks the specification.
    #[must_use]
    pub fn mqes(mut self, mqes: u16) -> Self {
        self.mqes = Some(mqes);
        self
    }

    /// CAP.DSTRD, 0 to 15: doorbells are 4 shifted by so much apart.
    #[must_use]
    pub fn doorbell_stride(mut self, dstrd: u8) -> Self {
        self.dstrd = dstrd & 0xf;
        self
    }

    /// CAP.MPSMIN, 0 to 15: the smallest page is 4 KiB shifted by so much.
    #[must_use]
    pub fn smallest_page(mut self, mpsmin: u8) -> Self {
        self.mpsmin = mpsmin & 0xf;
        self
    }

    /// CAP.TO: the longest time to become ready, in units of 500 ms.
    #[must_use]
    pub fn ready_units(mut self, units: u8) -> Self {
        self.ready_units = units;
        self
    }

    /// Length of BAR 0 in bytes.
    #[must_use]
    pub fn bar_bytes(mut self, bytes: usize) -> Self {
        self.bar_bytes = bytes;
        self
    }

    /// Interrupts that the device has.
    #[must_use]
    pub fn vectors(mut self, vectors: u16) -> Self {
        self.vectors = vectors;
        self
    }

    /// Without Doorbell Buffer Config.
    #[must_use]
    pub fn without_shadow_doorbells(mut self) -> Self {
        self.shadow = false;
        self
    }

    /// With a controller memory buffer of `bytes`, a multiple of 4 KiB and at most 4 GiB, in BAR 2, for
    /// submission queues, lists and data.
    #[must_use]
    pub fn controller_memory(mut self, bytes: usize) -> Self {
        let location = CmbLoc(0).with_bir(2).0;
        let units = (bytes / 4096) as u32;
        let size = CmbSz(0).with_sqs(1).with_lists(1).with_rds(1).with_wds(1).with_sz(units).0;
        self.cmb = Some(Cmb { bytes: bytes / 4096 * 4096, location, size });
        self
    }

    /// The same, but CMBLOC and CMBSZ have these values, whatever there is.
    #[must_use]
    pub fn controller_memory_told(mut self, bytes: usize, location: u32, size: u32) -> Self {
        self.cmb = Some(Cmb { bytes: bytes / 4096 * 4096, location, size });
        self
    }

    /// Asks for a host memory buffer (NVMe 2.1 §8.2.3): HMPRE and HMMIN in pages of 4 KiB. The device
    /// writes to it with every I/O command, and in every step while it has it.
    #[must_use]
    pub fn host_memory(mut self, preferred: u32, least: u32) -> Self {
        (self.host_memory.preferred, self.host_memory.least) = (preferred, least);
        self
    }

    /// With CAP.NSSRS: what is written to NSSR resets all devices in front of the subsystem, which then
    /// have CSTS.NSSRO set (those that are reached by TCP stay).
    #[must_use]
    pub fn subsystem_reset(mut self) -> Self {
        self.subsystem_reset = true;
        self
    }

    /// HMMINDS in pages of 4 KiB, and HMMAXD; 0 for no limit.
    #[must_use]
    pub fn host_memory_pieces(mut self, least_pages: u32, most: u16) -> Self {
        (self.host_memory.least_piece, self.host_memory.most_pieces) = (least_pages, most);
        self
    }

    /// Carries commands out within the write to the doorbell, on the host's thread: for tests and
    /// benches that want no second thread.
    #[must_use]
    pub fn inline(mut self) -> Self {
        self.inline = true;
        self
    }
}

/// A misbehaviour of a device, on top of the target's [fault rules](crate::FaultRule), of which a
/// device knows those that act on single commands and their answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PciFault {
    /// CSTS.RDY stays 0 when the controller is enabled.
    NeverReady,
    /// Registers read as zero, as those of a removed device do on some machines.
    Zeroes,
    /// CC.EN = 0 is ignored: the controller goes on until it is reset.
    StuckEnabled,
    /// CSTS.CFS is set, and nothing is done any more, after so many further I/O commands.
    FatalAfter(u64),
    /// I/O commands are fetched and kept. While the controller is enabled, each step writes FFh over
    /// all of what the kept reads may write to.
    Stall,
    /// The next I/O command is answered twice.
    AnswerTwice,
    /// The next I/O answer has these bits of its command identifier flipped.
    WrongCid(u16),
    /// The next I/O answer names this submission queue.
    WrongSqid(u16),
    /// The next I/O answer reports this submission queue head.
    WrongSqhd(u16),
    /// The next I/O answer has the phase tag of the pass before: it cannot be seen.
    WrongPhase,
    /// I/O completion queues above this identifier are not created.
    FewerCompletionQueues(u16),
    /// I/O submission queues above this identifier are not created.
    FewerSubmissionQueues(u16),
    /// A server that offers the device over vfio-user answers nothing any more once it is asked to map
    /// memory.
    SilentAtMap,
    /// The same once it is asked to set an interrupt up.
    SilentAtInterrupt,
}
