//! A write that its controller executes 300 ms after the connection died: whether it lands on newer
//! data, and what it costs to prevent that.
//!
//! Each test prints its line of the table in ARCHITECTURE.md:
//! `cargo test -p nvme-e2e --test fencing -- --nocapture --test-threads=1 2>&1 | grep -o '| .*'`

use std::sync::Arc;
use std::time::{Duration, Instant};

use nvme_core::ana::AnaState;
use nvme_core::buffer::Buffer;
use nvme_core::spec::opcode::NvmOpcode;
use nvme_e2e::{Bed, Session, Software, host_options, persistent, wait_for, wait_until};
use nvme_mpath::{Channel, Fence, Head, Host, IoRequest};
use nvme_target::{FaultAction, FaultRule, SubsystemConfig};

const LATE: Duration = Duration::from_millis(300);
const QUIESCE: Duration = Duration::from_millis(500);
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Three times the keep-alive timeout: the target counts any command as a sign of life.
const BY_TIME: Duration = Duration::from_secs(3);

/// What came of it.
struct Story {
    /// From the cut to the end of a read that was submitted right after it.
    read: Duration,
    /// From the cut to the end of the write that was in flight.
    write: Duration,
    /// The old write was found on top of a newer one.
    resurrected: bool,
}

fn byte_at(channel: &mut Channel, head: &Arc<Head>) -> u8 {
    let buffer = channel.read(head, 0, Buffer::zeroed(512)).expect("a read");
    buffer.as_slice()[0]
}

/// Writes 1 by a path that is cut before the answer, then 2, and looks which of them stays.
fn run(what: &str, fence: Fence, subsystem: fn(SubsystemConfig) -> SubsystemConfig) -> Story {
    let bed = Software::with(subsystem);
    // the first port is the one that is used
    bed.set_ana(2, 1, AnaState::NonOptimized);
    let mut options = host_options();
    options.fence = fence;
    let session = Session::with_host(&bed, Host::new(options).expect("a host"));
    let mut controller = persistent();
    controller.keep_alive = KEEP_ALIVE;
    let _controllers = session.connect_all(&bed, &controller);
    let head = session.head(1);
    session.wait_usable(&head, 2);
    let mut channel = session.channel();
    wait_until("the optimized path to be used", || {
        bed.watch();
        let _ = channel.write(&head, 64, Buffer::zeroed(512)).expect("a write");
        bed.writes_seen(1) == 1
    });
    bed.watch_no_more();

    let late = FaultRule::new(FaultAction::LateWrite(LATE)).io().opcode(NvmOpcode::WRITE.0);
    let late = bed.target.add_fault(late.times(1));
    let write = |byte: u8| IoRequest::write(0, vec![byte; 512].into(), byte.into());
    channel.submit(&head, write(1)).expect("room");
    let mut done = Vec::new();
    wait_until("the write to be at the target", || {
        channel.poll(&mut done);
        bed.target.fault_hits(late) == Some(1)
    });

    bed.disable(1);
    let cut = Instant::now();
    channel.submit(&head, IoRequest::read(8, vec![0; 512].into(), 7)).expect("room");
    let mut ended = |user_data: u64, channel: &mut Channel| {
        wait_for(&format!("request {user_data}"), || {
            channel.poll(&mut done);
            let place = done.iter().position(|d| d.user_data == user_data)?;
            done.remove(place).result.expect("it succeeds");
            Some(cut.elapsed())
        })
    };
    let read = ended(7, &mut channel);
    let write_took = ended(1, &mut channel);
    channel.submit(&head, write(2)).expect("room");
    ended(2, &mut channel);
    // as long as the old write could still land, and the same again
    let mut resurrected = false;
    while cut.elapsed() < LATE * 3 {
        resurrected |= byte_at(&mut channel, &head) != 2;
    }
    resurrected |= byte_at(&mut channel, &head) != 2;
    let ms = |d: Duration| format!("{:.1} ms", d.as_secs_f64() * 1e3);
    let found = if resurrected { "yes" } else { "no" };
    println!("| {what} | {} | {} | {found} |", ms(read), ms(write_took));
    Story { read, write: write_took, resurrected }
}

fn plain(subsystem: SubsystemConfig) -> SubsystemConfig {
    subsystem
}

fn quiesces(subsystem: SubsystemConfig) -> SubsystemConfig {
    subsystem.quiesce_time(QUIESCE)
}

fn resets(subsystem: SubsystemConfig) -> SubsystemConfig {
    subsystem.quiesce_time(QUIESCE).cross_controller_resets(2)
}

#[test]
fn without_fencing_the_old_write_is_found_on_top_of_the_new_one() {
    let story = run("`Off`", Fence::Off, resets);
    assert!(story.resurrected, "the check is worth something only if it finds this");
    let story = run("`Auto`, neither CQT nor CCR", Fence::Auto, plain);
    assert!(story.resurrected, "as on Linux");
}

#[test]
fn a_reset_by_the_other_controller_keeps_it_away_at_once() {
    let story = run("`Auto`, CCR", Fence::Auto, resets);
    assert!(!story.resurrected);
    assert!(story.write < BY_TIME, "{:?}: that was the time, not the reset", story.write);
}

#[test]
fn the_quiesce_time_keeps_it_away() {
    let story = run("`Auto`, CQT only", Fence::Auto, quiesces);
    assert!(!story.resurrected);
    assert!(story.write >= BY_TIME + QUIESCE && story.read < BY_TIME, "{:?}", story.write);
}

#[test]
fn strict_keeps_it_away_whatever_is_reported() {
    let story = run("`Strict`, neither CQT nor CCR", Fence::Strict, plain);
    assert!(!story.resurrected);
    assert!(story.write >= BY_TIME && story.read < BY_TIME, "{:?}", story.write);
}
