//! `nvmeh watch`.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nvme_host_examples::meter::Meter;
use nvme_host_examples::narrate::{About, describe};
use nvme_host_examples::size;
use nvme_host_examples::watch::{Happening, History, draw};
use nvme_host_examples::workload::{Handle, Orders, Pattern, Plan, Tally};
use nvme_mpath::{
    ChannelOptions, ControllerOptions, DelayedRemoval, Events, Head, HeadState, Host, PathPolicy,
    Window,
};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event as Input, KeyCode, KeyModifiers};

use crate::{Failure, seconds};

/// Bytes of the namespace that the load uses.
const REGION: u64 = 16 << 20;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Paths to watch, such as tcp://192.0.2.7:4420/nqn.2026-01.org.example:sub
    #[arg(required = true, value_name = "URL")]
    urls: Vec<String>,

    /// Read and write the first 16 MiB of a namespace meanwhile, and check every block, so that there
    /// is something to see; needs --write-ok
    #[arg(long)]
    load: bool,

    /// The load may destroy what is on the namespace
    #[arg(long)]
    write_ok: bool,

    /// The namespace for the load
    #[arg(long, value_name = "ID", default_value_t = 1)]
    nsid: u32,

    /// Bytes of a request of the load
    #[arg(long, value_parser = size::parse, default_value = "4k")]
    bs: u64,

    /// Requests of the load under way at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=8192))]
    qd: u16,

    /// How to choose among the paths: round-robin, numa, queue-depth, active-passive, service-time
    #[arg(long, default_value = "round-robin")]
    policy: PathPolicy,

    /// Keep a head for so long without any path
    #[arg(long, value_name = "SECS", default_value = "10", value_parser = seconds)]
    window: Duration,

    /// A path leaves its head so long after the loss of its controller, which is tried again all the
    /// same
    #[arg(long, value_name = "SECS", default_value = "2", value_parser = seconds)]
    ctrl_loss: Duration,

    /// Time from one picture to the next
    #[arg(long, value_name = "SECS", default_value = "0.25", value_parser = seconds)]
    every: Duration,

    /// End after so long
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    time: Option<Duration>,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.load && !arguments.write_ok {
        let why = "--load overwrites what is on the namespace; say --write-ok if that is meant";
        return Err(Failure::Usage(why.into()));
    }
    if !std::io::stdout().is_terminal() {
        let why = "standard output is not a terminal, and nothing else can be drawn on: \
                   `nvmeh list --json` and `nvmeh io --json` are for programs";
        return Err(Failure::Usage(why.into()));
    }
    let host = nvme_host_examples::host::new()?;
    host.set_delayed_removal(DelayedRemoval::like_linux(Window::from(arguments.window)));
    host.set_policy(arguments.policy);
    let events = host.events(4096);
    let mut options = ControllerOptions::default();
    options.ctrl_loss_tmo = Some(arguments.ctrl_loss);
    options.reattach_delay = Some(Duration::from_millis(500));
    options.reconnect_delay = Duration::from_secs(1);
    options.connect_timeout = Duration::from_secs(5);
    for url in &arguments.urls {
        host.connect(url, options.clone())?;
    }
    let mut session = Session {
        load: arguments.load.then(|| Load::new(arguments)),
        host,
        events,
        history: History::new(),
    };
    let mut terminal = ratatui::try_init()?;
    let result = session.play(&mut terminal, arguments);
    ratatui::restore();
    result.and(session.close())
}

struct Session {
    host: Host,
    events: Events,
    history: History,
    load: Option<Load>,
}

impl Session {
    fn play(
        &mut self,
        terminal: &mut DefaultTerminal,
        arguments: &Arguments,
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        loop {
            while let Some(event) = self.events.try_next() {
                let Some((about, text)) = describe(&event.event) else { continue };
                let who = match about {
                    About::Path(address) => address,
                    About::Head => "head",
                    About::Events => "events",
                };
                let at = Duration::from_nanos(event.at.as_nanos());
                self.history.tell(Happening { at, who: who.to_owned(), text });
            }
            if let Some(load) = &mut self.load {
                load.look_after(&self.host)?;
            }
            self.history.take(self.host.snapshot());
            let sample = self.load.as_mut().and_then(|l| l.meter.as_mut()).map(Meter::sample);
            terminal.draw(|frame| draw(frame, &self.history, sample))?;
            let until = Instant::now() + arguments.every;
            while event::poll(until.saturating_duration_since(Instant::now()))? {
                if ends(&event::read()?) {
                    return Ok(());
                }
            }
            if arguments.time.is_some_and(|time| begun.elapsed() >= time) {
                return Ok(());
            }
        }
    }

    /// Ends the load, and tells what it found.
    fn close(&mut self) -> Result<(), Failure> {
        let tally = self.load.take().map(|load| load.end(&self.host)).transpose()?;
        self.host.shutdown_forced(Duration::from_secs(5))?;
        let Some(tally) = tally else { return Ok(()) };
        println!(
            "{} requests, {} blocks checked: {} lost, {} stale, {} torn",
            tally.completed(),
            tally.judged_blocks,
            tally.lost(),
            tally.stale_blocks,
            tally.torn_blocks
        );
        if tally.is_clean() { Ok(()) } else { Err(Failure::Told) }
    }
}

/// Whether the user has seen enough.
fn ends(input: &Input) -> bool {
    let Input::Key(key) = input else { return false };
    let interrupt = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
    interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
}

/// A verified load on one head after the other: when a head is removed, on the next one.
struct Load {
    nsid: u32,
    bs: u64,
    depth: usize,
    worker: Option<(Handle, Arc<Orders>, Arc<Head>)>,
    meter: Option<Meter>,
    tally: Tally,
}

impl Load {
    fn new(arguments: &Arguments) -> Self {
        Self {
            nsid: arguments.nsid,
            bs: arguments.bs,
            depth: arguments.qd.into(),
            worker: None,
            meter: None,
            tally: Tally::default(),
        }
    }

    fn look_after(&mut self, host: &Host) -> Result<(), Failure> {
        if let Some((handle, ..)) = &self.worker {
            if !handle.progress().ended() {
                return Ok(());
            }
            self.reap()?;
        }
        let heads = host.heads();
        let live = |h: &&Arc<Head>| h.nsid() == self.nsid && h.state() == HeadState::Live;
        let Some(head) = heads.iter().find(live) else { return Ok(()) };
        let geometry = head.geometry();
        let block = u64::from(geometry.block_size);
        let plan = Plan {
            pattern: Pattern::RandRw,
            first: 0,
            blocks: geometry.blocks.min(REGION / block),
            block_size: geometry.block_size as usize,
            metadata_size: geometry.metadata_size.into(),
            request_blocks: (self.bs / block).max(1),
            aligned: false,
            verify: true,
            depth: self.depth,
            seed: nvme_host_examples::host::seed(),
        };
        if plan.blocks < plan.request_blocks || plan.request_bytes() > geometry.max_transfer {
            let what = size::human(plan.request_bytes() as u64);
            return Err(Failure::Usage(format!("{}: no requests of {what}", head.name())));
        }
        let mut options = ChannelOptions::default();
        options.depth = self.depth;
        options.latency_histograms = true;
        let mut orders = Orders::default();
        orders.drain_limit = Duration::from_secs(5);
        let orders = Arc::new(orders);
        let channel = host.channel(options)?;
        let worker = Handle::start(channel, Arc::clone(head), plan, Arc::clone(&orders))?;
        self.meter = Some(Meter::new(vec![Arc::clone(worker.progress())]));
        self.worker = Some((worker, orders, Arc::clone(head)));
        Ok(())
    }

    fn reap(&mut self) -> Result<(), Failure> {
        let Some((worker, ..)) = self.worker.take() else { return Ok(()) };
        let report = worker.join().map_err(|_| Failure::Failed("the load panicked".into()))?;
        self.tally.add(&report.tally);
        match report.refused {
            Some(why) => Err(Failure::Failed(format!("a request was refused: {why}"))),
            None => Ok(()),
        }
    }

    fn end(mut self, host: &Host) -> Result<Tally, Failure> {
        if let Some((handle, orders, head)) = &self.worker {
            orders.stop();
            // Nobody wants to wait for a path any more.
            head.set_fail_if_no_path(true);
            while !handle.progress().ended() {
                std::thread::sleep(Duration::from_millis(1));
                host.drive(Duration::ZERO);
            }
        }
        self.reap()?;
        Ok(self.tally)
    }
}
