//! A path is lost in the middle of load, in every way in which one can be lost; then it returns,
//! and the other one is lost.
use std::time::Duration;

use nvme_e2e::{Bed, LIMIT, Load, Nvmet, PORTS, Session, Software, persistent};
use nvme_mpath::{ControllerOptions, Event};

/// Loses one path after the other under load on both namespaces.
fn survives<B: Bed>(
    bed: &B,
    options: &ControllerOptions,
    lose: impl Fn(&B, u16),
    heal: impl Fn(&B, u16),
) {
    let session = Session::new(bed);
    session.connect_all(bed, options);
    let heads = [session.head(1), session.head(2)];
    for head in &heads {
        session.wait_usable(head, 2);
    }
    let small = Load::start(session.channel(), &heads[0], 16, 4096);
    let large = Load::start(session.channel(), &heads[1], 4, 64 << 10);
    let more = || {
        small.wait_more(150);
        large.wait_more(15);
    };
    more();
    // A target may have answered everything in the moment of a loss, so that nothing has to fail
    // over; then the paths are lost once more.
    for _ in 0..20 {
        for port in PORTS {
            let _ = session.take_events();
            lose(bed, port);
            let address = format!("tcp://{}", bed.address(port));
            session.event("the loss", |e| match e {
                Event::PathDown { address: a, .. } if **a == *address => Some(()),
                _ => None,
            });
            more();
            heal(bed, port);
            for head in &heads {
                session.wait_usable(head, 2);
            }
            more();
        }
        if heads.iter().all(|head| head.stats().failovers > 0) {
            break;
        }
    }
    small.stop().assert_clean();
    large.stop().assert_clean();
    for head in &heads {
        assert!(head.stats().failovers > 0, "{:?} had something in flight", head.stats());
        assert_eq!(head.stats().failed_no_path, 0);
    }
    assert_eq!(session.host.pins_peak(), 0, "there was always a path on the list");
    session.shutdown();
}

fn port_closed(bed: &impl Bed) {
    survives(bed, &persistent(), Bed::disable, Bed::enable);
}

fn connections_cut(bed: &impl Bed) {
    survives(bed, &persistent(), Bed::cut, |_, _| ());
}

/// Nothing is heard any more; only the keep-alive tells.
fn silence(bed: &impl Bed) {
    let mut options = persistent();
    options.keep_alive = Duration::from_secs(1);
    options.connect_timeout = Duration::from_secs(2);
    survives(bed, &options, Bed::silence, Bed::unsilence);
}

/// Both paths are lost and return, with requests waiting meanwhile: the paths stay on the list, so
/// that no removal is scheduled.
fn both(bed: &impl Bed) {
    let session = Session::new(bed);
    session.connect_all(bed, &persistent());
    let head = session.head(1);
    session.wait_usable(&head, 2);
    let load = Load::start(session.channel(), &head, 16, 4096);
    for _ in 0..3 {
        load.wait_more(100);
        for port in PORTS {
            bed.disable(port);
        }
        session.wait_usable(&head, 0);
        assert_eq!(head.paths().len(), 2, "the paths stay on the list");
        for port in PORTS {
            bed.enable(port);
        }
        load.wait_more(100);
    }
    load.stop().assert_clean();
    assert!(head.stats().parked > 0);
    assert_eq!(session.host.pins_peak(), 0);
    session.shutdown();
}

#[test]
fn on_nvmet_a_port_is_closed() {
    port_closed(&Nvmet::new());
}

#[test]
fn on_nvmet_connections_are_cut() {
    connections_cut(&Nvmet::new());
}

#[test]
fn on_nvmet_a_port_falls_silent() {
    silence(&Nvmet::new());
}

#[test]
fn on_nvmet_both_paths_are_lost() {
    both(&Nvmet::new());
}

#[test]
fn on_the_software_target_a_port_is_closed() {
    port_closed(&Software::new());
}

#[test]
fn on_the_software_target_connections_are_cut() {
    connections_cut(&Software::new());
}

#[test]
fn on_the_software_target_a_port_falls_silent() {
    silence(&Software::new());
}

#[test]
fn on_the_software_target_both_paths_are_lost() {
    both(&Software::new());
}

/// A path dies again and again, as fast as it comes back.
#[test]
fn a_flapping_path_costs_nothing() {
    let bed = Software::new();
    let session = Session::new(&bed);
    let controllers = session.connect_all(&bed, &persistent());
    let head = session.head(1);
    session.wait_usable(&head, 2);
    let load = Load::start(session.channel(), &head, 32, 4096);
    for _ in 0..25 {
        bed.cut(1);
        load.wait_more(20);
        controllers[0].wait_ready(LIMIT).ok();
    }
    session.wait_usable(&head, 2);
    load.stop().assert_clean();
    session.shutdown();
}
