//! A load on a namespace whose paths come and go, told line by line to whoever takes them away.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nvme_e2e::{LIMIT, Load, eager, wait_until};
use nvme_mpath::{ChannelOptions, Event, HeadState};

use crate::io::{head, host};

/// The longest that whoever is told takes to go on.
const PATIENCE: Duration = Duration::from_secs(100);
/// A window that stays open for as long as it takes, and one that is over soon.
const LONG: Duration = Duration::from_secs(100);
const SHORT: Duration = Duration::from_secs(1);

/// Connects to both controllers and puts a load on namespace `nsid` of the subsystem `nqn`. Says
/// `paths N` and `pending` as they change. Once the file `stop` is there the load ends, which must
/// have seen no error, and the window is made short; `gone` is said when the head is. At the end the
/// steps of removals are told.
///
/// # Panics
/// If anything is wrong.
pub fn failover(nqn: &str, nsid: u32, urls: [&str; 2], stop: &Path) {
    let host = host();
    let events = host.events(10_000);
    host.set_delayed_removal(LONG);
    let head = urls.map(|url| head(&host, url, nqn, nsid, eager()))[0].clone();
    let channel = host.channel(ChannelOptions::default()).expect("a channel");
    let mut load = Some(Load::start(channel, &head, 16, 4096));

    let until = Instant::now() + PATIENCE;
    let mut told = String::new();
    loop {
        let now = match head.state() {
            // A path that is about to leave does not count; without any, the head waits for that.
            HeadState::Live => match head.paths().iter().filter(|p| p.usable).count() {
                0 => told.clone(),
                count => format!("paths {count}"),
            },
            HeadState::RemovalPending { .. } => "pending".to_owned(),
            HeadState::Gone(_) => break println!("gone"),
            _ => told.clone(),
        };
        if now != told {
            // With every path that there is left, the load gets on.
            if let (true, Some(load)) = (now.starts_with("paths"), &load) {
                load.wait_more(100);
            }
            println!("{now}");
            told = now;
        }
        if stop.exists()
            && let Some(load) = load.take()
        {
            load.stop().assert_clean();
            println!("clean");
            host.heads().iter().for_each(|head| head.set_delayed_removal(SHORT));
        }
        assert!(Instant::now() < until, "nothing happens any more: {told}");
        std::thread::sleep(Duration::from_millis(5));
    }
    // The subsystem's other namespaces go the same way.
    wait_until("the pins to be back", || host.pin_count() == 0);
    for event in std::iter::from_fn(|| events.try_next()) {
        match event.event {
            Event::RemovalScheduled { head: h, cause, .. } if Arc::ptr_eq(&h, &head) => {
                println!("scheduled {cause:?}");
            }
            Event::RemovalCancelled { head: h, .. } if Arc::ptr_eq(&h, &head) => {
                println!("cancelled");
            }
            Event::HeadRemoved { head: h, delayed, .. } if Arc::ptr_eq(&h, &head) => {
                println!("removed delayed={delayed}");
            }
            _ => {}
        }
    }
    host.shutdown_forced(LIMIT).expect("an end");
}
