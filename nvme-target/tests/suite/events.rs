//! Asynchronous events, the logs that go with them, Abort and keep alive.

use std::time::{Duration, Instant};

use nvme_core::spec::command::GetLogPage;
use nvme_core::spec::feature::fid;
use nvme_core::spec::log::{AnaLog, AnaState as WireState, ChangedNamespaceList, lid};
use nvme_core::spec::tcp::DigestFlags;
use nvme_core::spec::{BlockCount, Sqe, Status};
use nvme_target::{AnaState, AsyncEvent, FaultAction, FaultRule, NamespaceConfig, SubsystemConfig};
use zerocopy::FromBytes;

use crate::host::{Host, LIMIT, NQN, start, target};

const ANA_EVENT: u64 = 0x0c_03_02;
const NAMESPACE_EVENT: u64 = 0x04_00_02;

/// The ANA log as (group, state, namespaces), and its change count.
fn ana(host: &mut Host) -> (u64, Vec<(u32, WireState, Vec<u32>)>) {
    let page = host.log(GetLogPage::new(lid::ANA, 4096)).unwrap();
    let log = AnaLog::parse(&page).unwrap();
    let groups =
        log.groups().map(|g| (g.grpid, g.state, g.nsids.iter().map(|nsid| nsid.get()).collect()));
    (log.chgcnt(), groups.collect())
}

fn changed(host: &mut Host) -> Vec<u32> {
    let page = host.log(GetLogPage::new(lid::CHANGED_NAMESPACES, 4096)).unwrap();
    ChangedNamespaceList::ref_from_bytes(&page).unwrap().iter().collect()
}

#[test]
fn an_ana_change_is_reported_on_its_listener_once_until_the_log_is_read() {
    let target = target();
    target.add_namespace(NamespaceConfig::memory(5, 1 << 20).ana_group(3)).unwrap();
    let mut host = Host::new(target.addr(0).unwrap());
    let (count, groups) = ana(&mut host);
    let optimized = WireState::OPTIMIZED;
    assert_eq!(groups, [(1, optimized, vec![1]), (3, optimized, vec![5])]);

    let first = host.admin.send_transport(Sqe::async_event_request(), 0);
    target.set_ana(1, 3, AnaState::Inaccessible).unwrap();
    target.set_ana(0, 3, AnaState::Optimized).unwrap();
    // an event would have been sent by the second answer at the latest
    assert!(host.admin.run(Sqe::keep_alive()).status().is_success());
    assert!(host.admin.run(Sqe::keep_alive()).status().is_success());
    target.set_ana(0, 3, AnaState::Inaccessible).unwrap();
    assert_eq!(host.admin.response(first).result(), ANA_EVENT);

    let second = host.admin.send_transport(Sqe::async_event_request(), 0);
    target.set_ana(0, 3, AnaState::NonOptimized).unwrap();
    // neither the other listener's change nor the second one here has completed the second request
    let (after, groups) = ana(&mut host);
    assert_eq!(groups[1], (3, WireState::NON_OPTIMIZED, vec![5]));
    assert_eq!(after, count + 2);
    target.set_ana(0, 3, AnaState::Change).unwrap();
    assert_eq!(host.admin.response(second).result(), ANA_EVENT, "the log was read in between");
    assert_eq!(ana(&mut host).1[1].1, WireState::CHANGE);

    let only_groups = GetLogPage { lsp: 1, ..GetLogPage::new(lid::ANA, 4096) };
    let page = host.log(only_groups).unwrap();
    let log = AnaLog::parse(&page).unwrap();
    assert!(log.groups().all(|g| g.nsids.is_empty()) && log.groups().count() == 2);
    let tail = GetLogPage { offset: 16, ..GetLogPage::new(lid::ANA, 64) };
    let page_again = host.log(GetLogPage::new(lid::ANA, 128)).unwrap();
    assert_eq!(host.log(tail).unwrap(), page_again[16..80], "a page can be read in parts");
    let end = GetLogPage { offset: 8192, ..GetLogPage::new(lid::ANA, 16) };
    assert_eq!(host.log(end).unwrap(), [0; 16], "as far as Identify lets hosts expect it");
}

#[test]
fn namespace_changes_are_listed_and_reported() {
    let target = target();
    let mut host = Host::new(target.addr(1).unwrap());
    assert_eq!(changed(&mut host), []);
    let request = host.admin.send_transport(Sqe::async_event_request(), 0);
    target.resize_namespace(1, 1 << 19).unwrap();
    assert_eq!(host.admin.response(request).result(), NAMESPACE_EVENT);
    target.add_namespace(NamespaceConfig::memory(3, 4096)).unwrap();
    target.add_namespace(NamespaceConfig::memory(2, 4096)).unwrap();
    target.remove_namespace(2).unwrap();
    target.enable_namespace(3, false).unwrap();
    let peek = GetLogPage { rae: true, ..GetLogPage::new(lid::CHANGED_NAMESPACES, 4096) };
    host.log(peek).unwrap();
    assert_eq!(changed(&mut host), [1, 2, 3], "a read that retains does not clear");
    assert_eq!(changed(&mut host), []);

    // raised while no request was outstanding: the next one gets it
    target.enable_namespace(3, true).unwrap();
    let request = host.admin.send_transport(Sqe::async_event_request(), 0);
    assert_eq!(host.admin.response(request).result(), NAMESPACE_EVENT);

    // turned off
    changed(&mut host);
    host.admin.run(Sqe::set_features(fid::ASYNC_EVENT_CONFIG, false, 0, 0));
    let request = host.admin.send_transport(Sqe::async_event_request(), 0);
    target.remove_namespace(3).unwrap();
    target.first_subsystem().unwrap().raise_event(AsyncEvent::PERSISTENT_INTERNAL_ERROR);
    assert_eq!(host.admin.response(request).result(), 0x01_03_00, "the namespace change was not");
    assert_eq!(changed(&mut host), [3], "but it is listed");
}

#[test]
fn the_fifth_event_request_is_one_too_many() {
    let target = target();
    let mut host = Host::new(target.addr(0).unwrap());
    for _ in 0..4 {
        host.admin.send_transport(Sqe::async_event_request(), 0);
    }
    let status = host.admin.run(Sqe::async_event_request()).status();
    assert_eq!(status, Status::AER_LIMIT_EXCEEDED.with_dnr());
}

#[test]
fn held_commands_and_event_requests_can_be_aborted() {
    let target = target();
    let mut host = Host::new(target.addr(0).unwrap());
    let mut queue = host.queue(1);
    let hour = Duration::from_secs(3600);
    target.add_fault(FaultRule::new(FaultAction::Delay(hour)).io().times(1));
    let held = queue.send_transport(Sqe::read(1, 0, BlockCount::ONE), 512);
    // the next command's answer tells that the first one has arrived
    queue.fetch(Sqe::read(1, 0, BlockCount::ONE), 512);
    assert_eq!(host.admin.run(Sqe::abort(1, held)).result(), 0, "aborted");
    assert_eq!(queue.response(held).status(), Status::ABORT_REQUESTED);
    assert_eq!(host.admin.run(Sqe::abort(1, held)).result(), 1, "not there any more");
    assert_eq!(host.admin.run(Sqe::abort(9, 1)).result(), 1, "no such queue");

    let event = host.admin.send_transport(Sqe::async_event_request(), 0);
    let abort = host.admin.send_transport(Sqe::abort(0, event), 0);
    let mut answers = [host.admin.pdu().cqe(), host.admin.pdu().cqe()];
    answers.sort_by_key(|cqe| cqe.cid.get());
    assert_eq!(answers.map(|cqe| cqe.cid.get()), [event, abort]);
    assert_eq!(answers[0].status(), Status::ABORT_REQUESTED);
    assert_eq!(answers[1].result(), 0);
}

#[test]
fn a_silent_host_loses_its_association_and_a_talking_one_does_not() {
    let config = SubsystemConfig::new(NQN).unwrap().keep_alive_grace(Duration::ZERO);
    let target = start(config);
    // long enough for the talking host to be heard on any machine
    let kato = 2000;
    let mut silent = Host::with(target.addr(0).unwrap(), NQN, DigestFlags::empty(), kato);
    let mut silent_queue = silent.queue(1);
    let mut talking = Host::with(target.addr(0).unwrap(), NQN, DigestFlags::empty(), kato);
    let mut talking_queue = talking.queue(1);
    let none = Host::with(target.addr(0).unwrap(), NQN, DigestFlags::empty(), 0);

    let start = Instant::now();
    silent_queue.socket.set_nonblocking(true).unwrap();
    loop {
        assert!(start.elapsed() < LIMIT, "never closed");
        // I/O alone keeps the talking one alive
        talking_queue.fetch(Sqe::read(1, 0, BlockCount::ONE), 512);
        let mut byte = [0];
        match std::io::Read::read(&mut silent_queue.socket, &mut byte) {
            Ok(0) => break,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(start.elapsed() >= Duration::from_millis(kato.into()), "too early");
    silent.admin.expect_close();
    let left = target.first_subsystem().unwrap().controllers();
    assert_eq!(left.iter().map(|c| c.cntlid).collect::<Vec<_>>(), [talking.cntlid, none.cntlid]);
    assert!(talking.admin.run(Sqe::keep_alive()).status().is_success());
}

#[test]
fn other_log_pages_are_there_and_cut_to_measure() {
    let target = target();
    let mut host = Host::new(target.addr(0).unwrap());
    let smart = host.log(GetLogPage::new(lid::SMART, 512)).unwrap();
    assert_eq!(u16::from_le_bytes([smart[1], smart[2]]), 300);
    let slots = host.log(GetLogPage::new(lid::FIRMWARE_SLOT, 512)).unwrap();
    assert_eq!(slots[0], 1);
    let effects = host.log(GetLogPage::new(lid::EFFECTS, 4096)).unwrap();
    assert_eq!((effects[0x06 * 4], effects[1024 + 4]), (1, 3), "Identify; Write changes content");
    let longer = host.log(GetLogPage::new(lid::SMART, 1024)).unwrap();
    assert_eq!(longer[..512], smart);
    assert_eq!(longer[512..], [0; 512], "past the end of the page");

    let past = GetLogPage { offset: 516, ..GetLogPage::new(lid::SMART, 4) };
    assert_eq!(host.log(past), Err(Status::INVALID_FIELD.with_dnr()));
    let unknown = GetLogPage::new(0xd0, 4);
    assert_eq!(host.log(unknown), Err(Status::INVALID_LOG_PAGE.with_dnr()));
    let sqe = GetLogPage::new(lid::SMART, 512).to_sqe().unwrap();
    let (_, cqe) = host.admin.fetch(sqe, 256);
    assert_eq!(cqe.unwrap().status(), Status::SGL_INVALID_DATA_LENGTH.with_dnr());
}
