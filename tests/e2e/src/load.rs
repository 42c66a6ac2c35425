//! I/O in the background that checks itself: what is read is what was last written, and every
//! request ends once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nvme_core::buffer::Buffer;
use nvme_mpath::{Channel, Head, IoCompletion, IoError, IoOp, IoRequest};

use crate::pattern::Pattern;
use crate::wait::{LIMIT, wait_until};

/// What a [`Load`] saw.
#[derive(Debug, Default)]
pub struct LoadReport {
    /// Requests that succeeded.
    pub completed: u64,
    /// Errors that requests ended with.
    pub errors: Vec<IoError>,
    /// Data that was another than what had been written.
    pub wrong: Vec<String>,
    /// Completions that belong to no request, or ended one that had ended already.
    pub duplicated: u64,
    /// Requests that did not end within [`LIMIT`] after the load was told to stop.
    pub lost: u64,
}

impl LoadReport {
    /// Asserts that nothing at all went wrong, and that something was done.
    pub fn assert_clean(&self) {
        self.assert_nothing_lost();
        assert!(self.errors.is_empty(), "{:#?}", self.errors);
        assert!(self.completed > 0, "the load did nothing");
    }

    /// Asserts that every request ended once, and that no data was wrong. Errors may have been.
    pub fn assert_nothing_lost(&self) {
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
        assert_eq!((self.lost, self.duplicated), (0, 0), "lost and duplicated: {self:?}");
    }
}

/// A thread that writes places of a namespace and reads them back, over and over.
pub struct Load {
    stop: Arc<AtomicBool>,
    progress: Arc<AtomicU64>,
    thread: JoinHandle<LoadReport>,
}

/// One place of the namespace, which has one request under way.
struct Place {
    slba: u64,
    offset: u64,
    pattern: Pattern,
    under_way: Option<u64>,
}

impl Load {
    /// Starts on a channel of its own. `depth` requests of `len` bytes are under way at once, in
    /// the first `depth * len` bytes of the namespace.
    #[must_use]
    pub fn start(channel: Channel, head: &Arc<Head>, depth: usize, len: usize) -> Self {
        Self::start_at(channel, head, depth, len, 0)
    }

    /// As [`Load::start`], from the byte offset `base` on.
    #[must_use]
    pub fn start_at(
        mut channel: Channel,
        head: &Arc<Head>,
        depth: usize,
        len: usize,
        base: u64,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let progress = Arc::new(AtomicU64::new(0));
        let (told, done, head) = (Arc::clone(&stop), Arc::clone(&progress), Arc::clone(head));
        let run = move || Worker::new(&head, depth, len, base).run(&mut channel, &told, &done);
        Self { stop, progress, thread: std::thread::spawn(run) }
    }

    /// Requests that have succeeded.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Waits until `count` more requests have succeeded.
    pub fn wait_more(&self, count: u64) {
        let goal = self.completed() + count;
        wait_until("progress of the load", || {
            self.completed() >= goal || self.thread.is_finished()
        });
    }

    /// Stops, once what is under way has ended.
    #[must_use]
    pub fn stop(self) -> LoadReport {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the load does not panic")
    }
}

struct Worker {
    head: Arc<Head>,
    len: usize,
    places: Vec<Place>,
    next: u64,
    owners: BTreeMap<u64, usize>,
    report: LoadReport,
}

impl Worker {
    fn new(head: &Arc<Head>, depth: usize, len: usize, base: u64) -> Self {
        let block_size = u64::from(head.geometry().block_size);
        let place = |i: usize| {
            let offset = base + (i * len) as u64;
            let pattern = Pattern { salt: 0x10ad, version: 0 };
            Place { slba: offset / block_size, offset, pattern, under_way: None }
        };
        Self {
            head: Arc::clone(head),
            len,
            places: (0..depth).map(place).collect(),
            next: 0,
            owners: BTreeMap::new(),
            report: LoadReport::default(),
        }
    }

    fn run(mut self, channel: &mut Channel, stop: &AtomicBool, progress: &AtomicU64) -> LoadReport {
        for at in 0..self.places.len() {
            self.write(channel, at);
        }
        let mut done = Vec::new();
        let mut give_up = None;
        while !self.owners.is_empty() {
            channel.poll(&mut done);
            let stopping = stop.load(Ordering::Relaxed);
            for completion in done.drain(..) {
                self.ended(channel, completion, stopping);
                progress.store(self.report.completed, Ordering::Relaxed);
            }
            if stopping && Instant::now() > *give_up.get_or_insert(Instant::now() + LIMIT) {
                break;
            }
            channel.wait(Duration::from_millis(20));
        }
        self.report.lost = self.owners.len() as u64;
        self.report
    }

    fn write(&mut self, channel: &mut Channel, at: usize) {
        self.places[at].pattern.version += 1;
        let place = &self.places[at];
        let data = place.pattern.bytes(place.offset, self.len);
        self.submit(channel, at, |slba, user_data| IoRequest::write(slba, data.into(), user_data));
    }

    fn read(&mut self, channel: &mut Channel, at: usize) {
        let data = Buffer::zeroed(self.len);
        self.submit(channel, at, |slba, user_data| IoRequest::read(slba, data, user_data));
    }

    fn submit(
        &mut self,
        channel: &mut Channel,
        at: usize,
        request: impl FnOnce(u64, u64) -> IoRequest,
    ) {
        let number = self.next;
        self.next += 1;
        let place = &mut self.places[at];
        place.under_way = Some(number);
        let request = request(place.slba, number);
        channel.submit(&self.head, request).expect("a request that can be right");
        let _ = self.owners.insert(number, at);
    }

    fn ended(&mut self, channel: &mut Channel, completion: IoCompletion, stopping: bool) {
        let Some(at) = self.owners.remove(&completion.user_data) else {
            self.report.duplicated += 1;
            return;
        };
        let place = &mut self.places[at];
        if place.under_way.take() != Some(completion.user_data) {
            self.report.duplicated += 1;
        }
        match completion.result {
            Ok(()) => self.report.completed += 1,
            // What the failed request has done is not known: the place is left alone.
            Err(error) => {
                self.report.errors.push(*error);
                return;
            }
        }
        if completion.op == IoOp::Read
            && let Some(offset) =
                place.pattern.difference(place.offset, completion.buffer.as_slice())
        {
            self.report.wrong.push(format!("{:?} at byte {offset}", place.pattern));
        }
        if stopping {
            return;
        }
        match completion.op {
            IoOp::Write => self.read(channel, at),
            _ => self.write(channel, at),
        }
    }
}
