//! Cutting a stream from another thread.

use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use socket2::Socket;

/// What a stream holds at the moment, so that somebody else can cut it.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    /// The event that a resolver signals.
    Event(Arc<OwnedFd>),
    Socket(Arc<Socket>),
}

/// Shared by a stream and the association it belongs to.
#[derive(Debug, Default)]
pub(crate) struct Switch {
    cut: AtomicBool,
    held: Mutex<Held>,
}

impl Switch {
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    pub(crate) fn hold_event(&self, event: &Arc<OwnedFd>) {
        self.hold(Held::Event(Arc::clone(event)));
    }

    pub(crate) fn hold_socket(&self, socket: &Arc<Socket>) {
        self.hold(Held::Socket(Arc::clone(socket)));
    }

    fn hold(&self, held: Held) {
        let mut guard = self.lock();
        *guard = held;
        // Either this sees the flag, or `cut` sees what is now held.
        if self.is_cut() {
            release(&guard);
        }
    }

    /// Cuts the stream: when this returns nothing is sent any more, not even what the operating
    /// system had taken, and whoever waits for the descriptor wakes up.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        let mut guard = self.lock();
        release(&guard);
        *guard = Held::Nothing;
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Errors mean that there is nothing left to cut.
fn release(held: &Held) {
    match held {
        Held::Nothing => {}
        Held::Event(event) => {
            let _ = rustix::io::write(event.as_ref(), &1u64.to_ne_bytes());
        }
        Held::Socket(socket) => {
            let _ = socket.shutdown(Shutdown::Both);
            // A shut-down socket still delivers, and retransmits, what it had been given: a write
            // could reach the controller long after its retry went another way. Dissolving the
            // connection throws that away.
            let _ = rustix::net::connect_unspec(socket.as_ref());
        }
    }
}
