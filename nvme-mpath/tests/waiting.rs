//! `Channel::wait` on a real clock: looking for answers before it sleeps, and giving that up.

use std::sync::Arc;
use std::time::Duration;

use nvme_core::buffer::Buffer;
use nvme_core::nqn::{Nqn, Uuid};
use nvme_mpath::{Channel, ChannelOptions, ControllerOptions, Head, Host, HostOptions, IoRequest};
use nvme_target::{FaultAction, FaultRule, NamespaceConfig, SubsystemConfig, Target};
use nvme_tcp::TcpTransport;
use rustix::time::{ClockId, clock_gettime};

const NQN: &str = "nqn.2026-01.org.example:waiting";

/// Processor time of this thread: other work on the machine is not in it.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

struct Setting {
    channel: Channel,
    head: Arc<Head>,
    _host: Host,
    target: Target,
}

fn setting(busy_poll: Duration) -> Setting {
    let subsystem = SubsystemConfig::new(NQN).unwrap().namespace(NamespaceConfig::null(1, 1 << 20));
    let target = Target::builder().subsystem(subsystem).listen("127.0.0.1:0").start().unwrap();
    let options = HostOptions::new(Uuid(*b"nvme-host-tests!")).transport(TcpTransport::default());
    let host = Host::new(options).unwrap();
    let mut options = ChannelOptions::default();
    options.busy_poll = busy_poll;
    let channel = host.channel(options).unwrap();
    let url = format!("tcp://{}/{NQN}", target.addr(0).unwrap());
    let path = host.connect(&url, ControllerOptions::default()).unwrap();
    path.wait_ready(Duration::from_secs(60)).unwrap();
    let nqn = Nqn::new(NQN).unwrap();
    let head = host.wait_head(&nqn, 1, Duration::from_secs(60)).unwrap();
    let mut setting = Setting { channel, head, _host: host, target };
    // The channel's queue is there, and nothing is left to be told.
    setting.channel.read(&setting.head, 0, Buffer::zeroed(4096)).unwrap();
    setting
}

#[test]
fn answers_that_do_not_come_are_not_looked_for_all_the_time() {
    let mut s = setting(Duration::from_millis(10));
    s.target.add_fault(FaultRule::new(FaultAction::Drop).io().times(1));
    s.channel.submit(&s.head, IoRequest::read(0, Buffer::zeroed(4096), 1)).unwrap();
    let mut done = Vec::new();
    let begun = cpu();
    for _ in 0..100 {
        s.channel.poll(&mut done);
        s.channel.wait(Duration::from_millis(10));
    }
    assert!(done.is_empty());
    // Looking all the time, it would be a second.
    assert!(cpu() - begun < Duration::from_millis(400), "{:?}", cpu() - begun);
}

#[test]
fn with_nothing_under_way_there_is_nothing_to_look_for() {
    let mut s = setting(Duration::from_millis(10));
    let mut done = Vec::new();
    let begun = cpu();
    for _ in 0..50 {
        s.channel.poll(&mut done);
        s.channel.wait(Duration::from_millis(10));
    }
    assert!(cpu() - begun < Duration::from_millis(200), "{:?}", cpu() - begun);
}

#[test]
fn requests_complete_whether_answers_are_looked_for_or_slept_for() {
    for busy_poll in [Duration::ZERO, Duration::from_micros(50), Duration::from_millis(10)] {
        let mut s = setting(busy_poll);
        let mut done = Vec::new();
        for user in 0..200 {
            let request = IoRequest::read(user, Buffer::zeroed(4096), user);
            s.channel.submit(&s.head, request).unwrap();
            while done.len() <= user as usize {
                s.channel.wait(Duration::from_secs(60));
                s.channel.poll(&mut done);
            }
        }
        assert!(done.iter().all(|c| c.result.is_ok()));
    }
}
