//! What these tests begin with.
use std::sync::Arc;
use std::time::Duration;

use nvme_e2e::{Bed, Pattern, Removal, Session, Software};
use nvme_mpath::{Channel, ControllerOptions, DelayedRemoval, Head, HeadState};

pub const OLD: Pattern = Pattern { salt: 7, version: 1 };
pub const NEW: Pattern = Pattern { salt: 7, version: 2 };
pub const LEN: usize = 4096;

/// A head of a session, with a channel.
pub struct Case {
    pub bed: Software,
    pub session: Session,
    pub head: Arc<Head>,
    pub channel: Channel,
}

impl Case {
    /// Namespace 1, reached through port 1, with a window; namespace 2 has none.
    pub fn new(windows: impl Into<DelayedRemoval>) -> Self {
        Self::on(Software::new(), &ControllerOptions::default(), windows)
    }

    pub fn on(
        bed: Software,
        options: &ControllerOptions,
        windows: impl Into<DelayedRemoval>,
    ) -> Self {
        let session = Session::new(&bed);
        session.connect(&bed, 1, options);
        let head = session.head(1);
        head.set_delayed_removal(windows);
        let channel = session.channel();
        Self { bed, session, head, channel }
    }

    /// Takes the last path away in an orderly manner. The channel gives its queue up meanwhile.
    pub fn lose(&mut self) {
        for controller in self.session.host.controllers() {
            controller.disconnect();
        }
        let mut done = Vec::new();
        nvme_e2e::wait_until("a pending removal", || {
            self.channel.poll(&mut done);
            matches!(self.head.state(), HeadState::RemovalPending { .. })
        });
        assert!(done.is_empty(), "nothing was under way: {done:?}");
        assert_eq!(self.session.host.pin_count(), 1, "{:?}", self.session.host.pins());
    }

    /// Connects again, through a port.
    pub fn regain(&self, port: u16) {
        let _ = self.session.connect(&self.bed, port, &ControllerOptions::default());
        self.session.wait_usable(&self.head, 1);
        nvme_e2e::wait_until("the pin to be back", || self.session.host.pin_count() == 0);
    }

    /// The steps of the head's removal so far.
    pub fn steps(&self) -> Vec<Removal> {
        self.session.story(&self.head).into_iter().map(|(step, _)| step).collect()
    }

    /// The NQN's URL at port 1, with other options than the default.
    pub fn url(&self) -> String {
        self.bed.url(1)
    }
}

pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}
