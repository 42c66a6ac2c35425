//! A target of somebody else's, who also makes the faults.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nvme_mpath::{ControllerOptions, HeadState};

use crate::Arguments;
use crate::stage::{Failure, Stage};
use crate::timeline::Timeline;
use crate::verdict::Summary;

/// Works until the head is removed, or the time is over, or the user has seen enough.
pub fn run(arguments: &Arguments) -> Result<Summary, Failure> {
    let mut timeline = Timeline::new();
    timeline.text("One namespace, some paths, and what happens to them. Stop with Ctrl-C.\n");
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || flag.store(true, Ordering::Release))?;
    let mut stage =
        Stage::open(timeline, &arguments.connect, &options(), arguments.nsid, arguments.window)?;

    let begun = stage.timeline.elapsed();
    loop {
        stage.play(Duration::from_millis(50));
        let over = arguments.seconds.is_some_and(|s| stage.timeline.elapsed() - begun >= s);
        let pending = matches!(stage.head.state(), HeadState::RemovalPending { .. });
        // A removal that is pending is followed to its end, so that the accounts can be closed.
        if stage.is_gone()
            || stage.meter.all_ended()
            || interrupted.load(Ordering::Acquire)
            || (over && !pending)
        {
            break;
        }
    }
    let interrupted = interrupted.load(Ordering::Acquire);
    if interrupted && stage.head.remove_now() {
        stage.timeline.step("the removal is not waited for");
        stage.until("removal of the head", Duration::from_secs(5), Stage::is_gone)?;
    }
    if stage.is_gone() {
        // The guard of the removal is dropped last.
        stage.until("return of the pin", Duration::from_secs(5), |s| s.pins_more() == 0)?;
    } else if !interrupted && !stage.meter.all_ended() {
        stage.timeline.step("everything that was written is read back");
        stage.read_everything()?;
        stage.tell_findings();
    }
    let mut summary = stage.close()?;
    summary.check_always();
    Ok(summary)
}

/// A lost controller's path leaves at once, and is tried again.
fn options() -> ControllerOptions {
    let mut options = ControllerOptions::default();
    options.ctrl_loss_tmo = Some(Duration::ZERO);
    options.reattach_delay = Some(Duration::from_millis(500));
    options.connect_timeout = Duration::from_secs(5);
    options
}
