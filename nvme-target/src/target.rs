//! The handle on a running target.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nvme_core::nqn::Nqn;
use parking_lot::Mutex;

use crate::ana::AnaState;
use crate::config::SubsystemConfig;
use crate::directory::Directory;
use crate::driven::DrivenTarget;
use crate::error::TargetError;
use crate::fault::{FaultId, FaultRule};
use crate::namespace::{NamespaceConfig, NamespaceIds};
use crate::stats::Stats;
use crate::subsystem::Subsystem;
use crate::tcp::event_loop::Worker;
use crate::tcp::listener::Claim;
use crate::tcp::mailbox::{Mailbox, Message};
use crate::tcp::wire::Wire;
use crate::transport::Transport;

/// Describes a target; see [`Target::builder`].
#[derive(Debug)]
pub struct TargetBuilder {
    subsystems: Vec<SubsystemConfig>,
    listen: Vec<String>,
    transport: Transport,
    threads: usize,
    busy_poll: Duration,
}

impl TargetBuilder {
    /// Adds a subsystem. All subsystems are reached through all listeners. The first one added is the one that the
    /// handle's own namespace and ANA methods act on.
    #[must_use]
    pub fn subsystem(mut self, subsystem: SubsystemConfig) -> Self {
        self.subsystems.push(subsystem);
        self
    }

    /// Adds a listener on `addr`, ADDRESS:PORT; port 0 takes a free one. Listeners are numbered from 0 in the order
    /// of these calls.
    #[must_use]
    pub fn listen(mut self, addr: &str) -> Self {
        self.listen.push(addr.to_owned());
        self
    }

    /// How the TCP front behaves.
    #[must_use]
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// Threads that connections are spread over in turn; 1 by default.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads.max(1);
        self
    }

    /// How long a thread goes on looking for commands after the last one, before it sleeps; not at all by default. A
    /// thread that sleeps takes a while to wake up, so a target that benches are run against is to stay awake; it
    /// uses a whole processor as long as there is I/O.
    #[must_use]
    pub fn busy_poll(mut self, time: Duration) -> Self {
        self.busy_poll = time;
        self
    }

    /// Makes a target that the caller drives, on streams and a clock of its own; listeners are numbered as for
    /// [`start`](Self::start), and their addresses (no names) are only told to hosts. Threads are not started.
    ///
    /// # Errors
    /// A configuration that is not possible.
    pub fn drive<S: Wire>(self) -> Result<DrivenTarget<S>, TargetError> {
        DrivenTarget::new(self.subsystems, &self.listen, self.transport)
    }

    /// Starts the target. It is reachable when this returns.
    ///
    /// # Errors
    /// A configuration that is not possible, an address that cannot be listened on, threads that cannot be started.
    pub fn start(self) -> Result<Target, TargetError> {
        let directory = Arc::new(Directory::new(self.transport)?);
        let mut first = None;
        for config in self.subsystems {
            let subsystem = Arc::new(Subsystem::new(config, false)?);
            directory.add_subsystem(Arc::clone(&subsystem))?;
            first.get_or_insert(subsystem);
        }
        let mut workers = (0..self.threads)
            .map(|number| Worker::new(number, Arc::clone(&directory), self.busy_poll))
            .collect::<Result<Vec<_>, _>>()
            .map_err(TargetError::EventLoop)?;
        let mailboxes: Vec<_> = workers.iter().map(Worker::mailbox).collect();
        workers.iter_mut().for_each(|w| w.join_team(mailboxes.clone()));

        // a target that is dropped half made ends the threads that it has started
        let mut target = Target {
            directory,
            first,
            listeners: Mutex::default(),
            mailboxes,
            threads: Vec::new(),
        };
        for (number, worker) in workers.into_iter().enumerate() {
            let thread = std::thread::Builder::new()
                .name(format!("nvme-target-{number}"))
                .spawn(move || worker.run())
                .map_err(TargetError::EventLoop)?;
            target.threads.push(thread);
        }
        for addr in &self.listen {
            target.add_listener(addr)?;
        }
        Ok(target)
    }
}

/// A running software target. Dropping it closes everything and waits for its threads.
///
/// All methods may be called from any thread. What a method does has happened when it returns, unless it says
/// otherwise.
///
/// ```
/// use nvme_target::{NamespaceConfig, SubsystemConfig, Target};
///
/// # fn main() -> Result<(), nvme_target::TargetError> {
/// let subsystem = SubsystemConfig::new("nqn.2026-01.org.example:sub")?
///     .namespace(NamespaceConfig::memory(1, 1 << 30));
/// let target = Target::builder().subsystem(subsystem).listen("127.0.0.1:0").start()?;
/// println!("tcp://{}/nqn.2026-01.org.example:sub", target.addr(0)?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Target {
    directory: Arc<Directory>,
    first: Option<Arc<Subsystem>>,
    listeners: Mutex<Vec<Claim>>,
    mailboxes: Vec<Arc<Mailbox>>,
    threads: Vec<JoinHandle<()>>,
}

/// A listener of a target; see [`Target::listener`].
#[derive(Clone, Copy, Debug)]
pub struct Listener<'a> {
    target: &'a Target,
    index: usize,
}

impl Target {
    /// Describes a target to start.
    #[must_use]
    pub fn builder() -> TargetBuilder {
        TargetBuilder {
            subsystems: Vec::new(),
            listen: Vec::new(),
            transport: Transport::default(),
            threads: 1,
            busy_poll: Duration::ZERO,
        }
    }

    pub(crate) fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    /// Adds a listener on `addr`, ADDRESS:PORT, to the running target; its number.
    ///
    /// # Errors
    /// [`TargetError::Address`], [`TargetError::Listen`].
    pub fn add_listener(&self, addr: &str) -> Result<usize, TargetError> {
        let bad = || TargetError::Address(addr.to_owned());
        let addr = addr.to_socket_addrs().map_err(|_| bad())?.next().ok_or_else(bad)?;
        let claim = Claim::new(addr).map_err(|source| TargetError::Listen { addr, source })?;
        let mut listeners = self.listeners.lock();
        let index = listeners.len();
        self.directory.add_listener(claim.addr());
        listeners.push(claim);
        self.open(&listeners, index)?;
        Ok(index)
    }

    /// The listener with this number.
    ///
    /// # Errors
    /// [`TargetError::NoListener`].
    pub fn listener(&self, index: usize) -> Result<Listener<'_>, TargetError> {
        if index < self.listeners.lock().len() {
            Ok(Listener { target: self, index })
        } else {
            Err(TargetError::NoListener(index))
        }
    }

    /// The address of the listener with this number, its port found if it was given as 0.
    ///
    /// # Errors
    /// [`TargetError::NoListener`].
    pub fn addr(&self, index: usize) -> Result<SocketAddr, TargetError> {
        let listeners = self.listeners.lock();
        listeners.get(index).map(Claim::addr).ok_or(TargetError::NoListener(index))
    }

    /// Closes all connections that came in through a listener. It goes on listening.
    ///
    /// # Errors
    /// [`TargetError::NoListener`], [`TargetError::Gone`].
    pub fn kill_connections(&self, listener: usize) -> Result<(), TargetError> {
        self.listener(listener)?;
        for mailbox in &self.mailboxes {
            self.ask(mailbox, |ack| Message::Kill { listener, ack })?;
        }
        Ok(())
    }

    /// Adds a subsystem to the running target.
    ///
    /// # Errors
    /// A configuration that is not possible, [`TargetError::DuplicateSubsystem`].
    pub fn add_subsystem(&self, config: SubsystemConfig) -> Result<Arc<Subsystem>, TargetError> {
        let subsystem = Arc::new(Subsystem::new(config, false)?);
        self.directory.add_subsystem(Arc::clone(&subsystem))?;
        Ok(subsystem)
    }

    /// Removes a subsystem and ends its associations.
    ///
    /// # Errors
    /// [`TargetError::NoSubsystem`].
    pub fn remove_subsystem(&self, nqn: &str) -> Result<(), TargetError> {
        let missing = || TargetError::NoSubsystem(nqn.to_owned());
        let nqn = Nqn::new(nqn).map_err(|_| missing())?;
        let subsystem = self.directory.remove_subsystem(&nqn).ok_or_else(missing)?;
        subsystem.close_all();
        Ok(())
    }

    /// The subsystem of this name, to change it or look at its controllers.
    ///
    /// # Errors
    /// [`TargetError::NoSubsystem`].
    pub fn subsystem(&self, nqn: &str) -> Result<Arc<Subsystem>, TargetError> {
        let missing = || TargetError::NoSubsystem(nqn.to_owned());
        let nqn = Nqn::new(nqn).map_err(|_| missing())?;
        if nqn.is_discovery() {
            return Err(missing());
        }
        self.directory.subsystem(&nqn).ok_or_else(missing)
    }

    /// The first subsystem that the target was started with.
    ///
    /// # Errors
    /// [`TargetError::NoSubsystem`] if it was started without any.
    pub fn first_subsystem(&self) -> Result<&Arc<Subsystem>, TargetError> {
        self.first.as_ref().ok_or_else(|| TargetError::NoSubsystem("(first)".into()))
    }

    /// [`Subsystem::set_ana`] of the first subsystem.
    ///
    /// # Errors
    /// [`TargetError::NoListener`] and those of the subsystem's method.
    pub fn set_ana(&self, listener: usize, group: u32, state: AnaState) -> Result<(), TargetError> {
        self.listener(listener)?;
        self.first_subsystem()?.set_ana(listener, group, state)
    }

    /// [`Subsystem::add_namespace`] of the first subsystem.
    ///
    /// # Errors
    /// Those of the subsystem's method.
    pub fn add_namespace(&self, namespace: NamespaceConfig) -> Result<(), TargetError> {
        self.first_subsystem()?.add_namespace(namespace)
    }

    /// [`Subsystem::remove_namespace`] of the first subsystem.
    ///
    /// # Errors
    /// Those of the subsystem's method.
    pub fn remove_namespace(&self, nsid: u32) -> Result<(), TargetError> {
        self.first_subsystem()?.remove_namespace(nsid)
    }

    /// [`Subsystem::resize_namespace`] of the first subsystem.
    ///
    /// # Errors
    /// Those of the subsystem's method.
    pub fn resize_namespace(&self, nsid: u32, bytes: u64) -> Result<(), TargetError> {
        self.first_subsystem()?.resize_namespace(nsid, bytes)
    }

    /// [`Subsystem::set_namespace_ids`] of the first subsystem.
    ///
    /// # Errors
    /// Those of the subsystem's method.
    pub fn set_namespace_ids(&self, nsid: u32, ids: NamespaceIds) -> Result<(), TargetError> {
        self.first_subsystem()?.set_namespace_ids(nsid, ids)
    }

    /// [`Subsystem::enable_namespace`] of the first subsystem.
    ///
    /// # Errors
    /// Those of the subsystem's method.
    pub fn enable_namespace(&self, nsid: u32, enabled: bool) -> Result<(), TargetError> {
        self.first_subsystem()?.enable_namespace(nsid, enabled)
    }

    /// Adds a fault. It holds for what arrives from now on.
    pub fn add_fault(&self, rule: FaultRule) -> FaultId {
        self.directory.faults.add(rule)
    }

    /// Removes a fault; how often it acted, or `None` if it was not there.
    pub fn remove_fault(&self, id: FaultId) -> Option<u64> {
        self.directory.faults.remove(id)
    }

    /// How often a fault has acted, or `None` if it is not there.
    #[must_use]
    pub fn fault_hits(&self, id: FaultId) -> Option<u64> {
        self.directory.faults.hits(id)
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.directory.counters.snapshot()
    }

    fn open(&self, listeners: &[Claim], index: usize) -> Result<(), TargetError> {
        let claim = listeners.get(index).ok_or(TargetError::NoListener(index))?;
        let listen_error = |source| TargetError::Listen { addr: claim.addr(), source };
        let socket = claim.listen().map_err(listen_error)?;
        self.listen(index, Some(socket))?;
        self.directory.set_listener_enabled(index, true);
        Ok(())
    }

    fn listen(
        &self,
        listener: usize,
        socket: Option<mio::net::TcpListener>,
    ) -> Result<(), TargetError> {
        let mailbox = self.mailboxes.first().ok_or(TargetError::Gone)?;
        self.ask(mailbox, |ack| Message::Listen { listener, socket, ack })
    }

    /// Has a worker do something, and waits until that is done.
    fn ask(
        &self,
        mailbox: &Mailbox,
        message: impl FnOnce(SyncSender<()>) -> Message,
    ) -> Result<(), TargetError> {
        let (ack, done): (SyncSender<()>, Receiver<()>) = sync_channel(0);
        mailbox.post(message(ack)).map_err(TargetError::EventLoop)?;
        // the worker drops its end when it is done, or when it dies
        let _ = done.recv();
        Ok(())
    }
}

impl Listener<'_> {
    /// The address, its port found if it was given as 0.
    ///
    /// # Errors
    /// [`TargetError::NoListener`].
    pub fn addr(&self) -> Result<SocketAddr, TargetError> {
        self.target.addr(self.index)
    }

    /// Stops accepting and closes all connections. The port stays taken: connecting to it is refused.
    ///
    /// # Errors
    /// [`TargetError::Gone`].
    pub fn disable(&self) -> Result<(), TargetError> {
        let listeners = self.target.listeners.lock();
        self.target.directory.set_listener_enabled(self.index, false);
        self.target.listen(self.index, None)?;
        drop(listeners);
        self.target.kill_connections(self.index)
    }

    /// Accepts again, on the same address.
    ///
    /// # Errors
    /// [`TargetError::Listen`] if the operating system does not let it.
    pub fn enable(&self) -> Result<(), TargetError> {
        let listeners = self.target.listeners.lock();
        // an enabled listener is replaced, and would refuse its successor the address until then
        self.target.listen(self.index, None)?;
        self.target.open(&listeners, self.index)
    }

    /// [`Target::kill_connections`] of this listener.
    ///
    /// # Errors
    /// Those of that method.
    pub fn kill_connections(&self) -> Result<(), TargetError> {
        self.target.kill_connections(self.index)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.directory.close_all();
        for mailbox in &self.mailboxes {
            // a worker that is gone needs no telling
            let _ = mailbox.post(Message::Stop);
        }
        for thread in self.threads.drain(..) {
            // a panic of a worker has been reported by the thread itself
            let _ = thread.join();
        }
    }
}
