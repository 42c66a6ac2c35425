//! Where a program wants to connect to is wrong, or who it says it is.
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use nvme_core::controller::{ControllerError, RemovedCause, State};
use nvme_core::nqn::Nqn;
use nvme_core::spec::Status;
use nvme_core::transport::TransportError;
use nvme_e2e::{Bed, LIMIT, Load, Nvmet, Session, Software, host, persistent, wait_until};
use nvme_mpath::{ControllerOptions, HostError};
use nvme_target::{FaultAction, FaultRule};

/// A subsystem that the target does not have: it says so, for good, and nobody tries again.
fn wrong_nqn(bed: &impl Bed) {
    let session = Session::new(bed);
    let url = format!("tcp://{}/nqn.2026-01.org.example:nobody", bed.address(1));
    let controller = session.host.connect(&url, persistent()).expect("a URL");
    let error = controller.wait_ready(LIMIT).expect_err("there is no such subsystem");
    let text = error.to_string();
    assert!(text.contains(&bed.address(1)), "says where: {text}");
    let HostError::Removed { cause: RemovedCause::Refused(refusal), .. } = error else {
        panic!("{text}");
    };
    let ControllerError::Command { status, command, .. } = &refusal else { panic!("{refusal}") };
    assert!(command.contains("Connect"), "says what: {refusal}");
    assert!(status.is(Status::CONNECT_INVALID_PARAMETERS), "{refusal}");
    assert!(refusal.to_string().contains("Connect Invalid Parameters"), "{refusal}");
    wait_until("the controller to go", || session.host.controllers().is_empty());
    session.connect(bed, 1, &persistent());
    session.shutdown();
}

#[test]
fn on_nvmet_the_nqn_is_wrong() {
    wrong_nqn(&Nvmet::new());
}

#[test]
fn on_the_software_target_the_nqn_is_wrong() {
    wrong_nqn(&Software::new());
}

/// An address at which nobody listens.
fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("its address")
}

#[test]
fn nobody_listens_at_the_port() {
    let host = host();
    let address = closed_port();
    let url = format!("tcp://{address}/nqn.2026-01.org.example:sub");
    let controller = host.connect(&url, persistent()).expect("a URL");
    let error = controller.wait_ready(LIMIT).expect_err("nobody is there");
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("refused"), "{text}");
    let transport = ControllerError::Transport(TransportError::Connect {
        address: format!("tcp://{address}"),
        reason: String::new(),
    });
    let HostError::Controller(met) = error else { panic!("{text}") };
    assert_eq!(std::mem::discriminant(&met), std::mem::discriminant(&transport), "{met}");
    assert!(controller.removed().is_none(), "it is tried again");
    host.shutdown().expect("nothing is pinned");
}

/// A listener that nobody accepts from: the connection is made by the system, and stays silent.
#[test]
fn a_port_accepts_and_stays_silent() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("its address");
    let host = host();
    let mut options = persistent();
    options.connect_timeout = Duration::from_millis(300);
    let url = format!("tcp://{address}/nqn.2026-01.org.example:sub");
    let controller = host.connect(&url, options.clone()).expect("a URL");
    let error = controller.wait_ready(LIMIT).expect_err("nobody answers");
    let text = error.to_string();
    assert!(text.contains(&address.to_string()), "says where: {text}");
    assert!(text.contains("took longer than"), "says what: {text}");
    let error = host.discover(&format!("tcp://{address}"), Duration::from_millis(500));
    let text = error.expect_err("nobody answers").to_string();
    assert!(text.contains(&address.to_string()), "{text}");
    host.shutdown().expect("nothing is pinned");
}

/// One of two paths leads to a silent port: the other one does not mind.
#[test]
fn a_silent_port_does_not_disturb_the_other_path() {
    let bed = Software::new();
    let session = Session::new(&bed);
    session.connect(&bed, 2, &persistent());
    let silent = bed.target.add_fault(FaultRule::new(FaultAction::SilentListener).listener(0));
    let mut options = persistent();
    options.connect_timeout = Duration::from_millis(200);
    let controller = session.host.connect(&bed.url(1), options).expect("a URL");
    let head = session.head(1);
    let load = Load::start(session.channel(), &head, 8, 4096);
    wait_until("two attempts", || bed.target.fault_hits(silent) >= Some(2));
    load.wait_more(100);
    assert_eq!(controller.state(), State::Connecting);
    let _ = bed.target.remove_fault(silent);
    session.wait_usable(&head, 2);
    load.stop().assert_clean();
    session.shutdown();
}

#[test]
fn a_peer_closes_every_connection() {
    let bed = Software::new();
    let session = Session::new(&bed);
    let closing = bed.target.add_fault(FaultRule::new(FaultAction::CloseOnAccept));
    let controller = session.host.connect(&bed.url(1), persistent()).expect("a URL");
    let text = controller.wait_ready(LIMIT).expect_err("it was closed").to_string();
    assert!(text.contains(&bed.address(1)), "{text}");
    wait_until("another attempt", || bed.target.fault_hits(closing) >= Some(3));
    let _ = bed.target.remove_fault(closing);
    session.wait_usable(&session.head(1), 1);
    session.shutdown();
}

#[test]
fn a_host_that_is_not_allowed_is_refused() {
    let bed =
        Software::with(|s| s.allow_hosts(vec![Nqn::from_uuid(nvme_core::nqn::Uuid([7; 16]))]));
    let session = Session::new(&bed);
    let controller = session.host.connect(&bed.url(1), persistent()).expect("a URL");
    let error = controller.wait_ready(LIMIT).expect_err("this host may not");
    assert!(error.to_string().contains("Connect Invalid Host"), "{error}");
    session.shutdown();
}

#[test]
fn urls_that_are_none() {
    let host = host();
    let scheme = host.connect("rdma://127.0.0.1/nqn.2026-01.org.example:s", persistent());
    let error = scheme.expect_err("no such transport");
    assert!(matches!(&error, HostError::UnknownScheme { known, .. } if known == "tcp"), "{error}");
    for url in [
        "",
        "tcp:",
        "tcp://",
        "127.0.0.1:4420",
        "tcp://127.0.0.1:0/nqn.2026-01.org.example:s",
        "tcp://127.0.0.1:70000/nqn.2026-01.org.example:s",
        "tcp://[::1/nqn.2026-01.org.example:s",
        "tcp://::1/nqn.2026-01.org.example:s",
        "tcp://127.0.0.1/no-nqn",
        "tcp://127.0.0.1/nqn.2026-01.org.example:s?hdgst=2",
        "tcp://127.0.0.1/nqn.2026-01.org.example:s?nonsense=1",
        "tcp://127.0.0.1/nqn.2026-01.org.example:%zz",
    ] {
        let error = host.connect(url, ControllerOptions::default()).expect_err(url);
        assert!(error.to_string().contains(url), "names the URL: {error}");
    }
    let long = format!("tcp://127.0.0.1/nqn.2026-01.org.example:{}", "x".repeat(300));
    assert!(matches!(host.connect(&long, persistent()), Err(HostError::Url(_))));
    assert!(host.controllers().is_empty());
    host.shutdown().expect("nothing is pinned");
}

/// A name that does not resolve is an error of the attempt, not a wait without end.
#[test]
fn a_name_that_does_not_resolve() {
    let host = host();
    let url = "tcp://nobody.invalid:4420/nqn.2026-01.org.example:s";
    let controller = host.connect(url, persistent()).expect("a URL");
    let error = controller.wait_ready(LIMIT).expect_err("there is no such name");
    assert!(error.to_string().contains("nobody.invalid"), "{error}");
    host.shutdown().expect("nothing is pinned");
}
