//! A device that takes commands and does not end them for longer than the library waits.

use std::path::Path;
use std::time::{Duration, Instant};

use nvme_core::buffer::Buffer;
use nvme_e2e::{ChannelExt, LIMIT, Pattern, persistent, wait_until};
use nvme_mpath::{ChannelOptions, Event, Events, IoRequest};

use crate::io::{head, host};

/// Requests under way when the device stalls, and bytes of each.
const COUNT: usize = 8;
const LEN: usize = 4096;
/// What buffers are filled with as soon as they are back.
const POISON: u8 = 0x5a;
/// How long a command may take.
const IO_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest time until all requests have ended, the device's own delays included.
const BOUND: Duration = Duration::from_secs(150);

/// Says `ready`; once the file `go` is there, which says that the device is slow now, has reads under
/// way until they end, over however many resets. Tells what happens to the controller, says `ended`,
/// waits until `go` is gone, and sees that nobody has written to a buffer that had come back.
///
/// # Panics
/// If anything is wrong.
pub fn stall(url: &str, nqn: &str, nsid: u32, go: &Path) {
    let host = host();
    let events = host.events(10_000);
    let head = head(&host, url, nqn, nsid, persistent());
    let mut options = ChannelOptions::default();
    options.io_timeout = IO_TIMEOUT;
    let mut channel = host.channel(options).expect("a channel");
    let blocks = LEN as u64 / u64::from(head.geometry().block_size);
    let pattern = Pattern { salt: 3, version: 1 };
    for n in 0..COUNT as u64 {
        channel.put(&head, n * blocks, LEN, pattern);
    }
    let mut memory: Vec<_> =
        (0..COUNT).map(|_| host.dma_buf(LEN).expect("memory for the device")).collect();
    println!("ready");
    wait_until("the device to be slow", || go.exists());

    let begun = Instant::now();
    for (n, mut buffer) in memory.drain(..).enumerate() {
        buffer.as_mut_slice().fill(0);
        let request = IoRequest::read(n as u64 * blocks, Buffer::from(buffer), n as u64);
        channel.submit(&head, request).expect("room for a request");
    }
    let mut ended = 0;
    let (mut done, mut back) = (Vec::new(), Vec::new());
    while ended < COUNT {
        assert!(begun.elapsed() < BOUND, "{ended} of {COUNT} requests ended within {BOUND:?}");
        channel.poll(&mut done);
        for mut completion in done.drain(..) {
            ended += 1;
            let (n, buffer) = (completion.user_data, &mut completion.buffer);
            completion.result.expect("a read that is done in the end");
            assert_eq!(pattern.difference(n * LEN as u64, buffer.as_slice()), None, "read {n}");
            buffer.as_mut_slice().fill(POISON);
            back.push(completion.buffer);
        }
        tell(&events);
        std::thread::sleep(Duration::from_millis(1));
    }
    tell(&events);
    let reconnects: u64 = host.controllers().iter().map(|c| c.reconnects()).sum();
    println!("reconnects {reconnects}");
    println!("ended");
    wait_until("the device to have ended everything", || !go.exists());
    for n in 0..COUNT as u64 {
        channel.check(&head, n * blocks, LEN, pattern);
    }
    let touched = back.iter().position(|b| b.as_slice().iter().any(|b| *b != POISON));
    assert_eq!(touched, None, "a buffer was written to after it had been given back");
    println!("clean");
    drop((channel, back, head));
    host.shutdown_forced(LIMIT).expect("an end");
}

/// Says what has happened to the controller.
fn tell(events: &Events) {
    for event in std::iter::from_fn(|| events.try_next()) {
        match event.event {
            Event::ControllerState { from, to, .. } => println!("state {from:?} {to:?}"),
            Event::ControllerFailed { error, .. } => println!("failed {error}"),
            Event::CommandOverdue { step, .. } => println!("overdue {step:?}"),
            Event::ControllerTrouble { error, .. } => println!("trouble {error}"),
            _ => {}
        }
    }
}
