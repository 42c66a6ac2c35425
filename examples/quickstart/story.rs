//! Both paths are lost twice: once one comes back in time, once it does not.

use std::time::{Duration, Instant};

use nvme_core::nqn::Nqn;
use nvme_core::spec::opcode::NvmOpcode;
use nvme_mpath::{ControllerOptions, HeadState};
use nvme_target::{FaultAction, FaultRule, NamespaceConfig, SubsystemConfig, Target};

use crate::stage::{Failure, SOON, Stage};
use crate::timeline::Timeline;
use crate::verdict::Summary;

const NQN: &str = "nqn.2026-01.org.example:quickstart";
const BYTES: u64 = 64 << 20;
const A: usize = 0;
const B: usize = 1;

/// Tells the story; every step that does not come true ends it.
pub fn run(window: Duration) -> Result<Summary, Failure> {
    let mut timeline = Timeline::new();
    timeline.text("One namespace, two paths, and a head that outlives them.\n");
    let subsystem = SubsystemConfig::new(NQN)?.namespace(NamespaceConfig::memory(1, BYTES));
    let target = Target::builder()
        .subsystem(subsystem)
        .listen("127.0.0.1:0")
        .listen("127.0.0.1:0")
        .start()?;
    timeline.say("target", &format!("listens on A {} and B {}", target.addr(A)?, target.addr(B)?));
    let urls = [A, B].map(|port| target.addr(port).map(|addr| format!("tcp://{addr}/{NQN}")));
    let [a, b] = urls;
    let mut stage = Stage::open(timeline, &[a?, b?], &options(), 1, window)?;

    stage.play(Duration::from_secs(1));
    stage.tell_rate("goes");
    stage.timeline.step("path A is lost");
    strand(&target)?;
    target.listener(A)?.disable()?;
    paths(&mut stage, 1)?;
    stage.until_work_goes_on()?;
    stage.timeline.say("work", "fails over to B, and goes on");
    stage.play(Duration::from_millis(700));
    stage.tell_rate("still goes");

    stage.timeline.step("path B is lost, too");
    target.listener(B)?.disable()?;
    pending(&mut stage)?;
    let pins_pending = stage.pins_more();
    stage.play(window.mul_f64(0.4));
    let still = matches!(stage.head.state(), HeadState::RemovalPending { .. });
    let waiting = stage.meter.parked();

    stage.timeline.step("path B comes back in time");
    target.listener(B)?.enable()?;
    paths(&mut stage, 1)?;
    stage.until("return of the pin", SOON, |s| s.pins_more() == 0)?;
    stage.until_work_goes_on()?;
    let text = format!("{waiting} requests had waited, and go on; the pin is given back");
    stage.timeline.say("work", &text);

    stage.timeline.step("path A comes back");
    target.listener(A)?.enable()?;
    paths(&mut stage, 2)?;
    stage.play(Duration::from_millis(500));
    stage.timeline.step("everything that was written is read back");
    stage.read_everything()?;
    stage.tell_findings();

    stage.timeline.step("both paths are lost, for longer than the head waits");
    target.listener(A)?.disable()?;
    target.listener(B)?.disable()?;
    pending(&mut stage)?;
    stage.until("removal of the head", window + SOON, Stage::is_gone)?;
    stage.until("return of the pin", SOON, |s| s.pins_more() == 0)?;
    stage.until("the end of the waiting requests", SOON, |s| s.meter.all_ended())?;
    if let Some(error) = stage.meter.removal() {
        stage.timeline.say("work", &format!("the waiting requests fail: {error}"));
    }
    let known = stage.host.head(&Nqn::new(NQN)?, 1).is_some();

    let mut summary = stage.close()?;
    drop(target);
    summary.check_always();
    summary.check(still, "the head did not wait for a path");
    summary.check(waiting > 0, "no request waited for a path");
    summary.check(pins_pending == 1, format!("{pins_pending} pins held by a pending removal"));
    summary.check(!known && summary.head_gone, "the head is still there");
    let c = summary.counts;
    let told = (c.scheduled, c.cancelled, c.fired);
    summary.check(told == (2, 1, 1), format!("removals scheduled, cancelled, fired: {told:?}"));
    let peak = summary.pins_peak - summary.pins_before;
    summary.check(peak == 1, format!("{peak} pins at once for one head"));
    summary.check(summary.failovers > 0, "nothing failed over");
    summary.check(summary.tally.waited > 0, "no request that had waited succeeded");
    summary.check(summary.tally.failed_after_removal > 0, "no request failed with the removal");
    Ok(summary)
}

/// Lets path A swallow a few reads, so that some requests are under way there when it is lost. A
/// target that has just answered everything would leave nothing to fail over.
fn strand(target: &Target) -> Result<(), Failure> {
    const READS: u64 = 4;
    let rule = FaultRule::new(FaultAction::Drop).listener(A).io().opcode(NvmOpcode::READ.0);
    let fault = target.add_fault(rule.times(READS));
    let begun = Instant::now();
    while target.fault_hits(fault) != Some(READS) {
        if begun.elapsed() > SOON {
            return Err("no reads come along path A".into());
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    target.remove_fault(fault);
    Ok(())
}

/// A lost controller is given up at once, so that its path leaves and the removal can be shown
/// without waiting for `ctrl_loss_tmo`; it is tried again all the same.
fn options() -> ControllerOptions {
    let mut options = ControllerOptions::default();
    options.ctrl_loss_tmo = Some(Duration::ZERO);
    options.reattach_delay = Some(Duration::from_millis(200));
    options.keep_alive = Duration::from_secs(2);
    options.connect_timeout = Duration::from_secs(2);
    options
}

/// Waits until the head has so many usable paths.
fn paths(stage: &mut Stage, count: usize) -> Result<(), Failure> {
    let usable = |s: &Stage| s.head.paths().iter().filter(|p| p.usable).count() == count;
    stage.until(&format!("{count} usable path(s)"), SOON, usable)
}

/// Waits until the removal is scheduled and the workload waits.
fn pending(stage: &mut Stage) -> Result<(), Failure> {
    let pending = |s: &Stage| {
        matches!(s.head.state(), HeadState::RemovalPending { .. }) && s.meter.parked() > 0
    };
    stage.until("the removal's schedule, and waiting requests", SOON, pending)
}
