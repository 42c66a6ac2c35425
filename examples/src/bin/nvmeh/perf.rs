//! `nvmeh perf`.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use nvme_core::buffer::Buffer;
use nvme_host_examples::meter::Meter;
use nvme_host_examples::perf::{Cost, Moment, Picture, Threads};
use nvme_host_examples::terminal::Screen;
use nvme_host_examples::workload::{Engine, Handle, Orders, Plan, Tally};
use nvme_host_floor::{Floor, Shape};
use nvme_mpath::{ChannelOptions, Head, Host};
use nvme_tcp::TcpTransport;

use crate::measured::{Calls, Measured, Rival};
use crate::work::{self, ReadWrite, Work};
use crate::{Failure, interruption, plan, print_json, seconds};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Paths to one subsystem, such as tcp://192.0.2.7:4420/nqn.2026-01.org.example:sub
    #[arg(required = true, value_name = "URL")]
    urls: Vec<String>,

    #[command(flatten)]
    work: Work,

    /// Seconds that are measured
    #[arg(long, value_name = "SECS", default_value = "10", value_parser = seconds)]
    time: Duration,

    /// Seconds before that, which are not
    #[arg(long, value_name = "SECS", default_value = "1", value_parser = seconds)]
    warmup: Duration,

    /// Processors, from 0, on which the channels stay, the first on the first and so on
    #[arg(long, value_name = "N", value_delimiter = ',')]
    cpu: Vec<usize>,

    /// Sleep while there is nothing to do; otherwise channels poll all the time
    #[arg(long)]
    sleep: bool,

    /// With --sleep, look for answers for so many microseconds before each sleep, as long as that is
    /// of use
    #[arg(long, value_name = "MICROS", requires = "sleep")]
    #[arg(value_parser = clap::value_parser!(u64).range(..=10_000))]
    busy_poll: Option<u64>,

    /// Ask for digests of headers (tcp:// only)
    #[arg(long)]
    hdgst: bool,

    /// Ask for digests of data (tcp:// only)
    #[arg(long)]
    ddgst: bool,

    /// Measure something else as well, for as long, and compare
    #[arg(long, value_enum, value_name = "WHAT")]
    vs: Option<Versus>,

    /// The process of the target, if it is on this machine: tells what its threads use of processors,
    /// and which side is the limit. (A target that polls is always busy.)
    #[arg(long, value_name = "PID")]
    target_pid: Option<u32>,

    /// Longest wait for each controller
    #[arg(long, value_name = "SECS", default_value = "10", value_parser = seconds)]
    timeout: Duration,

    /// Draw latencies, and IOPS over time
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// What to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Versus {
    /// Two sockets on this machine that move the same bytes and do nothing else
    Floor,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let work = &arguments.work;
    work.check()?;
    let urls = urls(arguments)?;
    if arguments.time.is_zero() {
        return Err(Failure::Usage("--time must not be 0".into()));
    }
    if !arguments.cpu.is_empty() && arguments.cpu.len() != usize::from(work.channels) {
        let (cpus, channels) = (arguments.cpu.len(), work.channels);
        let why = format!("--cpu names {cpus} processors for {channels} channels");
        return Err(Failure::Usage(why));
    }
    if arguments.vs.is_some() && work.rw == ReadWrite::RandRw {
        return Err(Failure::Usage("--vs floor reads or writes; it does not mix them".into()));
    }
    if let Some(pid) = arguments.target_pid {
        target_threads(pid)?;
    }
    let interrupted = interruption()?;
    let tcp = TcpTransport::new();
    let host = nvme_host_examples::host::with(tcp.clone())?;
    let (head, _) = work::connect(&host, &urls, work, arguments.timeout, &[])?;
    let mut run = Run { screen: Screen::stderr(), interrupted, tcp, moments: Vec::new() };
    let mut measured = run.measure(&host, &head, arguments)?;
    if arguments.vs.is_some() && measured.errors.is_empty() {
        measured.rival = run.floor(arguments)?;
    }
    run.screen.clear();
    if let Some(path) = &arguments.svg {
        let (title, result) = measured.headline();
        let picture = Picture {
            title: &title,
            result: &result,
            moments: &measured.moments,
            latencies: &measured.tally.latency,
        };
        std::fs::write(path, picture.draw())
            .map_err(|e| Failure::Failed(format!("{}: {e}", path.display())))?;
    }
    if arguments.json {
        print_json(&measured.to_json());
    } else if measured.completed > 0 || measured.errors.is_empty() {
        measured.print();
    }
    for error in &measured.errors {
        eprintln!("nvmeh: {error}");
    }
    drop(head);
    host.shutdown_forced(Duration::from_secs(5))?;
    if measured.is_good() { Ok(()) } else { Err(Failure::Told) }
}

/// The URLs with what was asked for of digests.
fn urls(arguments: &Arguments) -> Result<Vec<String>, Failure> {
    let asked: Vec<&str> = [(arguments.hdgst, "hdgst=1"), (arguments.ddgst, "ddgst=1")]
        .into_iter()
        .filter_map(|(asked, parameter)| asked.then_some(parameter))
        .collect();
    let with = |url: &String| {
        if asked.is_empty() {
            return Ok(url.clone());
        }
        if !url.starts_with("tcp://") {
            let why = format!("{url}: --hdgst and --ddgst are for tcp:// only");
            return Err(Failure::Usage(why));
        }
        let join = if url.contains('?') { '&' } else { '?' };
        Ok(format!("{url}{join}{}", asked.join("&")))
    };
    arguments.urls.iter().map(with).collect()
}

/// The threads of the target's process.
fn target_threads(pid: u32) -> Result<Threads, Failure> {
    Threads::of(pid).map_err(|e| Failure::Failed(format!("--target-pid {pid}: {e}")))
}

/// What a channel does I/O with: memory that devices reach, where there is one, so that nothing has
/// to be copied.
fn engine(host: &Host, urls: &[String], plan: Plan) -> Result<Engine, Failure> {
    let (bytes, depth) = (plan.request_bytes(), plan.depth);
    let mut engine = Engine::new(plan);
    if urls.iter().any(|url| !url.starts_with("tcp://")) {
        let memory = (0..depth).map(|_| host.dma_buf(bytes).map(Buffer::from));
        engine.give(memory.collect::<Result<Vec<_>, _>>()?);
    }
    Ok(engine)
}

/// What is counted, at one moment.
struct Counts {
    at: Instant,
    completed: u64,
    bytes: u64,
    cost: Cost,
    calls: Calls,
    threads: Threads,
    target: Option<Threads>,
    /// Nanoseconds at work, and waiting.
    at_work: (u64, u64),
}

/// The part of the time between two moments in which channels were at work.
fn at_work(before: (u64, u64), after: (u64, u64)) -> Option<f64> {
    let (work, wait) = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
    (work + wait > 0).then(|| work as f64 / (work + wait) as f64)
}

struct Run {
    screen: Screen<std::io::Stderr>,
    interrupted: Arc<AtomicBool>,
    tcp: TcpTransport,
    moments: Vec<Moment>,
}

impl Run {
    fn measure(
        &mut self,
        host: &Host,
        head: &Arc<Head>,
        arguments: &Arguments,
    ) -> Result<Measured, Failure> {
        let work = &arguments.work;
        let mut orders = Orders::default();
        orders.stop_on_failure = true;
        orders.fill_first = work.verify && !work.rw.pattern().writes();
        orders.poll = !arguments.sleep;
        let orders = Arc::new(orders);
        let mut workers = Vec::new();
        for (i, plan) in plan::plans(work, &head.geometry())?.into_iter().enumerate() {
            let mut options = ChannelOptions::default();
            options.depth = plan.depth;
            if let Some(micros) = arguments.busy_poll {
                options.busy_poll = Duration::from_micros(micros);
            }
            let channel = host.channel(options)?;
            let (cpu, head) = (arguments.cpu.get(i).copied(), Arc::clone(head));
            let engine = engine(host, &arguments.urls, plan)?;
            workers.push(Handle::start_on(cpu, channel, head, engine, Arc::clone(&orders))?);
        }
        let mut meter = Meter::new(workers.iter().map(|w| Arc::clone(w.progress())).collect());
        if orders.fill_first {
            self.watch(&mut meter, "writing everything once", Meter::all_filled);
        }
        let since = Instant::now();
        self.watch(&mut meter, "warming up", |_| since.elapsed() >= arguments.warmup);
        orders.measure();
        meter.sample();
        self.moments.clear();
        let before = self.counts(&meter, arguments)?;
        self.watch(&mut meter, "measuring", |_| before.at.elapsed() >= arguments.time);
        let after = self.counts(&meter, arguments)?;
        let moments = std::mem::take(&mut self.moments);
        if work.verify {
            orders.sweep();
            self.watch(&mut meter, "reading everything back", |m| m.sweeps() > 0);
        }
        orders.stop();
        while !meter.all_ended() {
            if self.is_interrupted() {
                // Whoever waits for a path is not waited for.
                head.set_fail_if_no_path(true);
            }
            std::thread::sleep(Duration::from_millis(5));
            if meter.parked() > 0 {
                let sample = meter.sample();
                self.screen.live(&format!("waiting for what is under way: {sample}"));
            }
        }
        let mut errors: Vec<String> = Vec::new();
        errors.extend(meter.first_failure().map(|e| e.to_string()));
        errors.extend(meter.removal().map(|e| e.to_string()));
        let mut tally = Tally::default();
        for (i, worker) in workers.into_iter().enumerate() {
            let ended = worker.join().map_err(|_| Failure::Failed("a worker panicked".into()))?;
            tally.add(&ended.tally);
            errors.extend(ended.refused.map(|r| r.to_string()));
            let cpu = arguments.cpu.get(i).copied().unwrap_or_default();
            errors.extend(ended.refused_cpu.map(|e| format!("staying on processor {cpu}: {e}")));
        }
        Ok(Measured {
            head: head.name().to_owned(),
            rw: work.name(),
            bs: work.bs,
            qd: work.qd,
            channels: work.channels,
            polled: !arguments.sleep,
            verify: work.verify,
            tally,
            completed: after.completed - before.completed,
            bytes: after.bytes - before.bytes,
            time: after.at - before.at,
            cost: after.cost.since(&before.cost),
            calls: after.calls.since(before.calls),
            threads: after.threads.since(&before.threads),
            target: after.target.zip(before.target).map(|(after, before)| after.since(&before)),
            at_work: at_work(before.at_work, after.at_work),
            moments,
            rival: None,
            errors,
        })
    }

    /// Everything that is counted, up to now.
    fn counts(&self, meter: &Meter, arguments: &Arguments) -> Result<Counts, Failure> {
        let tcp = self.tcp.counters();
        let sleep = meter.sleeping_calls();
        Ok(Counts {
            at: Instant::now(),
            completed: meter.completed(),
            bytes: meter.bytes(),
            cost: Cost::now(),
            calls: Calls { receive: tcp.receives, send: tcp.sends, sleep },
            threads: Threads::of_this_process().unwrap_or_default(),
            target: arguments.target_pid.map(target_threads).transpose()?,
            at_work: meter.at_work(),
        })
    }

    /// The same over bare sockets, a pair for each channel. `None` if it was interrupted.
    fn floor(&mut self, arguments: &Arguments) -> Result<Option<Rival>, Failure> {
        let work = &arguments.work;
        let bytes = usize::try_from(work.bs).map_err(|e| Failure::Usage(e.to_string()))?;
        let write = work.rw.pattern().writes();
        let shape = Shape { write, bytes, depth: work.qd.into(), apart: false };
        self.screen.live("measuring bare sockets");
        let (warmup, time) = (arguments.warmup, arguments.time);
        let interrupted = &self.interrupted;
        let counted = Mutex::new(());
        let pair = || -> std::io::Result<f64> {
            let mut floor = Floor::new(shape)?;
            // So many at once that looking at the clock costs nothing, and that the pipe does not
            // run empty often.
            let batch = u64::from(work.qd) * 64;
            let mut go = |limit: Duration| {
                let (since, mut ended) = (Instant::now(), 0);
                while since.elapsed() < limit && !interrupted.load(Ordering::Acquire) {
                    floor.run(batch, |n| ended += n)?;
                }
                Ok::<_, std::io::Error>(ended as f64 / since.elapsed().as_secs_f64().max(1e-9))
            };
            go(warmup)?;
            let rate = go(time);
            // A thread that has ended is counted no more.
            drop(counted.lock());
            rate
        };
        let nap = |limit: Duration| {
            let since = Instant::now();
            while since.elapsed() < limit && !interrupted.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(10).min(limit));
            }
        };
        let threads = || Threads::of_this_process().unwrap_or_default();
        let (rates, used, took) = std::thread::scope(|scope| {
            let counting = counted.lock();
            let start = |_| {
                let thread = std::thread::Builder::new().name("floor-host".into());
                thread.spawn_scoped(scope, pair)
            };
            let pairs = (0..work.channels).map(start).collect::<Result<Vec<_>, _>>();
            nap(warmup);
            let (before, since) = (threads(), Instant::now());
            nap(time);
            let (used, took) = (threads().since(&before), since.elapsed());
            drop(counting);
            let panicked = || Err(std::io::Error::other("a thread panicked"));
            let join = |pairs: Vec<std::thread::ScopedJoinHandle<'_, _>>| {
                pairs.into_iter().map(|p| p.join().unwrap_or_else(|_| panicked())).collect()
            };
            let rates = pairs.and_then(|pairs| -> std::io::Result<Vec<f64>> { join(pairs) });
            (rates, used, took)
        });
        if self.is_interrupted() {
            return Ok(None);
        }
        let failed = |e: std::io::Error| Failure::Failed(format!("bare sockets: {e}"));
        let iops = rates.map_err(failed)?.into_iter().sum();
        let threads = used.into_iter().filter(|thread| thread.name.starts_with("floor")).collect();
        Ok(Some(Rival { name: "floor", iops, threads, time: took }))
    }

    fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }

    /// Shows what happens, and notes it, until it is over, one way or another.
    fn watch(&mut self, meter: &mut Meter, what: &str, over: impl Fn(&Meter) -> bool) {
        let begun = Instant::now();
        let mut noted = 0.0;
        while !over(meter) && !meter.all_ended() && !self.is_interrupted() {
            std::thread::sleep(Duration::from_millis(50));
            let t = begun.elapsed().as_secs_f64();
            let sample = meter.sample();
            if t - noted >= 0.25 {
                noted = t;
                let us = |time: Duration| time.as_nanos() as f64 / 1e3;
                let (p50_us, p99_us) = (us(sample.p50), us(sample.p99));
                self.moments.push(Moment { t, iops: sample.iops, p50_us, p99_us });
            }
            self.screen.live(&format!("{t:5.1} s  {what}: {sample}"));
        }
    }
}
