//! `nvmeh io`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nvme_host_examples::meter::Meter;
use nvme_host_examples::narrate::{About, describe};
use nvme_host_examples::terminal::Screen;
use nvme_host_examples::timeline::Recorder;
use nvme_host_examples::workload::{Handle, Orders, Tally};
use nvme_mpath::{ChannelOptions, Events, Head, HedgeOptions, Host, Window};

use crate::report::Report;
use crate::work::{self, Work};
use crate::{Failure, interruption, plan, print_json, seconds};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Paths to one subsystem, such as tcp://192.0.2.7:4420/nqn.2026-01.org.example:sub
    #[arg(required = true, value_name = "URL")]
    urls: Vec<String>,

    #[command(flatten)]
    work: Work,

    /// Seconds to go on for
    #[arg(long, value_name = "SECS", default_value = "10", value_parser = seconds)]
    time: Duration,

    /// The URL, by its place from 1, that active-passive prefers
    #[arg(long, value_name = "N")]
    prefer: Option<usize>,

    /// URLs, by their places from 1, to be used only when there is no other
    #[arg(long, value_name = "N", value_delimiter = ',')]
    marginal: Vec<usize>,

    /// Send reads that outlive 99 % of their size class down a second path, too
    #[arg(long)]
    hedge: bool,

    /// Keep the head for so long without any path
    #[arg(long, value_name = "SECS", default_value = "0", value_parser = seconds)]
    window: Duration,

    /// Longest wait for each controller
    #[arg(long, value_name = "SECS", default_value = "10", value_parser = seconds)]
    timeout: Duration,

    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let paths = 1..=arguments.urls.len();
    let named = arguments.prefer.iter().chain(&arguments.marginal);
    if let Some(place) = named.into_iter().find(|place| !paths.contains(place)) {
        let why = format!("there is no URL {place}: {} were given", arguments.urls.len());
        return Err(Failure::Usage(why));
    }
    arguments.work.check()?;
    let interrupted = interruption()?;
    let host = nvme_host_examples::host::new()?;
    host.set_delayed_removal(nvme_mpath::DelayedRemoval::like_linux(Window::from(
        arguments.window,
    )));
    let events = host.events(4096);
    let head = connect(&host, arguments)?;
    // What the connecting had to tell is known.
    while events.try_next().is_some() {}
    let mut session = Session {
        recorder: Some(Recorder::new(&host, &head)),
        screen: Screen::stderr(),
        begun: Instant::now(),
        events,
        head: Arc::clone(&head),
        interrupted,
    };
    let report = session.work(&host, arguments)?;
    session.screen.clear();
    drop(session);
    if arguments.json {
        print_json(&report.to_json());
    } else {
        report.print();
    }
    for error in &report.errors {
        eprintln!("nvmeh: {error}");
    }
    drop(head);
    host.shutdown_forced(Duration::from_secs(5))?;
    if report.is_good() { Ok(()) } else { Err(Failure::Told) }
}

/// Connects to all URLs, finds the head, and tells it how to choose.
fn connect(host: &Host, arguments: &Arguments) -> Result<Arc<Head>, Failure> {
    let place = |n: usize| n.checked_sub(1);
    let marginal: Vec<usize> = arguments.marginal.iter().copied().filter_map(place).collect();
    let (head, controllers) =
        work::connect(host, &arguments.urls, &arguments.work, arguments.timeout, &marginal)?;
    let preferred = arguments.prefer.and_then(|n| controllers.get(n.checked_sub(1)?).copied());
    head.set_preferred_path(preferred);
    head.set_hedged_reads(arguments.hedge.then(HedgeOptions::default));
    Ok(head)
}

/// One run, and what it is watched with.
struct Session {
    recorder: Option<Recorder>,
    screen: Screen<std::io::Stderr>,
    begun: Instant,
    events: Events,
    head: Arc<Head>,
    interrupted: Arc<AtomicBool>,
}

impl Session {
    fn work(&mut self, host: &Host, arguments: &Arguments) -> Result<Report, Failure> {
        let pattern = arguments.work.rw.pattern();
        let mut orders = Orders::default();
        orders.stop_on_failure = true;
        orders.fill_first = arguments.work.verify && !pattern.writes();
        let orders = Arc::new(orders);
        let plans = plan::plans(&arguments.work, &self.head.geometry())?;
        let failovers = self.head.stats().failovers;
        let mut workers = Vec::new();
        for plan in plans {
            let mut options = ChannelOptions::default();
            options.depth = plan.depth;
            let channel = host.channel(options)?;
            workers.push(Handle::start(
                channel,
                Arc::clone(&self.head),
                plan,
                Arc::clone(&orders),
            )?);
        }
        let mut meter = Meter::new(workers.iter().map(|w| Arc::clone(w.progress())).collect());

        if orders.fill_first {
            self.watch(host, &mut meter, "writing everything once", Meter::all_filled);
        }
        let (since, before) = (Instant::now(), (meter.completed(), meter.bytes()));
        self.watch(host, &mut meter, "", |_| since.elapsed() >= arguments.time);
        let time = since.elapsed();
        let (completed, bytes) = (meter.completed() - before.0, meter.bytes() - before.1);
        if arguments.work.verify {
            orders.sweep();
            self.watch(host, &mut meter, "reading everything back", |m| m.sweeps() > 0);
        }
        orders.stop();
        if self.is_interrupted() {
            // Whoever waits for a path is not waited for.
            self.head.set_fail_if_no_path(true);
        }
        self.drain(host, &mut meter);

        let mut errors: Vec<String> = Vec::new();
        errors.extend(meter.first_failure().map(|e| e.to_string()));
        errors.extend(meter.removal().map(|e| e.to_string()));
        let mut tally = Tally::default();
        for worker in workers {
            let ended = worker.join().map_err(|_| Failure::Failed("a worker panicked".into()))?;
            tally.add(&ended.tally);
            errors.extend(ended.refused.map(|r| r.to_string()));
        }
        let recorder = self.recorder.take();
        let timeline = recorder.map(|r| r.finish(host, &self.head)).unwrap_or_default();
        Ok(Report {
            head: self.head.name().to_owned(),
            rw: format!("{:?}", arguments.work.rw).to_ascii_lowercase(),
            bs: arguments.work.bs,
            qd: arguments.work.qd,
            channels: arguments.work.channels,
            verify: arguments.work.verify,
            tally,
            completed,
            bytes,
            time,
            failovers: self.head.stats().failovers - failovers,
            timeline,
            errors,
        })
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }

    /// Shows what happens until it is over, one way or another.
    fn watch(&mut self, host: &Host, meter: &mut Meter, what: &str, over: impl Fn(&Meter) -> bool) {
        while !over(meter) && !meter.all_ended() && !self.is_interrupted() {
            self.show(host, meter, what);
        }
    }

    /// Waits for the workers, who were told to stop.
    fn drain(&mut self, host: &Host, meter: &mut Meter) {
        while !meter.all_ended() {
            if self.is_interrupted() {
                self.head.set_fail_if_no_path(true);
            }
            self.show(host, meter, "waiting for the last requests");
        }
    }

    /// Tells events, and how it goes, for the moment of one frame.
    fn show(&mut self, host: &Host, meter: &mut Meter, what: &str) {
        let event = self.events.next_timeout(Duration::from_millis(50));
        if let Some(recorder) = &mut self.recorder {
            event.iter().for_each(|event| recorder.event(event, host, &self.head));
            recorder.look(host, &self.head);
        }
        if let Some(event) = &event
            && let Some((about, text)) = describe(&event.event)
        {
            let at = self.begun.elapsed().as_secs_f64();
            let who = match about {
                About::Path(address) => address,
                About::Head => self.head.name(),
                About::Events => "events",
            };
            self.screen.line(&format!("{at:7.3} s  {who}  {text}"));
        }
        let (at, sample) = (self.begun.elapsed().as_secs_f64(), meter.sample());
        let sep = if what.is_empty() { "" } else { ": " };
        let line = format!("{at:5.1} s  {what}{sep}{sample}");
        self.screen.live(&line);
    }
}
