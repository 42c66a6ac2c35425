//! Commands that a device, or a target, holds back: Abort, and a reset when that is of no use.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::time::Duration;

use nvme_core::buffer::Buffer;
use nvme_core::controller::AbortOutcome;
use nvme_core::spec::Status;
use nvme_core::spec::opcode::{AdminOpcode, NvmOpcode};
use nvme_mpath::{ChannelOptions, Event, Events, Host, IoError, IoRequest, TimeoutStep};
use nvme_pci_bed::{Bed, LIMIT, Memory, connect, finish, persistent, wait_until};
use nvme_target::{FaultAction, FaultRule, PciFault};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);

fn steps(events: &Events) -> Vec<TimeoutStep> {
    let step = |e: Event| match e {
        Event::CommandOverdue { step, .. } => Some(step),
        _ => None,
    };
    std::iter::from_fn(|| events.try_next()).filter_map(|e| step(e.event)).collect()
}

fn options(io_timeout: Duration) -> ChannelOptions {
    let mut options = ChannelOptions::default();
    options.io_timeout = io_timeout;
    options
}

/// The ways to the namespace: a device in the process, and the same target over TCP.
fn ways(bed: &mut Bed) -> [String; 2] {
    bed.device("a");
    let port = bed.target.add_listener("127.0.0.1:0").unwrap();
    let tcp = format!("tcp://{}/{}", bed.target.addr(port).unwrap(), nvme_pci_bed::NQN);
    ["mem://a".into(), tcp]
}

/// A read that succeeds in the end; the first `count` steps that were told, and the reconnects.
fn read_once(host: &Host, url: &str, count: usize) -> (Vec<TimeoutStep>, u64) {
    let events = host.events(1000);
    let (controller, head) = connect(host, url, persistent());
    let mut channel = host.channel(options(Duration::from_secs(1))).unwrap();
    channel.submit(&head, IoRequest::read(0, Buffer::zeroed(4096), 1)).unwrap();
    let done = finish(&mut channel, 1).remove(0);
    assert!(done.result.is_ok(), "{url}: {:?}", done.result);
    let mut told = Vec::new();
    // The answer to Abort goes another way than that of the command.
    wait_until("the steps", || {
        told.extend(steps(&events));
        told.len() >= count
    });
    let told = (told, controller.reconnects());
    controller.disconnect();
    controller.wait_removed(LIMIT).unwrap();
    told
}

#[test]
fn a_command_that_is_held_back_is_aborted_and_sent_again() {
    let mut bed = Bed::new(512);
    for url in ways(&mut bed) {
        let host = bed.host();
        let held = FaultRule::new(FaultAction::Delay(LONG)).io().opcode(NvmOpcode::READ.0).times(1);
        let held = bed.target.add_fault(held);
        let (steps, reconnects) = read_once(&host, &url, 2);
        let aborted = TimeoutStep::Answered(AbortOutcome::Aborted);
        assert_eq!((&*steps, reconnects), (&[TimeoutStep::Aborting, aborted][..], 0), "{url}");
        assert_eq!(bed.target.remove_fault(held), Some(1));
        host.shutdown_forced(LIMIT).unwrap();
    }
}

#[test]
fn an_abort_that_is_not_answered_leads_to_a_reset() {
    let mut bed = Bed::new(512);
    for url in ways(&mut bed) {
        let host = bed.host();
        let held = FaultRule::new(FaultAction::Delay(LONG)).io().opcode(NvmOpcode::READ.0).times(1);
        let held = bed.target.add_fault(held);
        let deaf = FaultRule::new(FaultAction::Drop).admin().opcode(AdminOpcode::ABORT.0);
        let deaf = bed.target.add_fault(deaf);
        let (steps, reconnects) = read_once(&host, &url, 1);
        assert_eq!((steps.first(), reconnects), (Some(&TimeoutStep::Aborting), 1), "{url}");
        assert_eq!(bed.target.remove_fault(deaf), Some(1));
        assert_eq!(bed.target.remove_fault(held), Some(1));
        host.shutdown_forced(LIMIT).unwrap();
    }
}

/// The device writes to the memory of a read that it keeps, in each of its steps.
#[test]
fn the_buffer_of_an_aborted_read_is_nobody_elses() {
    for direct in [true, false] {
        let mut bed = Bed::new(512);
        let device = bed.device("a");
        let host = bed.host();
        let (controller, head) = connect(&host, "mem://a", persistent());
        let mut once = options(Duration::from_secs(1));
        once.max_retries = 0;
        let mut channel = host.channel(once).unwrap();
        let memory = Memory::new(16);
        let registration = direct.then(|| memory.register(&bed.transport));
        device.add_fault(PciFault::Stall);
        channel.submit(&head, IoRequest::read(0, memory.buffer(512, 32 << 10), 7)).unwrap();
        wait_until("the read to be kept", || {
            channel.poll(&mut Vec::new());
            device.kept() == 1
        });
        let mut done = Vec::new();
        wait_until("the end of the read", || {
            let kept = device.kept();
            channel.poll(&mut done);
            assert!(done.is_empty() || kept == 0, "it came back early");
            !done.is_empty()
        });
        let done = done.remove(0);
        match done.result.as_ref().map_err(|e| &**e) {
            Err(IoError::Status { status, .. }) => assert!(status.is(Status::ABORT_REQUESTED)),
            other => panic!("{other:?}"),
        }
        memory.fill(0xa5);
        for _ in 0..50 {
            device.step();
        }
        assert!(memory.is_filled_with(0xa5), "the device wrote to memory that was given back");
        assert_eq!((controller.reconnects(), device.stats().dma_errors), (0, 0));
        drop((registration, done));
        host.shutdown_forced(LIMIT).unwrap();
    }
}
