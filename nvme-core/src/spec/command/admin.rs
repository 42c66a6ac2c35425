//! Admin commands.

use super::{CommandError, Sqe};
use crate::spec::feature::fid;
use crate::spec::opcode::AdminOpcode;

/// Arguments of Identify (NVMe 2.1 §5.1.13). The command's data is 4096 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identify {
    /// Namespace the structure is about; 0 where it is about none.
    pub nsid: u32,
    /// Which structure, a value of `identify::cns`.
    pub cns: u8,
    /// Controller identifier, for the structures that take one.
    pub cntid: u16,
    /// CNS specific identifier.
    pub cnssid: u16,
    /// Command set identifier.
    pub csi: u8,
    /// UUID index, 0 for none, at most 127.
    pub uuid_index: u8,
}

impl From<Identify> for Sqe {
    fn from(args: Identify) -> Self {
        let mut sqe = Self::new(AdminOpcode::IDENTIFY.0, args.nsid);
        sqe.cdw10 = (u32::from(args.cntid) << 16 | u32::from(args.cns)).into();
        sqe.cdw11 = (u32::from(args.csi) << 24 | u32::from(args.cnssid)).into();
        sqe.cdw14 = u32::from(args.uuid_index & 0x7f).into();
        sqe
    }
}

impl Identify {
    /// Reads the arguments back out of a command.
    #[must_use]
    pub const fn from_sqe(sqe: &Sqe) -> Self {
        Self {
            nsid: sqe.nsid.get(),
            cns: sqe.cdw10.get() as u8,
            cntid: (sqe.cdw10.get() >> 16) as u16,
            cnssid: sqe.cdw11.get() as u16,
            csi: (sqe.cdw11.get() >> 24) as u8,
            uuid_index: sqe.cdw14.get() as u8 & 0x7f,
        }
    }
}

/// Arguments of Get Log Page (NVMe 2.1 §5.1.12).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GetLogPage {
    /// Namespace; 0 or FFFFFFFFh for what concerns the controller.
    pub nsid: u32,
    /// Log page identifier, a value of `log::lid`.
    pub lid: u8,
    /// Log specific parameter, 7 bits.
    pub lsp: u8,
    /// Log specific identifier.
    pub lsi: u16,
    /// Retain Asynchronous Event: reading does not clear the event.
    pub rae: bool,
    /// Bytes to transfer, a multiple of 4, at least 4.
    pub len: u64,
    /// Byte offset to begin at, a multiple of 4.
    pub offset: u64,
    /// Command set identifier.
    pub csi: u8,
    /// UUID index, 0 for none, at most 127.
    pub uuid_index: u8,
}

impl GetLogPage {
    /// A read of the first `len` bytes of log `lid` of the controller.
    #[must_use]
    pub fn new(lid: u8, len: u64) -> Self {
        Self { nsid: crate::spec::NSID_ALL, lid, len, ..Self::default() }
    }

    /// Builds the command.
    ///
    /// # Errors
    /// [`CommandError::LogLength`] or [`CommandError::LogOffset`] where one is not made of whole dwords.
    pub fn to_sqe(self) -> Result<Sqe, CommandError> {
        let dwords = self.len / 4;
        if !self.len.is_multiple_of(4) || !(1..=1 << 32).contains(&dwords) {
            return Err(CommandError::LogLength { lid: self.lid, len: self.len });
        }
        if !self.offset.is_multiple_of(4) {
            return Err(CommandError::LogOffset { lid: self.lid, offset: self.offset });
        }
        let numd = (dwords - 1) as u32;
        let mut sqe = Sqe::new(AdminOpcode::GET_LOG_PAGE.0, self.nsid);
        sqe.cdw10 = (numd << 16
            | u32::from(self.rae) << 15
            | u32::from(self.lsp & 0x7f) << 8
            | u32::from(self.lid))
        .into();
        sqe.cdw11 = (u32::from(self.lsi) << 16 | numd >> 16).into();
        sqe.cdw12 = (self.offset as u32).into();
        sqe.cdw13 = ((self.offset >> 32) as u32).into();
        sqe.cdw14 = (u32::from(self.csi) << 24 | u32::from(self.uuid_index & 0x7f)).into();
        Ok(sqe)
    }

    /// Reads the arguments back out of a command.
    #[must_use]
    pub const fn from_sqe(sqe: &Sqe) -> Self {
        let cdw10 = sqe.cdw10.get();
        let numd = (sqe.cdw11.get() & 0xffff) << 16 | cdw10 >> 16;
        Self {
            nsid: sqe.nsid.get(),
            lid: cdw10 as u8,
            lsp: (cdw10 >> 8) as u8 & 0x7f,
            lsi: (sqe.cdw11.get() >> 16) as u16,
            rae: cdw10 & 1 << 15 != 0,
            len: (numd as u64 + 1) * 4,
            offset: sqe.cdw12.get() as u64 | (sqe.cdw13.get() as u64) << 32,
            csi: (sqe.cdw14.get() >> 24) as u8,
            uuid_index: sqe.cdw14.get() as u8 & 0x7f,
        }
    }
}

/// Which value of a feature Get Features returns (NVMe 2.1 §5.1.11).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum FeatureSelect {
    /// The value in force.
    #[default]
    Current = 0,
    /// The default value.
    Default = 1,
    /// The value that survives a reset.
    Saved = 2,
    /// Whether it can be saved, changed, and set for each namespace.
    Capabilities = 3,
}

impl Sqe {
    /// Identify structure `cns` of namespace `nsid` (0 for none). See [`Identify`] for further arguments.
    #[must_use]
    pub fn identify(cns: u8, nsid: u32) -> Self {
        Identify { cns, nsid, ..Identify::default() }.into()
    }

    /// Get Features (NVMe 2.1 §5.1.11); `cdw11` is the feature's own argument.
    #[must_use]
    pub fn get_features(fid: u8, select: FeatureSelect, nsid: u32, cdw11: u32) -> Self {
        let mut sqe = Self::new(AdminOpcode::GET_FEATURES.0, nsid);
        sqe.cdw10 = ((select as u32) << 8 | u32::from(fid)).into();
        sqe.cdw11 = cdw11.into();
        sqe
    }

    /// Set Features, Host Memory Buffer (NVMe 2.1 §5.1.25.2.4): `pages` pages in `pieces` pieces, of
    /// which there is a list at bus address `list`; `flags` are those of
    /// [`host_memory`](crate::spec::feature::host_memory).
    #[must_use]
    pub fn host_memory_buffer(flags: u32, pages: u32, list: u64, pieces: u32) -> Self {
        let mut sqe = Self::set_features(fid::HOST_MEMORY_BUFFER, false, 0, flags);
        sqe.cdw12 = pages.into();
        sqe.cdw13 = (list as u32 & !0xf).into();
        sqe.cdw14 = ((list >> 32) as u32).into();
        sqe.cdw15 = pieces.into();
        sqe
    }

    /// Set Features (NVMe 2.1 §5.1.25); `save` keeps the value across resets, `cdw11` is the value of most features.
    #[must_use]
    pub fn set_features(fid: u8, save: bool, nsid: u32, cdw11: u32) -> Self {
        let mut sqe = Self::new(AdminOpcode::SET_FEATURES.0, nsid);
        sqe.cdw10 = (u32::from(save) << 31 | u32::from(fid)).into();
        sqe.cdw11 = cdw11.into();
        sqe
    }

    /// Asynchronous Event Request (NVMe 2.1 §5.1.2); it completes when an event happens.
    #[must_use]
    pub fn async_event_request() -> Self {
        Self::new(AdminOpcode::ASYNC_EVENT_REQUEST.0, 0)
    }

    /// Keep Alive (NVMe 2.1 §5.1.14).
    #[must_use]
    pub fn keep_alive() -> Self {
        Self::new(AdminOpcode::KEEP_ALIVE.0, 0)
    }

    /// Abort command `cid` of submission queue `sqid` (NVMe 2.1 §5.1.1).
    /// Bit 0 of the completion's dword 0 is clear if the command was aborted.
    #[must_use]
    pub fn abort(sqid: u16, cid: u16) -> Self {
        let mut sqe = Self::new(AdminOpcode::ABORT.0, 0);
        sqe.cdw10 = (u32::from(cid) << 16 | u32::from(sqid)).into();
        sqe
    }

    /// Create I/O completion queue `qid` of `entries` entries in physically contiguous memory at bus address `base`;
    /// `vector` is its interrupt vector, `None` for polling (NVMe 2.1 §5.2.1).
    ///
    /// # Errors
    /// [`CommandError::QueueSize`] unless `entries` is 2 to 65536.
    pub fn create_io_cq(
        qid: u16,
        entries: u32,
        base: u64,
        vector: Option<u16>,
    ) -> Result<Self, CommandError> {
        let mut sqe = Self::create_queue(AdminOpcode::CREATE_IO_CQ, qid, entries, base)?;
        let interrupt = vector.map_or(0, |vector| u32::from(vector) << 16 | IEN);
        sqe.cdw11 = (interrupt | PHYSICALLY_CONTIGUOUS).into();
        Ok(sqe)
    }

    /// Create I/O submission queue `qid` of `entries` entries in physically contiguous memory at bus address `base`,
    /// completing to `cqid`; priority urgent where the controller arbitrates by weight (NVMe 2.1 §5.2.2).
    ///
    /// # Errors
    /// [`CommandError::QueueSize`] unless `entries` is 2 to 65536.
    pub fn create_io_sq(
        qid: u16,
        entries: u32,
        base: u64,
        cqid: u16,
    ) -> Result<Self, CommandError> {
        let mut sqe = Self::create_queue(AdminOpcode::CREATE_IO_SQ, qid, entries, base)?;
        sqe.cdw11 = (u32::from(cqid) << 16 | PHYSICALLY_CONTIGUOUS).into();
        Ok(sqe)
    }

    fn create_queue(
        opcode: AdminOpcode,
        qid: u16,
        entries: u32,
        base: u64,
    ) -> Result<Self, CommandError> {
        if !(2..=0x1_0000).contains(&entries) {
            return Err(CommandError::QueueSize(entries));
        }
        let mut sqe = Self::new(opcode.0, 0);
        sqe.set_prp(base, 0);
        sqe.cdw10 = ((entries - 1) << 16 | u32::from(qid)).into();
        Ok(sqe)
    }

    /// Cross-Controller Reset (TP8028; NVMe 2.3 §5.4.3): have this controller reset another of the same subsystem,
    /// `icid`, provided it is still the instance that `ciu` and `cirn` of its Identify Controller name.
    /// Bit 0 of the completion's dword 0: the reset is done already; otherwise log page 1Eh tells.
    #[must_use]
    pub fn cross_controller_reset(icid: u16, ciu: u8, cirn: u64) -> Self {
        let mut sqe = Self::new(AdminOpcode::CROSS_CONTROLLER_RESET.0, 0);
        sqe.cdw10 = (u32::from(ciu) << 16 | u32::from(icid)).into();
        sqe.cdw12 = (cirn as u32).into();
        sqe.cdw13 = ((cirn >> 32) as u32).into();
        sqe
    }

    /// Delete I/O completion queue `qid`, after its submission queues (NVMe 2.1 §5.2.3).
    #[must_use]
    pub fn delete_io_cq(qid: u16) -> Self {
        let mut sqe = Self::new(AdminOpcode::DELETE_IO_CQ.0, 0);
        sqe.cdw10 = u32::from(qid).into();
        sqe
    }

    /// Delete I/O submission queue `qid` (NVMe 2.1 §5.2.4).
    #[must_use]
    pub fn delete_io_sq(qid: u16) -> Self {
        let mut sqe = Self::new(AdminOpcode::DELETE_IO_SQ.0, 0);
        sqe.cdw10 = u32::from(qid).into();
        sqe
    }
}

const PHYSICALLY_CONTIGUOUS: u32 = 1 << 0;
const IEN: u32 = 1 << 1;
