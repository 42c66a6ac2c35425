//! Drives the engine over a channel, in a thread of its own.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nvme_mpath::{Channel, Head, IoCompletion, IoError, IoRequest, SubmitReason};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::engine::{Engine, Outcome};
use super::plan::{Kind, Plan};
use super::tally::{Tally, new_histogram};

/// Longest sleep of a worker: orders are looked at that often, at least.
const NAP: Duration = Duration::from_millis(50);

/// Rest after a round in which every request failed, so that failing is not done at full speed.
const REST: Duration = Duration::from_millis(5);

/// How often the recent latencies are told.
const TOLD_EVERY: Duration = Duration::from_millis(100);

/// What a program tells its workers; read by all of them.
#[derive(Debug)]
#[non_exhaustive]
pub struct Orders {
    stop: AtomicBool,
    sweeps: AtomicU64,
    measures: AtomicU64,
    /// Poll without ever sleeping.
    pub poll: bool,
    /// Write everything once before the plan's pattern begins.
    pub fill_first: bool,
    /// Stop at the first request that fails, unless its head was removed.
    pub stop_on_failure: bool,
    /// How long requests are waited for after the order to stop. What is still under way then is
    /// lost.
    pub drain_limit: Duration,
}

impl Default for Orders {
    fn default() -> Self {
        Self {
            stop: AtomicBool::new(false),
            sweeps: AtomicU64::new(0),
            measures: AtomicU64::new(0),
            poll: false,
            fill_first: false,
            stop_on_failure: false,
            drain_limit: Duration::from_secs(60),
        }
    }
}

impl Orders {
    /// Submit nothing more, wait for what is under way, and end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Forget the latencies of what has ended so far.
    pub fn measure(&self) {
        self.measures.fetch_add(1, Ordering::AcqRel);
    }

    /// Read everything that was written once, then go on as before. [`Progress::sweeps`] tells when
    /// it is done.
    pub fn sweep(&self) {
        self.sweeps.fetch_add(1, Ordering::AcqRel);
    }
}

/// What a worker tells while it works.
#[derive(Debug)]
pub struct Progress {
    completed: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    bad: AtomicU64,
    parked: AtomicU64,
    sweeps: AtomicU64,
    at_work: AtomicU64,
    waiting: AtomicU64,
    sleeping_calls: AtomicU64,
    filled: AtomicBool,
    ended: AtomicBool,
    first_failure: Mutex<Option<Arc<str>>>,
    removal: Mutex<Option<Arc<str>>>,
    recent: Mutex<Histogram<u64>>,
}

impl Progress {
    fn new() -> Self {
        let count = || AtomicU64::new(0);
        Self {
            completed: count(),
            bytes: count(),
            failed: count(),
            bad: count(),
            parked: count(),
            sweeps: count(),
            at_work: count(),
            waiting: count(),
            sleeping_calls: count(),
            filled: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            first_failure: Mutex::new(None),
            removal: Mutex::new(None),
            recent: Mutex::new(new_histogram()),
        }
    }

    /// Requests that succeeded.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.completed.load(Ordering::Acquire)
    }

    /// Bytes that they moved.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    /// Requests that failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Acquire)
    }

    /// Blocks and requests for which something was found to be wrong.
    #[must_use]
    pub fn bad(&self) -> u64 {
        self.bad.load(Ordering::Acquire)
    }

    /// Requests that wait for a path.
    #[must_use]
    pub fn parked(&self) -> u64 {
        self.parked.load(Ordering::Acquire)
    }

    /// Sweeps done.
    #[must_use]
    pub fn sweeps(&self) -> u64 {
        self.sweeps.load(Ordering::Acquire)
    }

    /// Nanoseconds of rounds in which something ended, and of those in which nothing did, sleep
    /// included: how long the worker had something to do, and how long it waited.
    #[must_use]
    pub fn at_work(&self) -> (u64, u64) {
        (self.at_work.load(Ordering::Acquire), self.waiting.load(Ordering::Acquire))
    }

    /// System calls of the channel to sleep ([`Channel::sleeping_calls`]).
    #[must_use]
    pub fn sleeping_calls(&self) -> u64 {
        self.sleeping_calls.load(Ordering::Acquire)
    }

    /// Whether everything was written once, where that was asked for.
    #[must_use]
    pub fn filled(&self) -> bool {
        self.filled.load(Ordering::Acquire)
    }

    /// Whether the worker has ended.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Why a request failed, the first time that one did while its head was there.
    #[must_use]
    pub fn first_failure(&self) -> Option<Arc<str>> {
        locked(&self.first_failure).clone()
    }

    /// With what error requests failed when their head was removed, if it was.
    #[must_use]
    pub fn removal(&self) -> Option<Arc<str>> {
        locked(&self.removal).clone()
    }

    /// Adds the latencies, in nanoseconds, since the last call to `sum`.
    pub fn take_recent(&self, sum: &mut Histogram<u64>) {
        let mut recent = locked(&self.recent);
        // All have the same bounds.
        let _ = sum.add(&*recent);
        recent.reset();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A worker that was started.
#[derive(Debug)]
pub struct Handle {
    progress: Arc<Progress>,
    thread: JoinHandle<Report>,
}

/// How a worker ended.
#[derive(Debug)]
pub struct Report {
    /// What it found.
    pub tally: Tally,
    /// Why it could not go on, if it could not: a request that the library did not take.
    pub refused: Option<SubmitReason>,
    /// Why it could not stay on the processor that it was given.
    pub refused_cpu: Option<io::Error>,
}

/// Keeps the calling thread on one processor.
fn stay_on(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

impl Handle {
    /// Starts a worker. It ends when it is told to, when the head is removed, or when it cannot go
    /// on.
    ///
    /// # Errors
    /// What the operating system says about starting a thread.
    pub fn start(
        channel: Channel,
        head: Arc<Head>,
        plan: Plan,
        orders: Arc<Orders>,
    ) -> io::Result<Self> {
        Self::start_on(None, channel, head, Engine::new(plan), orders)
    }

    /// Starts a worker that stays on one processor. If that cannot be, it ends without having done
    /// anything, and [`Report::refused_cpu`] says why.
    ///
    /// # Errors
    /// What the operating system says about starting a thread.
    pub fn start_on(
        cpu: Option<usize>,
        channel: Channel,
        head: Arc<Head>,
        engine: Engine,
        orders: Arc<Orders>,
    ) -> io::Result<Self> {
        let progress = Arc::new(Progress::new());
        let worker = Worker {
            channel,
            head,
            engine,
            orders,
            progress: Arc::clone(&progress),
            removed: false,
            refused: None,
            failovers: 0,
            swept: 0,
            measured: 0,
            recent: new_histogram(),
            told_at: Instant::now(),
            spent: Spent::default(),
        };
        let run = move || match cpu.map_or(Ok(()), stay_on) {
            Ok(()) => worker.run(),
            Err(error) => worker.give_up(error),
        };
        let thread = std::thread::Builder::new().name("workload".into()).spawn(run)?;
        Ok(Self { progress, thread })
    }

    /// What the worker tells.
    #[must_use]
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Waits for the worker's end; it must have been told to stop.
    ///
    /// # Errors
    /// The panic of the worker, if that is how it ended.
    pub fn join(self) -> std::thread::Result<Report> {
        self.thread.join()
    }
}

struct Worker {
    channel: Channel,
    head: Arc<Head>,
    engine: Engine,
    orders: Arc<Orders>,
    progress: Arc<Progress>,
    removed: bool,
    refused: Option<SubmitReason>,
    /// The head's count of failovers when last looked at.
    failovers: u64,
    /// Sweeps done.
    swept: u64,
    /// Orders to measure that were followed.
    measured: u64,
    recent: Histogram<u64>,
    told_at: Instant,
    spent: Spent,
}

/// How a worker's time was spent.
#[derive(Debug, Default)]
struct Spent {
    /// When the present round began, and when it was found to be in vain.
    round: Option<(Instant, bool)>,
    at_work: Duration,
    waiting: Duration,
}

impl Spent {
    /// The next round begins, and the one before is over.
    fn begin(&mut self, now: Instant) {
        if let Some((since, in_vain)) = self.round.replace((now, false)) {
            let sum = if in_vain { &mut self.waiting } else { &mut self.at_work };
            *sum += now.saturating_duration_since(since);
        }
    }

    /// Nothing ended in this round.
    const fn in_vain(&mut self) {
        if let Some((_, in_vain)) = &mut self.round {
            *in_vain = true;
        }
    }
}

impl Worker {
    fn run(mut self) -> Report {
        let mut done: Vec<IoCompletion> = Vec::with_capacity(self.engine.plan().depth);
        let mut stopped_at = None;
        if self.orders.fill_first {
            self.engine.begin_fill();
        }
        loop {
            let now = Instant::now();
            self.spent.begin(now);
            if self.must_stop() {
                let since = *stopped_at.get_or_insert(now);
                if self.engine.in_flight() == 0 || now - since > self.orders.drain_limit {
                    break;
                }
            } else {
                self.look_after_passes();
                self.submit(now);
            }
            self.channel.poll(&mut done);
            self.mark();
            if done.is_empty() {
                self.spent.in_vain();
                if self.orders.poll && self.told_at.elapsed() < TOLD_EVERY {
                    continue;
                }
                self.tell();
                if !self.orders.poll {
                    self.channel.wait(NAP);
                }
                continue;
            }
            let succeeded = self.reap(&mut done);
            if self.told_at.elapsed() >= TOLD_EVERY {
                self.tell();
            }
            if succeeded == 0 && !self.removed {
                std::thread::sleep(REST);
            }
        }
        self.tell();
        let report =
            Report { tally: self.engine.finish(), refused: self.refused, refused_cpu: None };
        self.progress.ended.store(true, Ordering::Release);
        report
    }

    fn give_up(self, error: io::Error) -> Report {
        self.progress.ended.store(true, Ordering::Release);
        Report { tally: self.engine.finish(), refused: None, refused_cpu: Some(error) }
    }

    fn must_stop(&self) -> bool {
        self.removed
            || self.refused.is_some()
            || self.orders.stop.load(Ordering::Acquire)
            || (self.orders.stop_on_failure && self.engine.tally().failed > 0)
    }

    /// Ends a pass that is over, and begins one that was ordered.
    fn look_after_passes(&mut self) {
        if self.engine.is_pass_over() {
            if self.engine.pass() == Some(Kind::Read) {
                self.swept += 1;
                self.progress.sweeps.store(self.swept, Ordering::Release);
            }
            self.engine.end_pass();
            self.progress.filled.store(true, Ordering::Release);
        }
        let measures = self.orders.measures.load(Ordering::Acquire);
        if measures != self.measured {
            self.measured = measures;
            self.engine.forget_latencies();
        }
        let ordered = self.orders.sweeps.load(Ordering::Acquire);
        if ordered > self.swept && self.engine.pass().is_none() {
            self.engine.begin_sweep();
        }
    }

    fn submit(&mut self, now: Instant) {
        while let Some(issue) = self.engine.issue(now) {
            let request = match issue.kind {
                Kind::Read => IoRequest::read(issue.lba, issue.buffer, issue.id),
                Kind::Write => IoRequest::write(issue.lba, issue.buffer, issue.id),
            };
            if let Err(refused) = self.channel.submit(&self.head, request) {
                self.engine.withdraw(issue.id, refused.buffer);
                if !matches!(refused.reason, SubmitReason::Full { .. }) {
                    self.refused = Some(refused.reason);
                }
                return;
            }
        }
    }

    /// Notes for requests under way what they meet.
    fn mark(&mut self) {
        let failovers = self.head.stats().failovers;
        if failovers != self.failovers {
            self.failovers = failovers;
            self.engine.mark_failover();
        }
        if self.channel.parked() > 0 {
            self.engine.mark_waiting();
        }
    }

    /// Returns how many requests succeeded.
    fn reap(&mut self, done: &mut Vec<IoCompletion>) -> usize {
        let now = Instant::now();
        let mut succeeded = 0;
        for completion in done.drain(..) {
            let outcome = match &completion.result {
                Ok(()) => Outcome::Done,
                Err(error) => {
                    let removed = matches!(**error, IoError::HeadRemoved { .. });
                    let place = match removed {
                        true => &self.progress.removal,
                        false => &self.progress.first_failure,
                    };
                    locked(place).get_or_insert_with(|| error.to_string().into());
                    self.removed |= removed;
                    if removed { Outcome::HeadRemoved } else { Outcome::Failed }
                }
            };
            let took = self.engine.complete(completion.user_data, outcome, completion.buffer, now);
            if let (Outcome::Done, Some(took)) = (outcome, took) {
                succeeded += 1;
                let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
                self.recent.saturating_record(nanos);
            }
        }
        self.count();
        succeeded
    }

    fn count(&self) {
        let (tally, progress) = (self.engine.tally(), &self.progress);
        let bad = tally.lost() + tally.duplicated() + tally.stale_blocks + tally.torn_blocks;
        progress.completed.store(tally.completed(), Ordering::Release);
        progress.bytes.store(tally.bytes, Ordering::Release);
        progress.failed.store(tally.failed, Ordering::Release);
        progress.bad.store(bad, Ordering::Release);
    }

    fn tell(&mut self) {
        self.told_at = Instant::now();
        let progress = &self.progress;
        progress.parked.store(self.channel.parked() as u64, Ordering::Release);
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        progress.at_work.store(nanos(self.spent.at_work), Ordering::Release);
        progress.waiting.store(nanos(self.spent.waiting), Ordering::Release);
        progress.sleeping_calls.store(self.channel.sleeping_calls(), Ordering::Release);
        if !self.recent.is_empty() {
            // All have the same bounds.
            let _ = locked(&self.progress.recent).add(&self.recent);
            self.recent.reset();
        }
    }
}
