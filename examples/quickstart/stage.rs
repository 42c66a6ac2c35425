//! What both ways of running have in common: a host, a head, a workload on it, and the events.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nvme_core::nqn::Nqn;
use nvme_host_examples::meter::Meter;
use nvme_host_examples::size::human;
use nvme_host_examples::timeline::Recorder;
use nvme_host_examples::workload::{Handle, Orders, Pattern, Plan};
use nvme_mpath::{
    ChannelOptions, ControllerOptions, DelayedRemoval, Events, Head, HeadState, Host, TimedEvent,
    Window,
};

use crate::timeline::Timeline;
use crate::verdict::{Counts, Summary};

pub type Failure = Box<dyn Error>;

/// Bytes of the namespace that the workload uses: few enough that requests overlap often.
const REGION: u64 = 16 << 20;

/// Requests under way at once.
const DEPTH: usize = 32;

/// Longest wait for anything that is to happen at once.
pub const SOON: Duration = Duration::from_secs(20);

/// How often the screen is redrawn.
const FRAME: Duration = Duration::from_millis(50);

/// A host with one head under load.
pub struct Stage {
    pub timeline: Timeline,
    pub host: Host,
    pub head: Arc<Head>,
    pub counts: Counts,
    pub meter: Meter,
    recorder: Recorder,
    events: Events,
    orders: Arc<Orders>,
    worker: Handle,
    pins_before: usize,
    failovers_before: u64,
    sweeps: u64,
}

impl Stage {
    /// Connects to all of `urls`, and begins to work on the head of `nsid`, which then outlives its
    /// last path by `window`.
    pub fn open(
        mut timeline: Timeline,
        urls: &[String],
        options: &ControllerOptions,
        nsid: u32,
        window: Duration,
    ) -> Result<Self, Failure> {
        let host = nvme_host_examples::host::new()?;
        host.set_delayed_removal(DelayedRemoval::like_linux(Window::For(window)));
        let events = host.events(4096);
        let mut nqn: Option<Nqn> = None;
        for url in urls {
            let controller = host.connect(url, options.clone())?;
            timeline.name_path(controller.address());
            controller.wait_ready(SOON)?;
            let info = controller.info().ok_or("a controller without identity")?;
            let known = nqn.get_or_insert_with(|| info.subnqn.clone());
            if *known != info.subnqn {
                return Err(
                    format!("{url}: {} and {known} are no paths to one head", info.subnqn).into()
                );
            }
        }
        let nqn = nqn.ok_or("no URL")?;
        let head = host.wait_head(&nqn, nsid, SOON)?;
        while let Some(event) = events.try_next() {
            timeline.tell(&event.event);
        }
        let (geometry, paths) = (head.geometry(), head.paths().len());
        let size = human(geometry.blocks * u64::from(geometry.block_size));
        timeline.say(
            "head",
            &format!(
                "{}: {size} in blocks of {} B, {paths} paths",
                head.name(),
                geometry.block_size
            ),
        );

        let block_size = geometry.block_size as usize;
        let blocks = geometry.blocks.min(REGION / block_size as u64);
        let request_blocks = (16 << 10 >> geometry.block_size.trailing_zeros()).max(1);
        if blocks < request_blocks {
            return Err(format!("{}: too small, {size}", head.name()).into());
        }
        let plan = Plan {
            metadata_size: 0,
            pattern: Pattern::RandRw,
            first: 0,
            blocks,
            block_size,
            request_blocks,
            aligned: false,
            verify: true,
            depth: DEPTH,
            seed: nvme_host_examples::host::seed(),
        };
        timeline.say(
            "work",
            &format!(
                "reads and writes {} of the first {}, {DEPTH} at once, and checks every block",
                human(plan.request_bytes() as u64),
                human(blocks * block_size as u64)
            ),
        );
        let pins_before = host.pin_count();
        let failovers_before = head.stats().failovers;
        let mut channel_options = ChannelOptions::default();
        channel_options.depth = DEPTH;
        let channel = host.channel(channel_options)?;
        let orders = Arc::new(Orders::default());
        let worker = Handle::start(channel, Arc::clone(&head), plan, Arc::clone(&orders))?;
        let meter = Meter::new(vec![Arc::clone(worker.progress())]);
        let recorder = Recorder::new(&host, &head);
        Ok(Self {
            recorder,
            timeline,
            host,
            head,
            counts: Counts::default(),
            meter,
            events,
            orders,
            worker,
            pins_before,
            failovers_before,
            sweeps: 0,
        })
    }

    /// Tells events for so long.
    pub fn play(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.turn(until);
        }
    }

    /// Tells events until `happened`.
    pub fn until(
        &mut self,
        what: &str,
        limit: Duration,
        mut happened: impl FnMut(&Self) -> bool,
    ) -> Result<(), Failure> {
        let until = Instant::now() + limit;
        while !happened(self) {
            if Instant::now() >= until {
                self.timeline.clear();
                return Err(format!("{what}: did not happen within {limit:?}").into());
            }
            self.turn(until);
        }
        Ok(())
    }

    /// Waits for some more requests to succeed.
    pub fn until_work_goes_on(&mut self) -> Result<(), Failure> {
        let enough = self.meter.completed() + 10 * DEPTH as u64;
        self.until("I/O goes on", SOON, |s| s.meter.completed() >= enough)
    }

    /// Reads everything back that was written so far.
    pub fn read_everything(&mut self) -> Result<(), Failure> {
        self.sweeps += 1;
        let sweeps = self.sweeps;
        self.orders.sweep();
        let over = move |s: &Self| s.meter.sweeps() >= sweeps || s.meter.all_ended();
        self.until("reading everything back", Duration::from_secs(120), over)
    }

    /// Tells how fast the work goes.
    pub fn tell_rate(&mut self, how: &str) {
        let text = format!("{how} at {}", self.meter.sample());
        self.timeline.say("work", &text);
    }

    /// Tells whether anything was found to be wrong so far.
    pub fn tell_findings(&mut self) {
        let text = match self.meter.bad() {
            0 => "every block is as it must be".to_owned(),
            bad => format!("{bad} blocks are NOT as they must be"),
        };
        self.timeline.say("work", &text);
    }

    /// Handles events until a frame is over, or `until`.
    fn turn(&mut self, until: Instant) {
        let frame = until.min(Instant::now() + FRAME);
        loop {
            let left = frame.saturating_duration_since(Instant::now());
            let Some(event) = self.events.next_timeout(left) else { break };
            self.take(&event);
        }
        self.recorder.look(&self.host, &self.head);
        let work = self.meter.sample().to_string();
        let (state, parked) = (self.head.state(), self.meter.parked());
        self.timeline.now(&state, &work, parked, self.host.pin_count());
    }

    fn take(&mut self, event: &TimedEvent) {
        self.recorder.event(event, &self.host, &self.head);
        self.counts.take(&event.event, &self.head);
        self.timeline.tell(&event.event);
    }

    /// Whether the head is gone, for everybody.
    pub fn is_gone(&self) -> bool {
        matches!(self.head.state(), HeadState::Gone(_))
            && !self.host.heads().iter().any(|h| h.instance() == self.head.instance())
    }

    /// Pins that are out, beyond those that were out when the work began.
    pub fn pins_more(&self) -> usize {
        self.host.pin_count().saturating_sub(self.pins_before)
    }

    /// Stops the work and the host, and sums up.
    pub fn close(mut self) -> Result<Summary, Failure> {
        self.orders.stop();
        let stopped = |s: &Self| s.worker.progress().ended();
        self.until("the end of the work", Duration::from_secs(90), stopped)?;
        while let Some(event) = self.events.try_next() {
            self.take(&event);
        }
        let pins_after = self.host.pin_count();
        let pins_peak = self.host.pins_peak();
        let head_gone = self.is_gone();
        let failovers = self.head.stats().failovers - self.failovers_before;
        let failure = self.meter.first_failure();
        let report = self.worker.join().map_err(|_| "the workload panicked")?;
        let run = self.recorder.finish(&self.host, &self.head);
        let shutdown = self.host.shutdown().map_err(|e| e.to_string());
        self.timeline.clear();
        Ok(Summary {
            tally: report.tally,
            refused: report.refused.map(|r| r.to_string()),
            failure: failure.map(|f| f.to_string()),
            counts: self.counts,
            failovers,
            pins_before: self.pins_before,
            pins_peak,
            pins_after,
            head_gone,
            shutdown,
            time: self.timeline.elapsed(),
            run,
            failed: Vec::new(),
        })
    }
}
