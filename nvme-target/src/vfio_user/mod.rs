//! A server that offers a [`PciDevice`] to another process on a Unix socket, by vfio-user.
//!
//! Registers and set-up go by messages. Doorbells are in a file that the client maps, and a thread
//! looks at them; host memory is in files that the client sends. So no message is sent per command.

mod bus;
mod config_space;
mod session;
mod shared;
mod wire;

use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nvme_core::spec::registers::offset::DOORBELLS;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::pci::PciDevice;
use session::Session;

/// How often the thread that accepts clients looks whether it is to end.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// Looks at the doorbells without a find, after which the device's thread begins to sleep between
/// looks, and for how long.
const IDLE_LOOKS: u32 = 1000;
const IDLE_SLEEP: Duration = Duration::from_micros(100);

/// Offers a device on a Unix socket until it is dropped. One client at a time; the next one waits.
///
/// When a client goes, however it does, the device is reset and the client's memory let go. A client
/// is trusted to leave the files that it shares as long as they were when it mapped them.
#[derive(Debug)]
pub struct VfioUserServer {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    device: PciDevice,
    stop: AtomicBool,
    /// Messages are not answered.
    mute: AtomicBool,
    client: Mutex<Option<UnixStream>>,
}

impl VfioUserServer {
    /// Offers `device` at `path`, where nothing may be yet. The device must have room for doorbells,
    /// and its BAR must be a multiple of 4 KiB long.
    ///
    /// # Errors
    /// What the operating system says; `InvalidInput` for such a BAR.
    pub fn bind(path: impl AsRef<Path>, device: &PciDevice) -> io::Result<Self> {
        if device.bar_len() <= DOORBELLS || !device.bar_len().is_multiple_of(DOORBELLS) {
            let text = format!("a BAR of {} bytes cannot be offered", device.bar_len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let path = path.as_ref().to_owned();
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        let stop = AtomicBool::new(false);
        let (mute, client) = (AtomicBool::new(false), Mutex::new(None));
        let shared = Arc::new(Shared { device: device.clone(), stop, mute, client });
        let thread = thread::Builder::new().name("nvme-target-vfio-user".into()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.run(&listener)
        })?;
        Ok(Self { path, shared, thread: Some(thread) })
    }

    /// Where clients connect.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A fault: messages are not answered any more, until it is taken back. The device goes on.
    pub fn set_mute(&self, mute: bool) {
        self.shared.mute.store(mute, Ordering::Release);
    }

    /// Breaks the connection to the client, if there is one, without a word, as a server does that
    /// ends. It may connect again.
    pub fn disconnect(&self) {
        if let Some(client) = &*self.shared.client.lock() {
            // The other direction is shut by the session when it has let the client's memory go.
            let _ = client.shutdown(Shutdown::Read);
        }
    }
}

impl Drop for VfioUserServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.set_mute(false);
        self.disconnect();
        if let Some(thread) = self.thread.take() {
            // a panic of the thread has been reported by itself
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn run(&self, listener: &UnixListener) {
        while !self.stopped() {
            let mut fds = [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
            let _ = poll(&mut fds, Some(&TICK));
            let Ok((stream, _)) = listener.accept() else { continue };
            let Ok(second) = stream.try_clone() else { continue };
            *self.client.lock() = Some(second);
            // Stopped between the accept and now: nobody has shut this one down.
            if !self.stopped() {
                self.serve(&stream);
            }
            *self.client.lock() = None;
        }
    }

    /// Serves one client. A client that breaks the protocol is sent away.
    fn serve(&self, stream: &UnixStream) {
        if stream.set_nonblocking(false).is_err() {
            return;
        }
        let Ok(mut session) = Session::new(stream, &self.device) else { return };
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let looks = thread::Builder::new()
                .name("nvme-target-doorbells".into())
                .spawn_scoped(scope, || self.look(&over));
            if looks.is_ok() {
                let _ = session.serve(&self.mute);
            }
            over.store(true, Ordering::Release);
        });
        // Only now, so that a client that sees the end knows that its memory is touched no more.
        drop(session);
        let _ = stream.shutdown(Shutdown::Both);
    }

    /// Steps the device until the client has gone.
    fn look(&self, over: &AtomicBool) {
        let mut idle = 0;
        while !over.load(Ordering::Acquire) {
            if self.device.step() {
                idle = 0;
            } else if idle < IDLE_LOOKS {
                idle += 1;
                thread::yield_now();
            } else {
                thread::sleep(IDLE_SLEEP);
            }
        }
    }
}
