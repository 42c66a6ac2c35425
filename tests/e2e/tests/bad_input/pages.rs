//! Pages and structures that lie.
use nvme_core::spec::opcode::{AdminOpcode, FabricsType};
use nvme_e2e::{Bed, ChannelExt, LIMIT, Pattern, Session, Software, persistent, wait_until};
use nvme_mpath::{Event, HostError};
use nvme_target::{BadIcResp, FaultAction, FaultRule};

const LEN: usize = 4096;
const PATTERN: Pattern = Pattern { salt: 11, version: 1 };

fn patch(offset: u64, bytes: &[u8]) -> FaultRule {
    FaultRule::new(FaultAction::PatchData { offset, bytes: bytes.to_vec() })
}

/// The text of the first trouble that a session tells of.
fn trouble(session: &Session) -> String {
    session.event("the trouble", |e| match e {
        Event::ControllerFailed { error, .. } | Event::ControllerTrouble { error, .. } => {
            Some(error.to_string())
        }
        Event::NamespaceRefused { address, nsid, reason, .. } => {
            Some(format!("{address}: namespace {nsid}: {reason}"))
        }
        _ => None,
    })
}

/// The ANA log lies while the controller is brought up: no namespace is usable, the reason is told,
/// and once the log is right everything works.
#[test]
fn an_ana_log_that_lies_at_bring_up() {
    let lies: [(&str, u64, &[u8]); 5] = [
        ("more groups than there are", 8, &[0xff, 0xff]),
        ("more namespaces than fit", 20, &[0xff, 0xff, 0xff, 0xff]),
        ("a few more namespaces than fit", 20, &[0x00, 0x04, 0x00, 0x00]),
        ("a state that is none", 32, &[0x0b]),
        ("a group that occurs twice", 16, &[2, 0, 0, 0]),
    ];
    for (lie, offset, bytes) in lies {
        let bed = Software::new();
        let rule = patch(offset, bytes).admin().opcode(AdminOpcode::GET_LOG_PAGE.0);
        let fault = bed.target.add_fault(rule);
        let session = Session::new(&bed);
        let controller = session.host.connect(&bed.url(1), persistent()).expect("a URL");
        wait_until(lie, || bed.target.fault_hits(fault) > Some(0));
        let text = trouble(&session);
        assert!(text.contains("ANA"), "{lie}: says what: {text}");
        assert!(text.contains(&bed.address(1)), "{lie}: says where: {text}");
        let _ = bed.target.remove_fault(fault);
        let head = session.head(1);
        session.wait_usable(&head, 1);
        let mut channel = session.channel();
        channel.put(&head, 0, LEN, PATTERN);
        channel.check(&head, 0, LEN, PATTERN);
        drop((channel, controller));
        session.shutdown();
    }
}

/// A log that is well-formed and does not have the namespace's group: it is read anew when the target
/// says that something has changed.
#[test]
fn an_ana_log_without_the_group() {
    let bed = Software::new();
    let rule = patch(8, &[0, 0]).admin().opcode(AdminOpcode::GET_LOG_PAGE.0);
    let fault = bed.target.add_fault(rule);
    let session = Session::new(&bed);
    session.connect(&bed, 1, &persistent());
    let head = session.head(1);
    assert!(head.paths().iter().all(|p| !p.usable), "not known to work: {:?}", head.paths());
    let mut channel = session.channel();
    channel.begin_write(&head, 1, PATTERN);
    channel.poll(&mut Vec::new());
    assert_eq!(channel.parked(), 1);
    let _ = bed.target.remove_fault(fault);
    bed.set_ana(1, 1, nvme_core::ana::AnaState::NonOptimized);
    let [written] = channel.finish(1).try_into().expect("one");
    written.result.expect("the write that waited");
    channel.check(&head, 0, LEN, PATTERN);
    drop(channel);
    session.shutdown();
}

/// The same when the log is read again: I/O waits, and goes on once the log is right.
#[test]
fn an_ana_log_that_lies_later() {
    let bed = Software::new();
    let session = Session::new(&bed);
    session.connect(&bed, 1, &persistent());
    let head = session.head(1);
    let mut channel = session.channel();
    channel.put(&head, 0, LEN, PATTERN);
    let rule = patch(20, &[0xff; 4]).admin().opcode(AdminOpcode::GET_LOG_PAGE.0);
    let fault = bed.target.add_fault(rule);
    bed.set_ana(1, 2, nvme_core::ana::AnaState::NonOptimized);
    wait_until("the log to be read", || bed.target.fault_hits(fault) > Some(0));
    let text = trouble(&session);
    assert!(text.contains("ANA"), "{text}");
    let new = Pattern { salt: 11, version: 2 };
    channel.begin_write(&head, 1, new);
    let _ = bed.target.remove_fault(fault);
    let [written] = channel.finish(1).try_into().expect("one");
    written.result.expect("the write that waited");
    channel.check(&head, 0, LEN, new);
    session.shutdown();
}

#[test]
fn a_discovery_log_that_lies() {
    let bed = Software::new();
    let session = Session::new(&bed);
    let url = format!("tcp://{}", bed.address(1));
    for (lie, bytes) in [
        ("more entries than anyone has", u64::MAX),
        ("more entries than can be multiplied", u64::MAX / 1024 + 2),
        ("a few more entries than any table holds", 70_000),
    ] {
        let rule = patch(8, &bytes.to_le_bytes()).admin().opcode(AdminOpcode::GET_LOG_PAGE.0);
        let fault = bed.target.add_fault(rule);
        let error = session.host.discover(&url, LIMIT).expect_err(lie);
        assert!(matches!(error, HostError::Discovery { .. }), "{lie}: {error}");
        assert!(error.to_string().contains(&bed.address(1)), "{lie}: {error}");
        let _ = bed.target.remove_fault(fault);
    }
    // A few more than there are: the rest is empty, and is no subsystem.
    let rule = patch(8, &40_u64.to_le_bytes()).admin().opcode(AdminOpcode::GET_LOG_PAGE.0);
    let fault = bed.target.add_fault(rule);
    if let Ok(found) = session.host.discover(&url, LIMIT) {
        assert!(found.iter().all(|s| !s.address.is_empty()), "{found:#?}");
    }
    let _ = bed.target.remove_fault(fault);
    // Entries whose text is no text, and whose NQN is no NQN, are left out.
    let rule = patch(1024 + 256, &[0xff; 512]).admin().opcode(AdminOpcode::GET_LOG_PAGE.0);
    let fault = bed.target.add_fault(rule);
    let found = session.host.discover(&url, LIMIT).expect("the rest of the log");
    assert!(found.iter().all(|s| !s.subnqn.as_str().is_empty()));
    let _ = bed.target.remove_fault(fault);
    let all = session.host.discover(&url, LIMIT).expect("the whole log");
    assert!(found.len() < all.len(), "{} of {}", found.len(), all.len());
    session.shutdown();
}

/// Identify Namespace says what cannot be: the namespace is refused, by name, and the others work.
#[test]
fn an_identify_namespace_that_lies() {
    let lies: [(&str, u64, &[u8]); 4] = [
        ("NSZE", 0, &[0; 8]),
        ("LBADS", 128 + 2, &[40]),
        ("LBADS", 128 + 2, &[3]),
        ("FLBAS", 26, &[0x0f]),
    ];
    for (field, offset, bytes) in lies {
        let bed = Software::new();
        let rule = patch(offset, bytes).admin().opcode(AdminOpcode::IDENTIFY.0).nsid(1);
        let fault = bed.target.add_fault(rule);
        let session = Session::new(&bed);
        session.connect(&bed, 2, &persistent());
        let text = trouble(&session);
        assert!(text.contains(field), "{text}");
        assert!(text.contains(&bed.address(2)) && text.contains("1"), "says where: {text}");
        let other = session.head(2);
        let mut channel = session.channel();
        channel.put(&other, 0, LEN, PATTERN);
        channel.check(&other, 0, LEN, PATTERN);
        assert!(session.host.head(&session.subnqn, 1).is_none(), "{field}");
        drop(channel);
        let _ = bed.target.remove_fault(fault);
        session.shutdown();
    }
}

/// A namespace without blocks is none; it becomes one when it gets some.
#[test]
fn a_namespace_of_no_blocks() {
    let bed = Software::with(|s| s.namespace(nvme_target::NamespaceConfig::memory(3, 0)));
    let session = Session::new(&bed);
    session.connect(&bed, 1, &persistent());
    let _ = (session.head(1), session.head(2));
    if let Some(head) = session.host.head(&session.subnqn, 3) {
        panic!("{head:?} has {:?}", head.geometry());
    }
    bed.target.resize_namespace(3, 1 << 20).expect("a namespace");
    let head = session.head(3);
    let mut channel = session.channel();
    channel.put(&head, 0, LEN, PATTERN);
    // And it stops being one when it loses them.
    bed.target.resize_namespace(3, 0).expect("a namespace");
    session.wait_gone(&head, 0);
    drop(channel);
    session.shutdown();
}

/// Structures with random bytes in random places, and capabilities too: whatever comes of it, the
/// host goes on, works once they are right, and can be shut down.
#[test]
fn structures_with_random_bytes() {
    let bed = Software::new();
    let mut seed = 0x0bad_5eed_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let session = Session::new(&bed);
    for _ in 0..120 {
        let mut faults = Vec::new();
        for (opcode, size) in [(AdminOpcode::IDENTIFY, 700), (AdminOpcode::GET_LOG_PAGE, 64)] {
            let bytes: Vec<u8> = (0..=random(12)).map(|_| random(256) as u8).collect();
            let rule = patch(random(size), &bytes).admin().opcode(opcode.0);
            faults.push(bed.target.add_fault(rule.skip(random(4)).times(1 + random(3))));
        }
        let mut options = persistent();
        options.admin_timeout = std::time::Duration::from_millis(500);
        let controller = session.host.connect(&bed.url(1), options).expect("a URL");
        let _ = controller.wait_ready(LIMIT);
        for fault in faults {
            let _ = bed.target.remove_fault(fault);
        }
        controller.disconnect();
        controller.wait_removed(LIMIT).expect("the end of a disconnect");
    }
    wait_until("all heads to go", || session.host.heads().is_empty());
    session.connect(&bed, 1, &persistent());
    let head = session.head(1);
    let mut channel = session.channel();
    channel.put(&head, 0, LEN, PATTERN);
    channel.check(&head, 0, LEN, PATTERN);
    drop(channel);
    session.shutdown();
}

/// The first PDU of a connection is wrong, in each way.
#[test]
fn an_icresp_that_is_wrong() {
    let bed = Software::new();
    let session = Session::new(&bed);
    for bad in [
        BadIcResp::Version,
        BadIcResp::Digests,
        BadIcResp::Alignment,
        BadIcResp::MaxDataTooSmall,
        BadIcResp::MaxDataUnaligned,
        BadIcResp::Length,
        BadIcResp::HeaderLength,
        BadIcResp::Type,
    ] {
        let fault = bed.target.add_fault(FaultRule::new(FaultAction::BadIcResp(bad)));
        let controller = session.host.connect(&bed.url(1), persistent()).expect("a URL");
        let error = controller.wait_ready(LIMIT).expect_err("it is wrong");
        let text = error.to_string();
        assert!(text.contains(&bed.address(1)), "{bad:?}: says where: {text}");
        assert!(text.contains("protocol error"), "{bad:?}: says what: {text}");
        let _ = bed.target.remove_fault(fault);
        wait_until("it to come up all the same", || {
            controller.reconnects() > 0 || controller.wait_ready(LIMIT).is_ok()
        });
        controller.disconnect();
        controller.wait_removed(LIMIT).expect("the end of a disconnect");
    }
    session.shutdown();
}

/// Registers that say what cannot be.
#[test]
fn registers_that_are_not_answered() {
    let bed = Software::new();
    let session = Session::new(&bed);
    for fctype in [FabricsType::PROPERTY_GET, FabricsType::PROPERTY_SET] {
        let status = nvme_core::spec::Status::INTERNAL_ERROR;
        let rule = FaultRule::new(FaultAction::Fail(status)).admin().fabrics(fctype);
        let fault = bed.target.add_fault(rule.times(1));
        let controller = session.host.connect(&bed.url(1), persistent()).expect("a URL");
        let text = controller.wait_ready(LIMIT).expect_err("it failed").to_string();
        assert!(text.contains("Internal Error"), "{text}");
        assert_eq!(bed.target.fault_hits(fault), Some(1));
        session.wait_usable(&session.head(1), 1);
        controller.disconnect();
        controller.wait_removed(LIMIT).expect("the end of a disconnect");
    }
    session.shutdown();
}
