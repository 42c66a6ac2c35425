//! Identify Controller: reading it, refusing what cannot be, and what follows from it.

use std::sync::Arc;

use super::action::{Action, ControllerEvent, ControllerInfo};
use super::admin::Purpose;
use super::bringup::Step;
use super::config::ControllerConfig;
use super::cross_reset::ControllerInstance;
use super::host_memory;
use super::machine::Controller;
use super::power::{self, PowerState};
use crate::buffer::Buffer;
use crate::nqn::Nqn;
use crate::quirk::{self, Identity, Quirks};
use crate::spec::feature::{HostBehavior, NumberOfQueues, fid};
use crate::spec::identify::{
    ControllerAttributes, ControllerType, IDENTIFY_LEN, IdentifyController, MultiPathCapabilities,
    OptionalCommands, cns,
};
use crate::spec::registers::{Cap, Version};
use crate::spec::{Cqe, Sqe, Status};
use crate::time::{Duration, Instant};
use crate::transport::{Data, HostMemoryRequest, TransportKind};
use zerocopy::{FromBytes, IntoBytes};

/// Most bytes of write data that go inside a command capsule, whatever the controller offers.
const MOST_IN_CAPSULE: u64 = 64 * 1024;

/// Most bytes of a transfer where larger ones do not work ([`Quirks::SMALL_TRANSFERS`]).
const SMALL_TRANSFER: usize = 128 << 10;

/// What Identify Controller said, checked.
#[derive(Clone, Debug)]
pub(super) struct Identified {
    pub(super) subnqn: Nqn,
    pub(super) serial: String,
    pub(super) model: String,
    pub(super) firmware: String,
    pub(super) cntlid: u16,
    pub(super) max_transfer: Option<usize>,
    pub(super) multi_controller: bool,
    pub(super) ana: bool,
    pub(super) ana_transition: Duration,
    /// Most groups, and most namespaces, that an ANA log can have.
    pub(super) ana_groups: u32,
    /// Highest ANA group identifier; 0: not said.
    pub(super) highest_group: u32,
    pub(super) most_namespaces: u32,
    /// Log pages can be read in pieces (`LPA` bit 2).
    pub(super) log_offsets: bool,
    pub(super) volatile_write_cache: bool,
    pub(super) oncs: u16,
    pub(super) events: u32,
    /// Abort commands that may be in flight at once, less one (`ACL`).
    pub(super) abort_limit: u8,
    pub(super) retry_delays: [Duration; 3],
    pub(super) keep_alive: bool,
    pub(super) traffic_based_keep_alive: bool,
    pub(super) quiesce_time: Duration,
    pub(super) instance: Option<ControllerInstance>,
    pub(super) cross_resets: u8,
    pub(super) shutdown: Duration,
    pub(super) subsystem_reset: bool,
    pub(super) power_states: Vec<PowerState>,
    /// Autonomous power state transitions are supported (`APSTA`).
    pub(super) apst: bool,
    /// The host memory buffer that it would like.
    pub(super) host_memory: Option<HostMemoryRequest>,
    /// Highest NSID.
    pub(super) highest_nsid: u32,
    pub(super) in_capsule: usize,
    /// No I/O queues and no namespaces.
    pub(super) discovery: bool,
    pub(super) admin_only: bool,
    pub(super) io_entries: u16,
    /// Whether the host must say that it understands retry delays (`NVMe 2.1 §5.1.25.1.14`).
    pub(super) wants_host_behavior: bool,
}

/// What is known of the controller apart from Identify.
pub(super) struct Known<'a> {
    pub(super) config: &'a ControllerConfig,
    pub(super) kind: TransportKind,
    pub(super) transport_max: Option<usize>,
    pub(super) cap: Cap,
    pub(super) cntlid: u16,
    pub(super) quirks: Quirks,
}

/// Checks the 4096 bytes.
///
/// # Errors
/// The field that cannot be, with its value.
pub(super) fn check(bytes: &[u8], known: &Known<'_>) -> Result<Identified, String> {
    let (id, _) = IdentifyController::ref_from_prefix(bytes)
        .map_err(|_| format!("{} bytes came, {IDENTIFY_LEN} are needed", bytes.len()))?;
    let config = known.config;
    let fabrics = known.kind == TransportKind::Fabrics;
    let discovery = config.is_discovery() || id.cntrltype == ControllerType::DISCOVERY;
    if fabrics {
        check_fabrics(id, known, discovery)?;
    }
    let in_capsule = match id.in_capsule_len() {
        Some(bytes) if fabrics => usize::try_from(bytes.min(MOST_IN_CAPSULE)).unwrap_or(0),
        _ => 0,
    };
    let mdts = id.max_transfer(known.cap.min_page_size()).and_then(|max| usize::try_from(max).ok());
    let small = known.quirks.contains(Quirks::SMALL_TRANSFERS).then_some(SMALL_TRANSFER);
    let max_transfer = [mdts, known.transport_max, small].into_iter().flatten().min();
    let mut retry_delays = [Duration::ZERO; 3];
    for (delay, crd) in retry_delays.iter_mut().zip(1..) {
        *delay = Duration::from_millis(id.retry_delay_ms(crd).into());
    }
    let most_entries = match id.maxcmd.get() {
        0 => u32::from(u16::MAX),
        // One entry of a queue always stays free.
        most => u32::from(most) + 1,
    };
    let most_entries = match known.quirks.contains(Quirks::ONE_COMMAND) {
        true => 2,
        false => most_entries,
    };
    let entries = u32::from(config.io_entries).min(known.cap.max_queue_entries()).min(most_entries);
    let lacks = |quirk| known.quirks.contains(quirk);
    Ok(Identified {
        subnqn: subsystem(id, config, lacks(Quirks::BOGUS_NQN))?,
        serial: id.serial(),
        model: id.model(),
        firmware: id.firmware(),
        cntlid: id.cntlid.get(),
        max_transfer,
        multi_controller: id.cmic.contains(MultiPathCapabilities::MULTIPLE_CONTROLLERS),
        ana: id.reports_ana() && !discovery,
        ana_transition: Duration::from_secs(id.anatt.into()),
        ana_groups: id.nanagrpid.get(),
        highest_group: id.anagrpmax.get(),
        most_namespaces: if id.mnan.get() == 0 { id.nn.get() } else { id.mnan.get() },
        log_offsets: id.lpa & 1 << 2 != 0,
        volatile_write_cache: id.has_volatile_write_cache(),
        oncs: match lacks(Quirks::NO_WRITE_ZEROES) {
            true => id.oncs.get() & !OptionalCommands::WRITE_ZEROES.bits(),
            false => id.oncs.get(),
        },
        events: id.oaes.get(),
        abort_limit: id.acl,
        retry_delays,
        keep_alive: id.kas.get() != 0,
        traffic_based_keep_alive: id
            .attributes()
            .contains(ControllerAttributes::TRAFFIC_BASED_KEEP_ALIVE),
        quiesce_time: Duration::from_millis(id.cqt.get().into()),
        instance: (fabrics && id.cirn.get() != 0).then(|| ControllerInstance {
            cntlid: id.cntlid.get(),
            ciu: id.ciu,
            cirn: id.cirn.get(),
        }),
        // Prohibited in memory (NVMe 2.3 §5.4.3).
        cross_resets: if fabrics { id.ccrl } else { 0 },
        shutdown: Duration::from_micros(id.rtd3e.get().into()),
        subsystem_reset: !fabrics && known.cap.nssrs() == 1,
        power_states: power::states(id),
        apst: id.apsta & 1 != 0 && !lacks(Quirks::NO_APST),
        host_memory: match fabrics || lacks(Quirks::NO_HOST_MEMORY) {
            true => None,
            false => host_memory::wanted(id, config.host_memory),
        },
        highest_nsid: id.nn.get(),
        in_capsule,
        discovery,
        admin_only: id.cntrltype == ControllerType::ADMINISTRATIVE,
        io_entries: u16::try_from(entries).unwrap_or(u16::MAX).max(2),
        wants_host_behavior: retry_delays.iter().any(|delay| !delay.is_zero()),
    })
}

/// What a controller reached over fabrics must have (`NVMe 2.1 §5.1.13.2.1`, the rows for NVMe over
/// Fabrics).
fn check_fabrics(
    id: &IdentifyController,
    known: &Known<'_>,
    discovery: bool,
) -> Result<(), String> {
    if id.cntlid.get() != known.cntlid {
        let (said, connected) = (id.cntlid.get(), known.cntlid);
        return Err(format!("CNTLID is {said:#06x}, Connect gave {connected:#06x}"));
    }
    if discovery {
        // A discovery controller has no I/O queues for the rest to be about.
        return Ok(());
    }
    if id.ioccsz.get() < 4 {
        return Err(format!("IOCCSZ is {}, a command needs 4 (64 bytes)", id.ioccsz.get()));
    }
    if id.iorcsz.get() < 1 {
        return Err(format!("IORCSZ is {}, a response needs 1 (16 bytes)", id.iorcsz.get()));
    }
    if id.icdoff.get() != 0 {
        return Err(format!("ICDOFF is {}, only 0 is supported", id.icdoff.get()));
    }
    if !id.supports_sgl() {
        return Err(format!("SGLS is {:#x}, fabrics need SGLs", id.sgls.get()));
    }
    if id.kas.get() == 0 && !known.config.keep_alive.is_zero() {
        return Err("KAS is 0, a keep-alive timeout was asked for".into());
    }
    Ok(())
}

/// The subsystem's name: what the controller says, if that can be; for a controller before NVMe
/// 1.2.1, or one whose name is `bogus`, one made from its names, as the specification tells
/// (`NVMe 2.1 §4.7`, last form).
fn subsystem(
    id: &IdentifyController,
    config: &ControllerConfig,
    bogus: bool,
) -> Result<Nqn, String> {
    let said =
        id.subsystem_nqn().map_err(drop).and_then(|nqn| if bogus { Err(()) } else { Ok(nqn) });
    match (said, &config.subnqn) {
        (Ok(said), Some(asked)) if said != *asked && !config.is_discovery() => {
            Err(format!("SUBNQN is {said}, Connect went to {asked}"))
        }
        (Ok(said), _) => Ok(said),
        (Err(_), Some(asked)) => Ok(asked.clone()),
        (Err(_), None) => {
            let (vid, ssvid) = (id.vid.get(), id.ssvid.get());
            let name = format!(
                "nqn.2014.08.org.nvmexpress:{vid:04x}{ssvid:04x}{:20}{:40}",
                id.serial(),
                id.model()
            );
            Nqn::new(name.trim_end()).map_err(|e| format!("no SUBNQN, and none can be made: {e}"))
        }
    }
}

impl Controller {
    pub(super) fn identify(&mut self, now: Instant) {
        self.enter(Step::Identify);
        let sqe = Sqe::identify(cns::CONTROLLER, 0);
        self.send_read(now, sqe, IDENTIFY_LEN, Purpose::Identify);
    }

    pub(super) fn identified(
        &mut self,
        now: Instant,
        command: &'static str,
        answer: Result<Buffer, Status>,
    ) {
        if !self.at(Step::Identify) {
            return;
        }
        if let Ok(buffer) = &answer
            && let Ok((id, _)) = IdentifyController::ref_from_prefix(buffer.as_slice())
        {
            let (model, firmware) = (id.model(), id.firmware());
            let (vendor, model, firmware) = (id.vid.get(), model.as_str(), firmware.as_str());
            if !self.learn_quirks(now, Some(Identity { vendor, model, firmware })) {
                return;
            }
        }
        let checked = match answer {
            Ok(buffer) => check(
                buffer.as_slice(),
                &Known {
                    config: &self.config,
                    kind: self.link.kind,
                    transport_max: self.link.transport_max,
                    cap: self.link.cap,
                    cntlid: self.link.cntlid,
                    quirks: self.link.quirks,
                },
            )
            .map_err(|reason| self.invalid("Identify Controller", reason)),
            Err(status) => Err(self.command_error(command, status)),
        };
        let id = match checked {
            Ok(id) => id,
            Err(error) => return self.fail(now, error),
        };
        // In memory a host that dies takes the controller with it; Linux sends none either.
        if self.link.kind == TransportKind::Fabrics && id.keep_alive {
            let timeout = self.config.keep_alive;
            self.link.keep_alive.start(now, timeout, id.traffic_based_keep_alive);
        }
        self.link.in_capsule = id.in_capsule;
        let ask_retry_delays = id.wants_host_behavior;
        self.link.identified = Some(id);
        self.enter(Step::HostBehavior);
        if !ask_retry_delays {
            return self.host_behavior_set(now);
        }
        let sqe = Sqe::set_features(fid::HOST_BEHAVIOR, false, 0, 0);
        let data = HostBehavior::with_command_retry().as_bytes().to_vec();
        self.send(now, sqe, Data::Write(Buffer::from(data)), Purpose::HostBehavior);
    }

    /// Looks up what is wrong with the device, as far as it is known, and tells the transport. Whether
    /// the controller can be used; if not, it has been refused.
    pub(super) fn learn_quirks(&mut self, now: Instant, identity: Option<Identity<'_>>) -> bool {
        let quirks = quirk::find(&self.link.hardware, identity, &self.config.quirks);
        self.link.quirks = quirks;
        let unusable = quirks.unusable();
        if !unusable.is_empty() {
            let reason = match self.link.hardware.ids {
                Some(ids) => format!("{ids} needs what this library cannot do: {unusable}"),
                None => format!("it needs what this library cannot do: {unusable}"),
            };
            let error = self.invalid("device", reason);
            self.refuse(now, error);
            return false;
        }
        if self.link.kind == TransportKind::Memory {
            self.actions.push_back(Action::Quirks(quirks));
        }
        true
    }

    /// The answer is of no interest: without it the controller only does not use retry delays.
    pub(super) fn host_behavior_set(&mut self, now: Instant) {
        if !self.at(Step::HostBehavior) {
            return;
        }
        self.enter(Step::NumberOfQueues);
        if self.link.identified.as_ref().is_none_or(|id| id.discovery || id.admin_only) {
            return self.queues_known(now, 0);
        }
        let asked = NumberOfQueues::pairs(self.config.max_io_queues.into());
        let sqe = Sqe::set_features(fid::NUMBER_OF_QUEUES, false, 0, asked.to_dword());
        self.send(now, sqe, Data::None, Purpose::NumberOfQueues);
    }

    /// A controller that refuses has no I/O queues to give, and may still be administered.
    pub(super) fn queues_granted(&mut self, now: Instant, cqe: &Cqe) {
        if !self.at(Step::NumberOfQueues) {
            return;
        }
        let granted = if cqe.status().is_success() {
            let granted = NumberOfQueues::from_dword(cqe.dw0.get()).queue_pairs();
            let asked = self.config.max_io_queues.max(1);
            u16::try_from(granted).unwrap_or(u16::MAX).min(asked)
        } else {
            0
        };
        self.queues_known(now, granted);
    }

    fn queues_known(&mut self, now: Instant, io_queues: u16) {
        let version = self.link.version;
        let Some(id) = &self.link.identified else { return };
        let mut info = info(id, version, io_queues);
        info.device = self.link.hardware.ids;
        info.quirks = self.link.quirks;
        let info = Arc::new(info);
        let events = id.events;
        self.info = Some(info.clone());
        self.emit(ControllerEvent::Identified(info));
        self.enter(Step::Events);
        self.configure_events(now, events);
    }

    /// A controller that refuses the configuration sends the events that it sends anyway.
    pub(super) fn events_configured(&mut self, now: Instant) {
        if !self.at(Step::Events) {
            return;
        }
        self.enter(Step::Ana);
        if self.link.identified.as_ref().is_some_and(|id| id.ana) {
            self.reread_ana(now);
        } else {
            self.ana_known(now);
        }
    }

    /// ANA states are known, or the controller has none.
    pub(super) fn ana_known(&mut self, now: Instant) {
        if self.at(Step::Ana) {
            self.configure_power(now);
        }
    }
}

fn info(id: &Identified, version: Version, io_queues: u16) -> ControllerInfo {
    ControllerInfo {
        subnqn: id.subnqn.clone(),
        cntlid: id.cntlid,
        serial: id.serial.clone(),
        model: id.model.clone(),
        firmware: id.firmware.clone(),
        version: version.0,
        max_transfer: id.max_transfer,
        multi_controller: id.multi_controller,
        ana: id.ana,
        ana_transition: id.ana_transition,
        volatile_write_cache: id.volatile_write_cache,
        oncs: id.oncs,
        io_queues,
        io_entries: id.io_entries,
        retry_delays: id.retry_delays,
        power_states: id.power_states.clone(),
        subsystem_reset: id.subsystem_reset,
        quiesce_time: id.quiesce_time,
        instance: id.instance,
        cross_resets: id.cross_resets,
        traffic_based_keep_alive: id.traffic_based_keep_alive,
        device: None,
        quirks: Quirks::empty(),
    }
}
