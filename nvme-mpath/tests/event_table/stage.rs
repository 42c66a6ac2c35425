//! What the rows have in common.

use std::sync::Arc;

use nvme_core::time::Duration;
use nvme_fake::{Bench, quiet};
use nvme_mpath::{
    Controller, ControllerOptions, DelayedRemoval, Event, Head, HeadState, HostOptions, IoError,
    IoRequest, LossCause, Window,
};

pub const SECOND: Duration = Duration::from_secs(1);
/// The window of most rows.
pub const WINDOW: Duration = Duration::from_secs(10);

/// A controller that is given up this long after its loss.
pub fn given_up_after(time: Duration) -> ControllerOptions {
    let mut options = quiet();
    options.ctrl_loss_tmo = Some(time);
    options
}

/// A host whose heads have that window.
pub fn bench(windows: DelayedRemoval) -> Bench {
    bench_with(windows, |_| {})
}

pub fn bench_with(windows: DelayedRemoval, change: impl FnOnce(&mut HostOptions)) -> Bench {
    Bench::with(|options| {
        options.delayed_removal = windows;
        change(options);
    })
}

pub fn window() -> DelayedRemoval {
    DelayedRemoval::after(Window::For(WINDOW))
}

/// A head that lost its only path, at port `a`, this moment; its window is open.
pub fn pending() -> (Bench, Arc<Head>) {
    let mut bench = bench(window());
    let head = lost(&mut bench);
    assert!(is_pending(&head), "{:?}", head.state());
    assert_eq!((bench.host.pin_count(), bench.scheduled()), (1, 1));
    (bench, head)
}

/// Connects to port `a` and takes it away.
pub fn lost(bench: &mut Bench) -> Arc<Head> {
    bench.connect_with("a", given_up_after(Duration::ZERO));
    let head = bench.head(1).expect("a head");
    bench.world.pull("a");
    bench.settle();
    head
}

pub fn is_pending(head: &Head) -> bool {
    matches!(head.state(), HeadState::RemovalPending { .. })
}

pub fn is_gone(head: &Head) -> bool {
    matches!(head.state(), HeadState::Gone(_))
}

/// Time left of an open window.
pub fn remaining(head: &Head) -> Option<Duration> {
    match head.state() {
        HeadState::RemovalPending { remaining, .. } => remaining,
        other => panic!("{other:?}"),
    }
}

pub fn cause(head: &Head) -> LossCause {
    match head.state() {
        HeadState::RemovalPending { cause, .. }
        | HeadState::Removing(cause)
        | HeadState::Gone(cause) => cause,
        other => panic!("{other:?}"),
    }
}

/// What the rows ask of a bench.
pub trait Stage {
    /// Connects to a port anew, as a path that returns.
    fn returns(&mut self, port: &str) -> Controller;
    /// How often a removal was scheduled, cancelled, and carried out.
    fn scheduled(&self) -> usize;
    fn cancelled(&self) -> usize;
    fn removed(&self) -> usize;
    fn refused(&self) -> Vec<String>;
    /// A write that is parked.
    fn waits(&mut self, head: &Arc<Head>, user: u64);
    /// A write that is done.
    fn works(&mut self, head: &Arc<Head>, user: u64);
    /// A write and a read that fail, and how.
    fn fails(&mut self, head: &Arc<Head>) -> IoError;
}

impl Stage for Bench {
    fn returns(&mut self, port: &str) -> Controller {
        self.world.plug(port);
        self.connect_with(port, given_up_after(Duration::ZERO))
    }

    fn scheduled(&self) -> usize {
        self.count(|e| matches!(e, Event::RemovalScheduled { .. }))
    }

    fn cancelled(&self) -> usize {
        self.count(|e| matches!(e, Event::RemovalCancelled { .. }))
    }

    fn removed(&self) -> usize {
        self.count(|e| matches!(e, Event::HeadRemoved { .. }))
    }

    fn refused(&self) -> Vec<String> {
        let reason = |e: &Event| match e {
            Event::NamespaceRefused { reason, .. } => Some(reason.clone()),
            _ => None,
        };
        self.log.iter().filter_map(reason).collect()
    }

    fn waits(&mut self, head: &Arc<Head>, user: u64) {
        let before = self.channel.parked();
        self.write(head, user, user);
        self.settle();
        assert_eq!((self.done.len(), self.channel.parked()), (0, before + 1), "{:?}", self.done);
    }

    fn works(&mut self, head: &Arc<Head>, user: u64) {
        self.write(head, user, user);
        self.settle();
        let done = self.one();
        assert_eq!((done.user_data, &done.result), (user, &Ok(())), "{done:?}");
    }

    fn fails(&mut self, head: &Arc<Head>) -> IoError {
        self.channel.submit(head, IoRequest::read(0, vec![0; 512].into(), 1)).unwrap();
        self.settle();
        let read = *self.one().result.expect_err("no path");
        self.write(head, 1, 1);
        self.settle();
        let write = *self.one().result.expect_err("no path");
        assert_eq!(read, write);
        write
    }
}
