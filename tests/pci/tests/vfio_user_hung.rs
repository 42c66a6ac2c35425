//! Servers over vfio-user that hang with requests under way: what they have is theirs until they have closed
//! their end, and all else goes on.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nvme_core::controller::{RemovedCause, State};
use nvme_core::memory::{Arena, Memory};
use nvme_e2e::{ChannelExt, LIMIT, Pattern, persistent, wait_until};
use nvme_mpath::{
    Channel, ChannelOptions, Controller, ControllerOptions, Event, Head, Host, HostError,
    IoCompletion, IoError, IoRequest,
};
use nvme_pci_guest::{head, host};
use nvme_target::{
    NamespaceConfig, PciConfig, PciDevice, PciFault, SubsystemConfig, Target, VfioUserServer,
};

const NQN: &str = "nqn.2026-01.org.example:hung";
/// For how long nothing may come back: longer than a register access, all attempts to stop a device, and
/// the time after which a device is said not to stop.
const WATCHED: Duration = Duration::from_secs(5);
/// How long the driver leaves a device alone that it could not stop.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Where the server of [`server_process`] is to listen.
const SOCKET: &str = "NVME_TEST_HUNG_SERVER";

fn path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("nvme-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

fn url(path: &std::path::Path) -> String {
    format!("vfio-user://{}", path.display())
}

fn target() -> Target {
    let namespace = NamespaceConfig::memory(1, 64 << 20).block_size(512);
    let subsystem = SubsystemConfig::new(NQN).expect("a name").namespace(namespace);
    Target::builder().subsystem(subsystem).start().expect("a target")
}

/// Two devices of one subsystem, each behind a server.
struct Bed {
    _target: Target,
    devices: [PciDevice; 2],
    servers: [VfioUserServer; 2],
}

impl Bed {
    fn new(name: &str) -> Self {
        let target = target();
        let device = || PciDevice::new(&target, NQN, PciConfig::new()).expect("a device");
        let devices = [device(), device()];
        let server = |n: usize| {
            let path = path(&format!("{name}-{n}"));
            VfioUserServer::bind(path, &devices[n]).expect("a server")
        };
        let servers = [server(0), server(1)];
        Self { _target: target, devices, servers }
    }

    fn url(&self, n: usize) -> String {
        url(self.servers[n].path())
    }

    /// Has the first device take a read, and write again and again to where its data are to go, and a
    /// write; then nothing is answered any more.
    fn hang(&self, channel: &mut Channel, head: &Arc<Head>, read: IoRequest, write: IoRequest) {
        let mut done = Vec::new();
        self.devices[0].add_fault(PciFault::Stall);
        channel.submit(head, read).expect("room");
        channel.submit(head, write).expect("room");
        wait_until("both to be kept", || {
            channel.poll(&mut done);
            self.devices[0].kept() == 2
        });
        self.servers[0].set_mute(true);
        assert!(done.is_empty(), "{done:?}");
    }
}

/// Polls for some time, in which nothing may come back.
fn watch(channel: &mut Channel, time: Duration) {
    let until = Instant::now() + time;
    let mut done = Vec::new();
    while Instant::now() < until {
        channel.poll(&mut done);
        assert!(done.is_empty(), "given back while the device may write to it: {done:?}");
        channel.wait(Duration::from_millis(10));
    }
}

fn by_number(mut done: Vec<IoCompletion>) -> Vec<IoCompletion> {
    done.sort_by_key(|d| d.user_data);
    done
}

fn bytes(pattern: Pattern, slba: u64) -> nvme_core::buffer::Buffer {
    pattern.bytes(slba * 512, 4096).into()
}

#[test]
fn what_it_has_waits_and_the_other_path_goes_on() {
    let bed = Bed::new("mute");
    let host = host();
    let events = host.events(1 << 10);
    let head = head(&host, &bed.url(0), NQN, 1, persistent());
    let hung = host.controllers().remove(0);
    let mut options = persistent();
    options.marginal = true;
    let other = host.connect(&bed.url(1), options).expect("a URL");
    other.wait_ready(LIMIT).expect("a second path");
    let mut channel = host.channel(ChannelOptions::default()).expect("a channel");
    let [old, new, last] = [1, 2, 3].map(|version| Pattern { salt: 1, version });
    // The channel's queues come one after the other; the first controller's is used if it is there.
    wait_until("the first path", || {
        channel.put(&head, 0, 4096, old);
        let snapshot = host.snapshot();
        snapshot.controller(hung.id().as_u32()).is_some_and(|c| c.commands > 0)
    });
    assert_eq!(other.state(), State::Live);

    let memory = host.dma_buf(4096).expect("memory");
    let (read, write) =
        (IoRequest::read(0, memory.into(), 1), IoRequest::write(8, bytes(new, 8), 2));
    bed.hang(&mut channel, &head, read, write);
    wait_until("the loss", || hung.state() != State::Live);
    assert_eq!(hung.state(), State::Resetting);
    // It is told right after the state.
    wait_until("a reason", || hung.last_error().is_some());
    let reason = hung.last_error().map(|error| error.to_string()).unwrap_or_default();
    assert!(reason.contains("the server does not answer"), "{reason}");
    // The other path takes what is new at once; what would be undone by what is under way waits.
    channel.put(&head, 64, 4096, new);
    channel.check(&head, 64, 4096, new);
    channel.submit(&head, IoRequest::write(8, bytes(last, 8), 3)).expect("room");
    watch(&mut channel, WATCHED);
    assert_eq!((bed.devices[0].kept(), channel.held()), (2, 1));
    assert_ne!(hung.state(), State::Live);
    let unstopped = host.snapshot().unstopped;
    assert_eq!(unstopped.len(), 1, "{unstopped:?}");
    assert_eq!(
        (unstopped[0].controller, &*unstopped[0].address),
        (hung.id().as_u32(), &**hung.address())
    );
    let told = std::iter::from_fn(|| events.try_next())
        .filter(|e| matches!(&e.event, Event::DeviceUnstopped { controller, .. } if *controller == hung.id()));
    assert_eq!(told.count(), 1);

    bed.devices[0].clear_faults();
    bed.servers[0].set_mute(false);
    let done = by_number(channel.finish(3));
    assert_eq!(done.iter().map(|d| d.user_data).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(done.iter().all(|d| d.result.is_ok()), "{done:?}");
    assert_eq!(old.difference(0, done[0].buffer.as_slice()), None);
    channel.check(&head, 8, 4096, last);
    wait_until("the way back", || hung.state() == State::Live && host.unstopped().is_empty());
    watch(&mut channel, Duration::from_millis(100));
    host.shutdown_forced(LIMIT).expect("an end");
}

#[test]
fn neither_a_cancel_nor_the_loss_of_its_controller_gives_anything_back() {
    let bed = Bed::new("cancel");
    let host = host();
    let mut options = persistent();
    options.ctrl_loss_tmo = Some(Duration::from_secs(1));
    let head = head(&host, &bed.url(0), NQN, 1, options);
    let hung = host.controllers().remove(0);
    let mut channel = host.channel(ChannelOptions::default()).expect("a channel");
    let memory = host.dma_buf(4096).expect("memory");
    let pattern = Pattern { salt: 2, version: 1 };
    let read = IoRequest::read(0, memory.into(), 1).timeout(Duration::from_millis(100));
    bed.hang(&mut channel, &head, read, IoRequest::write(8, bytes(pattern, 8), 2));
    wait_until("the loss", || hung.state() != State::Live);
    assert_eq!(channel.cancel(2), 1);
    watch(&mut channel, WATCHED);
    assert_eq!(hung.removed(), Some(RemovedCause::LossTimeout));
    assert_eq!((channel.in_flight(), host.unstopped().len()), (2, 1));

    // The server ends.
    let Bed { servers, .. } = bed;
    drop(servers);
    let done = by_number(channel.finish(2));
    let error = |n: usize| done[n].result.as_ref().expect_err("no path, and not wanted");
    assert!(matches!(**error(0), IoError::Expired { .. }), "{done:?}");
    assert!(matches!(**error(1), IoError::Cancelled { .. }), "{done:?}");
    assert!(done[1].uncertain && pattern.difference(8 * 512, done[1].buffer.as_slice()).is_none());
    wait_until("the end of it", || host.unstopped().is_empty());
    host.shutdown_forced(LIMIT).expect("an end");
}

/// Notes when it is dropped.
struct Owner(Arc<AtomicBool>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Registers a page of the program's; tells when nobody reaches it any more.
fn register(host: &Host, file: &std::path::Path) -> (Arc<Arena>, Arc<AtomicBool>) {
    let given_back = Arc::new(AtomicBool::new(false));
    let pages = Memory::zeroed(4096).expect("a page");
    let (at, len) = (pages.as_ptr(), pages.len());
    let owner = Box::new((pages, Owner(Arc::clone(&given_back))));
    let file = std::fs::File::create_new(file).expect("a file");
    file.set_len(len as u64).expect("room in it");
    // SAFETY: a page that the owner keeps.
    let memory = unsafe { Memory::from_raw_parts(at, len, owner) }.backed_by(file.into(), 0);
    (host.register_memory(memory).expect("memory that can be mapped"), given_back)
}

#[test]
fn memory_that_it_reaches_is_kept_though_nobody_registers_it_any_more() {
    let bed = Bed::new("memory");
    let host = host();
    let head = head(&host, &bed.url(0), NQN, 1, persistent());
    let hung = host.controllers().remove(0);
    let file = path("memory-file");
    let (well, given_back) = register(&host, &file);
    std::fs::remove_file(&file).expect("the file");
    drop(well);
    assert!(given_back.load(Ordering::SeqCst), "a server that answers lets it go at once");
    let (registered, given_back) = register(&host, &file);
    std::fs::remove_file(&file).expect("the file");

    let mut channel = host.channel(ChannelOptions::default()).expect("a channel");
    let pattern = Pattern { salt: 4, version: 1 };
    let read = IoRequest::read(0, vec![0; 4096].into(), 1);
    bed.hang(&mut channel, &head, read, IoRequest::write(8, bytes(pattern, 8), 2));
    wait_until("the loss", || hung.state() != State::Live);
    drop(registered);
    watch(&mut channel, Duration::from_millis(100));
    assert!(!given_back.load(Ordering::SeqCst), "it may be written to still");
    bed.devices[0].clear_faults();
    bed.servers[0].set_mute(false);
    let done = channel.finish(2);
    assert!(done.iter().all(|d| d.result.is_ok()), "{done:?}");
    wait_until("the memory", || given_back.load(Ordering::SeqCst));
    host.shutdown_forced(LIMIT).expect("an end");
}

/// The server of the tests below, in a process of its own. They start it.
#[test]
#[ignore = "no test: the process that others start"]
fn server_process() {
    let socket = std::env::var_os(SOCKET).expect("to be started by another test");
    let target = target();
    let device = PciDevice::new(&target, NQN, PciConfig::new()).expect("a device");
    let _server = VfioUserServer::bind(PathBuf::from(socket), &device).expect("a server");
    println!("\nready");
    // Until whoever started it has gone.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// A server in a process of its own.
struct Server {
    process: Child,
    path: PathBuf,
    _stdin: ChildStdin,
}

impl Server {
    fn start(path: PathBuf) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "server_process", "--nocapture"])
            .env(SOCKET, &path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let stdin = process.stdin.take().expect("its input");
        let output = BufReader::new(process.stdout.take().expect("its output"));
        let ready = output.lines().map_while(Result::ok).any(|line| line == "ready");
        assert!(ready, "the server ended at once");
        Self { process, path, _stdin: stdin }
    }

    fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        let status = kill.args([name, &self.process.id().to_string()]).status();
        assert!(status.expect("the program kill").success(), "kill {name}");
    }

    /// Stops the process, and waits until all of it stands.
    fn freeze(&self) {
        self.signal("-STOP");
        let tasks = format!("/proc/{}/task", self.process.id());
        wait_until("all threads to stand", || {
            let threads = std::fs::read_dir(&tasks).expect("its threads");
            threads.flatten().all(|thread| {
                let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
            })
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A host on a server whose process stands still, and a read and a write that it has.
struct Frozen {
    server: Server,
    host: Host,
    controller: Controller,
    head: Arc<Head>,
    channel: Channel,
    old: Pattern,
    new: Pattern,
    /// Where the read's memory is.
    memory: usize,
}

impl Frozen {
    fn new(name: &str, options: ControllerOptions) -> Self {
        let server = Server::start(path(name));
        let host = host();
        let head = head(&host, &url(&server.path), NQN, 1, options);
        let controller = host.controllers().remove(0);
        let mut channel = host.channel(ChannelOptions::default()).expect("a channel");
        let [old, new] = [1, 2].map(|version| Pattern { salt: 3, version });
        channel.put(&head, 0, 4096, old);
        channel.put(&head, 8, 4096, old);
        server.freeze();
        let buffer = host.dma_buf(4096).expect("memory");
        let memory = buffer.as_slice().as_ptr() as usize;
        channel.submit(&head, IoRequest::read(0, buffer.into(), 1)).expect("room");
        channel.submit(&head, IoRequest::write(8, bytes(new, 8), 2)).expect("room");
        channel.flush();
        wait_until("the loss", || controller.state() != State::Live);
        watch(&mut channel, Duration::from_secs(1));
        Self { server, host, controller, head, channel, old, new, memory }
    }
}

/// Which file is mapped at an address.
fn file_at(address: usize) -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("the maps of this process");
    let at = |text: &str| usize::from_str_radix(text, 16).expect("an address");
    maps.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        // Permissions and device; then the inode.
        let inode = words.nth(3)?;
        (at(from)..at(to)).contains(&address).then(|| inode.to_owned())
    })
}

#[test]
fn a_process_that_goes_on_ends_it() {
    let mut it = Frozen::new("continued", persistent());
    it.server.signal("-CONT");
    let done = by_number(it.channel.finish(2));
    assert!(done.iter().all(|d| d.result.is_ok()), "{done:?}");
    assert_eq!(it.old.difference(0, done[0].buffer.as_slice()), None);
    it.channel.check(&it.head, 8, 4096, it.new);
    wait_until("the way back", || it.controller.state() == State::Live);
    it.host.shutdown_forced(LIMIT).expect("an end");
}

#[test]
fn a_process_that_is_killed_ends_it_and_a_new_one_takes_its_place() {
    let mut it = Frozen::new("killed", persistent());
    it.server.signal("-KILL");
    it.server.process.wait().expect("its end");
    // Its data are gone with it.
    let path = it.server.path.clone();
    let _ = std::fs::remove_file(&path);
    let _new = Server::start(path);
    let done = by_number(it.channel.finish(2));
    assert!(done.iter().all(|d| d.result.is_ok()), "{done:?}");
    it.channel.check(&it.head, 8, 4096, it.new);
    wait_until("the end to be seen", || it.host.unstopped().is_empty());
    let file = file_at(it.memory).expect("the read's memory");
    drop((done, it.channel));
    it.host.shutdown_forced(LIMIT).expect("an end");
    drop((it.head, it.controller, it.host));
    wait_until("its memory to be given back", || file_at(it.memory) != Some(file.clone()));
}

#[test]
fn the_end_of_the_host_waits_no_longer_than_told_and_leaves_the_memory() {
    let it = Frozen::new("ended", persistent());
    let file = file_at(it.memory).expect("the read's memory");
    let began = Instant::now();
    match it.host.shutdown_forced(Duration::from_millis(500)) {
        Err(HostError::Unstopped(left)) => {
            assert_eq!(left.iter().map(|u| u.controller).collect::<Vec<_>>(), [it.controller.id()]);
        }
        other => panic!("{other:?}"),
    }
    assert!(began.elapsed() < LIMIT);
    let mut channel = it.channel;
    watch(&mut channel, Duration::from_millis(100));
    let mut done = Vec::new();
    assert_eq!(channel.quiesce(&mut done), 2, "the device has them still");
    assert!(done.is_empty(), "{done:?}");
    drop((channel, it.head, it.controller, it.host));
    // The thread that waits for the server notices meanwhile that nobody else does, and ends as well.
    let until = Instant::now() + 2 * RETRY_PAUSE;
    while Instant::now() < until {
        assert_eq!(file_at(it.memory), Some(file.clone()), "it may be written to still");
        std::thread::sleep(Duration::from_millis(10));
    }
    it.server.signal("-CONT");
    drop(it.server);
    assert_eq!(file_at(it.memory), Some(file), "it is nobody's any more");
}
