//! How the TCP front behaves, as far as that can be chosen.

use nvme_core::spec::tcp::MAXH2CDATA_MIN;

/// When a read's last data PDU carries the SUCCESS flag, which saves the response capsule (TCP 1.1 §3.4.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SuccessFlag {
    /// Never: a response capsule follows each read.
    Never,
    /// On queues without submission queue flow control, whose host needs no SQHD. This is what Linux's target does.
    #[default]
    WithoutFlowControl,
    /// Always.
    Always,
}

/// Choices of the TCP front, the same for all listeners.
#[derive(Clone, Debug)]
pub struct Transport {
    pub(crate) header_digest: bool,
    pub(crate) data_digest: bool,
    pub(crate) max_h2c_data: u32,
    pub(crate) cpda: u8,
    pub(crate) r2t_bytes: u32,
    pub(crate) c2h_bytes: u32,
    pub(crate) success: SuccessFlag,
}

impl Default for Transport {
    fn default() -> Self {
        Self {
            header_digest: true,
            data_digest: true,
            max_h2c_data: 4 << 20,
            cpda: 0,
            r2t_bytes: u32::MAX,
            c2h_bytes: u32::MAX,
            success: SuccessFlag::default(),
        }
    }
}

impl Transport {
    /// The defaults: digests granted when asked for, MAXH2CDATA 4 MiB, one R2T and one C2HData PDU for each command.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Which digests are granted to hosts that ask.
    #[must_use]
    pub fn digests(mut self, header: bool, data: bool) -> Self {
        self.header_digest = header;
        self.data_digest = data;
        self
    }

    /// MAXH2CDATA in bytes: made a multiple of 4, at least 4096.
    #[must_use]
    pub fn max_h2c_data(mut self, bytes: u32) -> Self {
        self.max_h2c_data = (bytes & !3).max(MAXH2CDATA_MIN);
        self
    }

    /// CPDA: the alignment asked of the data in the host's PDUs, in dwords less one, 0 to 31. Linux's host takes
    /// only 0.
    #[must_use]
    pub fn cpda(mut self, cpda: u8) -> Self {
        self.cpda = cpda.min(31);
        self
    }

    /// Largest range that one R2T asks for, in bytes, at least 4096. A command with more gets several R2Ts, as many
    /// at a time as the host's MAXR2T allows.
    #[must_use]
    pub fn r2t_bytes(mut self, bytes: u32) -> Self {
        self.r2t_bytes = (bytes & !3).max(4096);
        self
    }

    /// Most data in one C2HData PDU, in bytes, at least 4096.
    #[must_use]
    pub fn c2h_bytes(mut self, bytes: u32) -> Self {
        self.c2h_bytes = (bytes & !3).max(4096);
        self
    }

    /// When reads end with the SUCCESS flag instead of a response capsule.
    #[must_use]
    pub fn success_flag(mut self, when: SuccessFlag) -> Self {
        self.success = when;
        self
    }
}
