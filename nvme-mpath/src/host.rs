//! The host: what a program makes first and shuts down last.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;

use nvme_core::memory::{Arena, DmaBuf, Memory};
use nvme_core::nqn::Nqn;
use nvme_core::time::{Clock, Duration, Instant};
use nvme_core::transport::Endpoint;
use parking_lot::{Condvar, Mutex};

use crate::channel::Channel;
use crate::control::Control;
use crate::controller::{Controller, ControllerStatus, Facts};
use crate::error::HostError;
use crate::event::{EventBus, Events};
use crate::head::Head;
use crate::ids::{ChannelId, ControllerId};
use crate::mailbox::{ChannelShared, Command, Commands};
use crate::memory::{self, MemoryPool};
use crate::numa::NumaTopology;
use crate::options::{ChannelOptions, ControllerOptions, HostOptions};
use crate::pin::{KeepFor, PinGuard, PinHolder, PinLedger, PinReason, PinsClosed};
use crate::policy::{PathPolicy, Policies};
use crate::unstopped::Unstopped;
use crate::window::DelayedRemoval;

/// Longest single wait; longer ones are made of several.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// How long the end of a host waits for devices to stop where the program sets no limit.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(5);

/// What all handles of a host have in common.
pub(crate) struct Shared {
    pub(crate) options: HostOptions,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) commands: Commands,
    pub(crate) events: EventBus,
    pub(crate) ledger: Arc<PinLedger>,
    /// Heads that are not gone, by instance.
    pub(crate) heads: Mutex<BTreeMap<u32, Arc<Head>>>,
    pub(crate) controllers: Mutex<BTreeMap<ControllerId, Arc<ControllerStatus>>>,
    /// Devices that were given up and have not stopped.
    pub(crate) unstopped: Mutex<Vec<Unstopped>>,
    /// The windows of new heads.
    pub(crate) delayed_removal: Mutex<DelayedRemoval>,
    memory: MemoryPool,
    pub(crate) policies: Mutex<Policies>,
    pub(crate) numa: Arc<NumaTopology>,
    /// Set when the control plane has ended.
    pub(crate) ended: AtomicBool,
    next_controller: AtomicU32,
    next_channel: AtomicU32,
    /// The control plane, when the program drives it.
    control: Mutex<Option<Control>>,
    /// Moved by the control plane whenever it did something.
    progress: Mutex<u64>,
    progressed: Condvar,
}

impl Shared {
    /// Waits until `look` finds something, at most `limit`. Drives the control plane meanwhile, if
    /// that is the program's to do.
    pub(crate) fn wait_for<R>(
        &self,
        limit: Duration,
        mut look: impl FnMut() -> Option<R>,
    ) -> Option<R> {
        let began = std::time::Instant::now();
        let mut progress = self.progress.lock();
        loop {
            // Read before the look: what was done before the end is found.
            let ended = self.ended.load(Ordering::Acquire);
            if let Some(found) = look() {
                return Some(found);
            }
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() || ended {
                return None;
            }
            // A condition variable cannot wait for ever.
            let left = left.min(LONGEST_WAIT);
            if self.options.control_thread {
                self.progressed.wait_for(&mut progress, left);
            } else {
                drop(progress);
                self.drive(left.min(Duration::from_millis(100)));
                progress = self.progress.lock();
            }
        }
    }

    pub(crate) fn made_progress(&self) {
        *self.progress.lock() += 1;
        self.progressed.notify_all();
    }

    pub(crate) fn drive(&self, limit: Duration) -> bool {
        let mut control = self.control.lock();
        let goes_on = control.as_mut().is_some_and(|c| c.turn(limit));
        if !goes_on {
            *control = None;
        }
        // The observer may use the host.
        drop(control);
        self.events.deliver();
        goes_on
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({})", self.options.hostnqn)
    }
}

/// An NVMe host: controllers, the heads made of them, and the control plane that looks after both.
///
/// Methods may be called from any thread. Dropping the host does not stop what is pinned: the
/// control thread ends when no pin is out and no channel is open. A host that the program drives
/// itself ends with its handle. [`Host::shutdown`] is the orderly end.
pub struct Host {
    pub(crate) shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Host {
    /// Makes a host and, unless told otherwise, starts its control thread.
    ///
    /// # Errors
    /// [`HostError::System`] when the operating system gives no descriptor or no thread.
    pub fn new(options: HostOptions) -> Result<Self, HostError> {
        let system =
            |what| move |e: std::io::Error| HostError::System { what, reason: e.to_string() };
        let shared = Arc::new(Shared {
            clock: Arc::clone(&options.clock),
            commands: Commands::new().map_err(system("making an event descriptor"))?,
            events: EventBus::new(options.observer.clone()),
            ledger: PinLedger::new(options.keep_alive.clone()),
            heads: Mutex::default(),
            controllers: Mutex::default(),
            unstopped: Mutex::default(),
            delayed_removal: Mutex::new(options.delayed_removal),
            memory: MemoryPool::default(),
            policies: Mutex::new(Policies { host: options.policy, ..Policies::default() }),
            numa: Arc::new(options.numa.clone().unwrap_or_else(NumaTopology::system)),
            ended: AtomicBool::new(false),
            next_controller: AtomicU32::new(0),
            next_channel: AtomicU32::new(0),
            control: Mutex::new(None),
            progress: Mutex::new(0),
            progressed: Condvar::new(),
            options,
        });
        let mut control =
            Control::new(Arc::clone(&shared)).map_err(system("making an event queue"))?;
        let mut thread = None;
        if shared.options.control_thread {
            let builder = std::thread::Builder::new().name("nvme-host".into());
            let keep =
                shared.options.keep_alive.clone().map(|keeper| keeper(KeepFor::ControlThread));
            let told = Arc::clone(&shared);
            let run = move || {
                while control.turn(Duration::MAX) {
                    told.events.deliver();
                }
                told.events.deliver();
                drop(control);
                drop(told);
                drop(keep);
            };
            thread = Some(builder.spawn(run).map_err(system("starting the control thread"))?);
        } else {
            *shared.control.lock() = Some(control);
        }
        Ok(Self { shared, thread: Mutex::new(thread) })
    }

    /// Runs the control plane for at most `limit`, or until something was done. For hosts made
    /// without a control thread; does nothing otherwise. Returns `false` when the host has ended.
    pub fn drive(&self, limit: Duration) -> bool {
        if self.shared.options.control_thread {
            return !self.shared.ended.load(Ordering::Acquire);
        }
        self.shared.drive(limit)
    }

    /// When [`drive`](Self::drive) has something to do even if no descriptor becomes readable: at
    /// once when letters of the program or of its channels wait. `None`: not before somebody asks
    /// for something or a peer says something, or the host has a control thread. On the host's clock.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let now = self.shared.clock.now();
        let control = self.shared.control.lock();
        let control = control.as_ref()?;
        if self.shared.commands.is_empty() { control.deadline(now) } else { Some(now) }
    }

    /// Begins to connect to the controller at `url`. Returns at once; what becomes of it is seen on
    /// the handle and in events. Connecting twice to the same URL makes two controllers.
    ///
    /// # Errors
    /// A URL that cannot be used, or [`HostError::Shutdown`].
    pub fn connect(&self, url: &str, options: ControllerOptions) -> Result<Controller, HostError> {
        let endpoint = self.endpoint(url)?;
        if self.shared.ended.load(Ordering::Acquire) {
            return Err(HostError::Shutdown);
        }
        let id = self.shared.next_controller.fetch_add(1, Ordering::Relaxed);
        let status = Arc::new(ControllerStatus {
            id: ControllerId::from_raw(id),
            address: Arc::from(endpoint.address()),
            facts: Mutex::new(Facts::new(self.shared.clock.now())),
            marginal: AtomicBool::new(options.marginal),
            latency: Mutex::default(),
        });
        self.shared.controllers.lock().insert(status.id, Arc::clone(&status));
        let options = Box::new(options);
        let connect = Command::Connect { status: Arc::clone(&status), endpoint, options };
        self.shared.commands.send(connect);
        Ok(Controller { status, host: Arc::clone(&self.shared) })
    }

    /// The endpoint that `url` names.
    fn endpoint(&self, url: &str) -> Result<Arc<dyn Endpoint>, HostError> {
        let transports = &self.shared.options.transports;
        let scheme = url.split_once("://").map_or("", |(s, _)| s);
        match transports.iter().find(|t| t.scheme() == scheme) {
            Some(transport) => Ok(transport.endpoint(url)?),
            None => Err(HostError::UnknownScheme {
                url: url.into(),
                known: transports.iter().map(|t| t.scheme()).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Makes a channel: the data plane of one thread.
    ///
    /// # Errors
    /// [`HostError::System`] when the operating system gives no descriptor;
    /// [`HostError::Shutdown`].
    pub fn channel(&self, options: ChannelOptions) -> Result<Channel, HostError> {
        if self.shared.ended.load(Ordering::Acquire) {
            return Err(HostError::Shutdown);
        }
        let system = |e: std::io::Error| HostError::System {
            what: "making a channel's descriptors",
            reason: e.to_string(),
        };
        let id = ChannelId(self.shared.next_channel.fetch_add(1, Ordering::Relaxed));
        let letters = Arc::new(ChannelShared::new(id, options.latency_histograms).map_err(system)?);
        let channel = Channel::new(Arc::clone(&self.shared), Arc::clone(&letters), options);
        let channel = channel.map_err(system)?;
        self.shared.commands.send(Command::ChannelOpened(letters));
        Ok(channel)
    }

    /// Allocates `len` bytes, one at least, rounded up to 64, that the controllers of all transports
    /// reach without a copy, those that are connected later as well. Made a request's buffer by
    /// [`Buffer::from`](nvme_core::buffer::Buffer), and to be used again and again: it is taken out
    /// of regions of 2 MiB or more, which are mapped for each device. What it holds is left from
    /// earlier use. It may outlive the host.
    ///
    /// A controller that cannot reach such memory all the same (no huge pages where there is no
    /// IOMMU) gets its data through copies, which its transport counts.
    ///
    /// # Errors
    /// [`HostError::Memory`] if there is none, or a connected device could not be given it; where
    /// `RLIMIT_MEMLOCK` is too small the text has the number that is needed.
    pub fn dma_buf(&self, len: usize) -> Result<DmaBuf, HostError> {
        let transports = &self.shared.options.transports;
        self.shared.memory.take(len, transports).map_err(HostError::Memory)
    }

    /// Makes memory of the program reachable for the controllers of all transports, those that are
    /// connected later as well, so that data in it is not copied. The registration ends when what is
    /// returned, and every [`DmaBuf`] taken out of it, is dropped; commands that use the memory by
    /// raw pointers must have ended then, or they fail.
    ///
    /// # Errors
    /// As for [`Host::dma_buf`].
    pub fn register_memory(&self, memory: Memory) -> Result<Arc<Arena>, HostError> {
        memory::register(memory, &self.shared.options.transports).map_err(HostError::Memory)
    }

    /// Subscribes to events from now on. At most `capacity` wait unread; see [`Events`].
    #[must_use]
    pub fn events(&self, capacity: usize) -> Events {
        self.shared.events.subscribe(capacity)
    }

    /// All heads that are not gone, oldest first.
    #[must_use]
    pub fn heads(&self) -> Vec<Arc<Head>> {
        self.shared.heads.lock().values().cloned().collect()
    }

    /// The head of a namespace, if there is one.
    #[must_use]
    pub fn head(&self, subnqn: &Nqn, nsid: u32) -> Option<Arc<Head>> {
        let heads = self.shared.heads.lock();
        heads.values().find(|h| h.nsid == nsid && h.subnqn == *subnqn).cloned()
    }

    /// Waits for the head of a namespace.
    ///
    /// # Errors
    /// [`HostError::Timeout`] after `limit`.
    pub fn wait_head(
        &self,
        subnqn: &Nqn,
        nsid: u32,
        limit: Duration,
    ) -> Result<Arc<Head>, HostError> {
        self.shared.wait_for(limit, || self.head(subnqn, nsid)).ok_or_else(|| HostError::Timeout {
            what: format!("appearance of {subnqn}/{nsid}"),
            limit,
        })
    }

    /// Waits for the head of namespace `nsid` of whatever subsystem; the oldest one if there are
    /// several.
    ///
    /// # Errors
    /// [`HostError::Timeout`] after `limit`.
    pub fn wait_any_head(&self, nsid: u32, limit: Duration) -> Result<Arc<Head>, HostError> {
        let find = || self.shared.heads.lock().values().find(|h| h.nsid == nsid).cloned();
        self.shared.wait_for(limit, find).ok_or_else(|| HostError::Timeout {
            what: format!("appearance of namespace {nsid}"),
            limit,
        })
    }

    /// All controllers that are not gone for good, oldest first.
    #[must_use]
    pub fn controllers(&self) -> Vec<Controller> {
        let controllers = self.shared.controllers.lock();
        let handle = |status: &Arc<ControllerStatus>| Controller {
            status: Arc::clone(status),
            host: Arc::clone(&self.shared),
        };
        controllers.values().map(handle).collect()
    }

    /// Devices that were given up and that nothing has stopped yet, oldest first.
    #[must_use]
    pub fn unstopped(&self) -> Vec<Unstopped> {
        self.shared.unstopped.lock().clone()
    }

    /// Sets the windows of heads that are made from now on.
    pub fn set_delayed_removal(&self, windows: impl Into<DelayedRemoval>) {
        *self.shared.delayed_removal.lock() = windows.into();
    }

    /// Sets the policy of heads for which none is set, neither their own nor their subsystem's. In
    /// effect with the next request that any channel sends.
    pub fn set_policy(&self, policy: PathPolicy) {
        self.shared.policies.lock().host = policy;
        self.policies_changed();
    }

    /// Sets the policy of the heads of one subsystem that have none of their own, those that are
    /// yet to come included; `None` leaves it to the host again.
    pub fn set_subsystem_policy(&self, subnqn: &Nqn, policy: Option<PathPolicy>) {
        let mut policies = self.shared.policies.lock();
        match policy {
            Some(policy) => _ = policies.subsystems.insert(subnqn.clone(), policy),
            None => _ = policies.subsystems.remove(subnqn),
        }
        drop(policies);
        self.policies_changed();
    }

    fn policies_changed(&self) {
        self.heads().iter().for_each(|head| head.publish());
        self.shared.commands.send(Command::HeadChanged);
    }

    /// The windows of heads that are made from now on.
    #[must_use]
    pub fn delayed_removal(&self) -> DelayedRemoval {
        *self.shared.delayed_removal.lock()
    }

    /// Pins that are out. One per pending removal, and those of the program.
    #[must_use]
    pub fn pin_count(&self) -> usize {
        self.shared.ledger.count()
    }

    /// The most pins that were ever out at once.
    #[must_use]
    pub fn pins_peak(&self) -> usize {
        self.shared.ledger.peak()
    }

    /// Who holds the pins that are out.
    #[must_use]
    pub fn pins(&self) -> Vec<PinHolder> {
        self.shared.ledger.holders()
    }

    /// Takes a pin: the host cannot be shut down, unless by force, until it is dropped.
    ///
    /// # Errors
    /// [`PinsClosed`] when the host is shutting down.
    pub fn pin(&self, reason: impl Into<String>) -> Result<PinGuard, PinsClosed> {
        let reason = PinReason::User(reason.into());
        PinLedger::pin(&self.shared.ledger, reason, self.shared.clock.now())
    }

    /// Shuts the host down: disconnects all controllers, removes all heads, ends the control plane.
    /// Requests that are under way fail with [`IoError::Shutdown`](crate::IoError::Shutdown) when
    /// their channel is next polled; those that a device has which does not stop, when it has. Waits
    /// for devices to stop, for five seconds at most.
    ///
    /// # Errors
    /// [`HostError::Busy`] with the holders when pins are out; then nothing was done.
    /// [`HostError::Unstopped`] with the devices that have not stopped; all was done.
    pub fn shutdown(&self) -> Result<(), HostError> {
        self.shared.ledger.close_if_unpinned().map_err(HostError::Busy)?;
        self.end(STOP_LIMIT)
    }

    /// Shuts the host down although pins are out: pending removals are carried out at once, parked
    /// requests fail. Waits at most `limit` for devices to stop and for the pins that the program holds
    /// itself.
    ///
    /// # Errors
    /// [`HostError::Busy`] with the holders if some are left after `limit`, else
    /// [`HostError::Unstopped`] with the devices that have not stopped by then; the rest was done.
    pub fn shutdown_forced(&self, limit: Duration) -> Result<(), HostError> {
        let began = std::time::Instant::now();
        self.shared.ledger.close();
        let ended = self.end(limit);
        while self.pin_count() > 0 {
            if began.elapsed() >= limit {
                return Err(HostError::Busy(self.pins()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        ended
    }

    /// Begins what [`shutdown`](Self::shutdown) does, or with `force` what
    /// [`shutdown_forced`](Self::shutdown_forced) does, and returns at once. For hosts that the
    /// program drives: the end is there when [`drive`](Self::drive) returns `false`, and what has not
    /// stopped by then is in [`unstopped`](Self::unstopped).
    ///
    /// # Errors
    /// [`HostError::Busy`] with the holders when pins are out and `force` is not given; then nothing
    /// was done.
    pub fn begin_shutdown(&self, force: bool) -> Result<(), HostError> {
        if force {
            self.shared.ledger.close();
        } else {
            self.shared.ledger.close_if_unpinned().map_err(HostError::Busy)?;
        }
        self.shared.commands.send(Command::Shutdown { limit: STOP_LIMIT });
        Ok(())
    }

    /// Devices have `limit` to stop.
    fn end(&self, limit: Duration) -> Result<(), HostError> {
        self.shared.commands.send(Command::Shutdown { limit });
        if self.shared.options.control_thread {
            if let Some(thread) = self.thread.lock().take() {
                // A panic of the control thread was printed by it already.
                let _ = thread.join();
            }
        } else {
            while self.shared.drive(Duration::from_millis(100)) {}
        }
        let left = self.unstopped();
        if left.is_empty() { Ok(()) } else { Err(HostError::Unstopped(left)) }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.shared.commands.send(Command::Orphaned);
        if !self.shared.options.control_thread {
            // Nobody is left to drive it; and it refers to what refers to it.
            let control = self.shared.control.lock().take();
            if let Some(mut control) = control {
                control.abandon();
                drop(control);
                self.shared.events.deliver();
            }
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.shared, f)
    }
}
