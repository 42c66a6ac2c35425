//! Asking a discovery controller what there is (`NVMe 2.1 §3.1.3.3, §5.1.12.3.1`).

use nvme_core::nqn::Nqn;
use nvme_core::spec::command::GetLogPage;
use nvme_core::spec::log::{DiscoveryEntry, DiscoveryHeader, DiscoveryLog};
use nvme_core::time::Duration;
use nvme_core::transport::Data;
use zerocopy::FromBytes;

use crate::controller::Controller;
use crate::error::HostError;
use crate::host::Host;
use crate::options::ControllerOptions;

/// Log page identifier of the discovery log.
const LID_DISCOVERY: u8 = 0x70;
const HEADER_LEN: usize = size_of::<DiscoveryHeader>();
const ENTRY_LEN: usize = size_of::<DiscoveryEntry>();
/// Entries read with one command, so that no answer is larger than an ordinary transfer.
const ENTRIES_AT_ONCE: u64 = 64;
/// More than that is taken for a lie. (Linux's own target stops at a few thousand.)
const MOST_ENTRIES: u64 = 65_536;
/// How often the log may change under the reader before that is an error.
const MOST_ROUNDS: u32 = 8;

/// A subsystem, and one way to reach it, as a discovery controller tells.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiscoveredSubsystem {
    /// Transport type: 1 RDMA, 2 Fibre Channel, 3 TCP (`NVMe 2.1 figure 294`).
    pub transport: u8,
    /// Address family: 1 IPv4, 2 IPv6.
    pub address_family: u8,
    /// Subsystem type: 1 another discovery service, 2 an NVM subsystem, 3 this discovery service.
    pub subsystem_type: u8,
    /// Port identifier.
    pub port_id: u16,
    /// Controller ID: 0xffff when controllers are made on connection.
    pub controller_id: u16,
    /// Transport address.
    pub address: String,
    /// Transport service: for TCP the port.
    pub service: String,
    /// NQN of the subsystem.
    pub subnqn: Nqn,
}

impl DiscoveredSubsystem {
    /// The URL by which [`Host::connect`] reaches it; `None` for another transport than TCP.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        let host = match self.address_family {
            2 => format!("[{}]", self.address),
            _ => self.address.clone(),
        };
        (self.transport == 3).then(|| format!("tcp://{host}:{}/{}", self.service, self.subnqn))
    }
}

impl Host {
    /// Connects to the discovery controller at `url`, reads its log and disconnects.
    ///
    /// Waits for each step, at most `limit` for each. Entries that make no sense (a bad NQN, an
    /// address that is no text) are left out.
    ///
    /// # Errors
    /// Whatever connecting can meet, and [`HostError::Discovery`] for a log that lies or does not
    /// hold still.
    pub fn discover(
        &self,
        url: &str,
        limit: Duration,
    ) -> Result<Vec<DiscoveredSubsystem>, HostError> {
        let options = ControllerOptions { max_io_queues: 1, ..ControllerOptions::default() };
        let controller = self.connect(url, options)?;
        let log = controller.wait_ready(limit).and_then(|()| read_log(&controller, limit));
        controller.disconnect();
        log
    }
}

fn read_log(c: &Controller, limit: Duration) -> Result<Vec<DiscoveredSubsystem>, HostError> {
    let bad = |reason: String| HostError::Discovery { address: c.address().to_string(), reason };
    for _ in 0..MOST_ROUNDS {
        let mut log = read(c, 0, HEADER_LEN, limit)?;
        let (genctr, count) = header(&log).ok_or_else(|| bad("no header".into()))?;
        if count > MOST_ENTRIES {
            return Err(bad(format!("{count} entries are more than {MOST_ENTRIES}")));
        }
        let mut at = 0;
        while at < count {
            let some = (count - at).min(ENTRIES_AT_ONCE);
            let offset = HEADER_LEN as u64 + at * ENTRY_LEN as u64;
            log.extend(read(c, offset, some as usize * ENTRY_LEN, limit)?);
            at += some;
        }
        // The log may have changed while it was read in pieces: then it is read again.
        let again = read(c, 0, HEADER_LEN, limit)?;
        if header(&again) == Some((genctr, count)) {
            let parsed = DiscoveryLog::parse(&log).map_err(|e| bad(e.to_string()))?;
            return Ok(parsed.entries().iter().filter_map(subsystem).collect());
        }
    }
    Err(bad(format!("the log changed {MOST_ROUNDS} times while it was read")))
}

/// Generation counter and number of records.
fn header(log: &[u8]) -> Option<(u64, u64)> {
    let (header, _) = DiscoveryHeader::read_from_prefix(log).ok()?;
    Some((header.genctr.get(), header.numrec.get()))
}

fn read(c: &Controller, offset: u64, len: usize, limit: Duration) -> Result<Vec<u8>, HostError> {
    let bad = |reason: String| HostError::Discovery { address: c.address().to_string(), reason };
    let log = GetLogPage { nsid: 0, offset, ..GetLogPage::new(LID_DISCOVERY, len as u64) };
    let sqe = log.to_sqe().map_err(|e| bad(e.to_string()))?;
    let result = c.admin(sqe, Data::Read(vec![0; len].into()), limit)?;
    let status = result.cqe.status();
    if !status.is_success() {
        return Err(bad(status.to_string()));
    }
    match &result.data {
        Data::Read(buffer) => Ok(buffer.as_slice().to_vec()),
        _ => Err(bad("no data".into())),
    }
}

fn subsystem(entry: &DiscoveryEntry) -> Option<DiscoveredSubsystem> {
    Some(DiscoveredSubsystem {
        transport: entry.trtype.0,
        address_family: entry.adrfam.0,
        subsystem_type: entry.subtype.0,
        port_id: entry.portid.get(),
        controller_id: entry.cntlid.get(),
        address: entry.address().ok()?.to_owned(),
        service: entry.service().ok()?.to_owned(),
        subnqn: entry.subsystem_nqn().ok()?,
    })
}
