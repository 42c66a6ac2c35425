//! What becomes of a request that a controller answers with an error.
use std::sync::Arc;
use std::time::{Duration, Instant};

use nvme_core::spec::Status;
use nvme_core::spec::opcode::{AdminOpcode, NvmOpcode};
use nvme_e2e::{Bed, ChannelExt, PORTS, Pattern, Session, Software, persistent, wait_until};
use nvme_mpath::{Channel, ChannelOptions, Head, IoError, IoOp};
use nvme_target::{FaultAction, FaultId, FaultRule, SubsystemConfig};

const LEN: usize = 4096;
const PATTERN: Pattern = Pattern { salt: 3, version: 1 };

struct Case {
    bed: Software,
    session: Session,
    head: Arc<Head>,
    channel: Channel,
}

impl Case {
    fn new(ports: &[u16]) -> Self {
        Self::with(ports, |s| s, ChannelOptions::default())
    }

    fn with(
        ports: &[u16],
        more: impl FnOnce(SubsystemConfig) -> SubsystemConfig,
        options: ChannelOptions,
    ) -> Self {
        let bed = Software::with(more);
        let session = Session::new(&bed);
        for port in ports {
            session.connect(&bed, *port, &persistent());
        }
        let head = session.head(1);
        session.wait_usable(&head, ports.len());
        let mut channel = session.host.channel(options).expect("a channel");
        // All queues are there once each port has had its turn.
        wait_until("a queue at each port", || {
            bed.watch();
            for _ in 0..2 * ports.len() {
                channel.put(&head, 0, LEN, Pattern { salt: 3, version: 0 });
            }
            ports.iter().all(|port| bed.writes_seen(*port) > 0)
        });
        bed.watch_no_more();
        Self { bed, session, head, channel }
    }

    /// All writes at a port, or at all, end with a status, so many times.
    fn fail_writes(&self, port: Option<u16>, status: Status, times: Option<u64>) -> FaultId {
        let mut rule = FaultRule::new(FaultAction::Fail(status)).io().opcode(NvmOpcode::WRITE.0);
        if let Some(port) = port {
            rule = rule.listener(Software::listener(port));
        }
        if let Some(times) = times {
            rule = rule.times(times);
        }
        self.bed.target.add_fault(rule)
    }

    fn log_pages_read(&self) -> u64 {
        let stats = self.bed.target.stats();
        stats.admin_commands.get(&AdminOpcode::GET_LOG_PAGE.0).copied().unwrap_or(0)
    }
}

/// The answer says that the path cannot be used: the request goes down the other one, and the log
/// is read again, which says that all is well.
#[test]
fn an_ana_status_leads_to_the_other_path_and_to_the_log() {
    for status in [Status::ANA_INACCESSIBLE, Status::ANA_TRANSITION, Status::ANA_PERSISTENT_LOSS] {
        let mut case = Case::new(&PORTS);
        let read = case.log_pages_read();
        let fault = case.fail_writes(Some(1), status, Some(1));
        for _ in 0..4 {
            case.channel.put(&case.head, 0, LEN, PATTERN);
        }
        assert_eq!(case.bed.target.fault_hits(fault), Some(1));
        assert_eq!(case.head.stats().failovers, 1, "{status}");
        wait_until("the log to be read", || case.log_pages_read() > read);
        case.session.wait_usable(&case.head, 2);
        case.channel.check(&case.head, 0, LEN, PATTERN);
        case.session.shutdown();
    }
}

/// As before, without another path: the request waits until the log has been read.
#[test]
fn an_ana_status_on_the_only_path_is_waited_out() {
    let mut case = Case::new(&[1]);
    let _ = case.fail_writes(None, Status::ANA_TRANSITION, Some(3));
    case.channel.put(&case.head, 0, LEN, PATTERN);
    assert_eq!(case.head.stats().failovers, 3);
    case.channel.check(&case.head, 0, LEN, PATTERN);
    case.session.shutdown();
}

#[test]
fn a_path_error_leads_to_the_other_path() {
    for status in [Status::INTERNAL_PATH_ERROR, Status::CONTROLLER_PATHING_ERROR] {
        let mut case = Case::new(&PORTS);
        let fault = case.fail_writes(Some(1), status, None);
        for _ in 0..6 {
            case.channel.put(&case.head, 0, LEN, PATTERN);
        }
        let hits = case.bed.target.remove_fault(fault).expect("the fault");
        assert!(hits > 0, "the bad path was tried");
        assert_eq!(case.head.stats().failovers, hits);
        case.channel.check(&case.head, 0, LEN, PATTERN);
        case.session.shutdown();
    }
}

/// Both paths answer so for ever: that ends, too.
#[test]
fn path_errors_everywhere_end_in_an_error() {
    let mut case = Case::new(&PORTS);
    let _ = case.fail_writes(None, Status::INTERNAL_PATH_ERROR, None);
    let error = case.channel.write_error(&case.head);
    let IoError::Status { status, .. } = &error else { panic!("{error}") };
    assert!(status.is(Status::INTERNAL_PATH_ERROR), "{error}");
    case.session.shutdown();
}

#[test]
fn do_not_retry_is_respected() {
    for status in [Status::INTERNAL_ERROR, Status::INTERNAL_PATH_ERROR, Status::WRITE_FAULT] {
        let mut case = Case::new(&PORTS);
        let fault = case.fail_writes(None, status.with_dnr(), None);
        let error = case.channel.write_error(&case.head);
        let IoError::Status { head, op, slba, blocks, status: met } = &error else {
            panic!("{error}");
        };
        assert_eq!((head.as_str(), *op), (case.head.name(), IoOp::Write));
        assert_eq!((*slba, *blocks, *met), (0, 8, status.with_dnr()), "{error}");
        assert_eq!(case.bed.target.fault_hits(fault), Some(1), "sent once");
        assert_eq!((case.head.stats().retries, case.head.stats().failovers), (0, 0));
        case.session.shutdown();
    }
}

#[test]
fn retries_are_limited() {
    let mut options = ChannelOptions::default();
    options.max_retries = 3;
    let mut case = Case::with(&PORTS, |s| s, options);
    let fault = case.fail_writes(None, Status::INTERNAL_ERROR, None);
    let error = case.channel.write_error(&case.head);
    assert!(matches!(&error, IoError::Status { .. }), "{error}");
    assert_eq!(case.bed.target.remove_fault(fault), Some(4), "once and three times again");
    assert_eq!(case.head.stats().retries, 3);
    let fault = case.fail_writes(None, Status::INTERNAL_ERROR, Some(3));
    case.channel.put(&case.head, 0, LEN, PATTERN);
    assert_eq!(case.bed.target.fault_hits(fault), Some(3));
    case.channel.check(&case.head, 0, LEN, PATTERN);
    case.session.shutdown();
}

/// The controller says how long to wait, by an index into its three delays.
#[test]
fn a_retry_waits_as_long_as_it_is_told() {
    let mut case = Case::with(&[1], |s| s.retry_delays([0, 4, 0]), ChannelOptions::default());
    let _ = case.fail_writes(None, Status::NAMESPACE_NOT_READY.with_crd(2), Some(1));
    let begun = Instant::now();
    case.channel.put(&case.head, 0, LEN, PATTERN);
    assert!(begun.elapsed() >= Duration::from_millis(400), "after {:?}", begun.elapsed());
    assert_eq!(case.head.stats().retries, 1);
    case.channel.check(&case.head, 0, LEN, PATTERN);
    case.session.shutdown();
}
