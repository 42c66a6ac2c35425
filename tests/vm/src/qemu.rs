//! One QEMU process: its command line, its life, its console.

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::{self, Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::image::Image;
use crate::tool;

/// The guest's kernel parameters: no time spent on what a short-lived test machine does not need;
/// an oops or a panic ends QEMU.
const KERNEL_PARAMETERS: &str = "console=ttyS0 quiet loglevel=5 panic=-1 oops=panic \
    mitigations=off nokaslr audit=0 apparmor=0 nowatchdog no_timer_check tsc=reliable \
    init_on_alloc=0 random.trust_cpu=on cryptomgr.notests=1";
/// How much of the console goes into an error.
const CONSOLE_TAIL: u64 = 4096;

/// What may differ from guest to guest.
pub(crate) struct Machine<'a> {
    pub(crate) image: &'a Image,
    pub(crate) processors: u32,
    pub(crate) memory_mib: u32,
    pub(crate) kernel_parameters: &'a str,
    pub(crate) arguments: &'a [String],
    /// Guest ports to be reached from the host.
    pub(crate) forwards: &'a [u16],
}

/// The running process; dropping it kills QEMU and waits for its end.
pub(crate) struct Qemu {
    stop: Option<mpsc::Sender<()>>,
    keeper: Option<JoinHandle<()>>,
    ended: Arc<AtomicBool>,
    console: File,
}

/// Both ends QEMU gives: the agent's serial port and the monitor.
pub(crate) struct Connections {
    pub(crate) agent: UnixStream,
    pub(crate) monitor: UnixStream,
}

impl Qemu {
    pub(crate) fn start(machine: &Machine<'_>) -> Result<(Self, Connections)> {
        // The sockets are handed over as standard input and output, and console and messages go to
        // an unlinked file: nothing with a name is left behind however the process ends.
        let (agent, agent_end) =
            UnixStream::pair().map_err(Error::io("making the agent's socket"))?;
        let (monitor, monitor_end) =
            UnixStream::pair().map_err(Error::io("making the monitor's socket"))?;
        let console = nameless_file()?;
        let stderr = console.try_clone().map_err(Error::io("sharing the console file"))?;
        let mut command = tool::command("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(tool::command("qemu-system-x86_64").get_program())
            .args(arguments(machine))
            .stdin(Stdio::from(OwnedFd::from(agent_end)))
            .stdout(Stdio::from(OwnedFd::from(monitor_end)))
            .stderr(stderr);

        // The death signal comes when the *thread* that started the process ends, and a test's
        // thread ends with the test; so a thread of its own starts QEMU and stays until it is to
        // go.
        let (stop, stopped) = mpsc::channel();
        let (started, start) = mpsc::channel();
        let ended = Arc::new(AtomicBool::new(false));
        let keeper = thread::Builder::new()
            .name("qemu".to_owned())
            .spawn({
                let ended = Arc::clone(&ended);
                move || {
                    let child = command.spawn();
                    // The command holds the guest's ends of the sockets; they must end with QEMU.
                    drop(command);
                    match child {
                        Ok(child) => {
                            let _ = started.send(Ok(()));
                            keep(child, &stopped);
                        }
                        Err(error) => {
                            let _ = started.send(Err(error));
                        }
                    }
                    ended.store(true, Ordering::Release);
                }
            })
            .map_err(Error::io("starting QEMU's thread"))?;
        start
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("its thread ended")))
            .map_err(Error::io("starting QEMU"))?;
        let qemu = Self { stop: Some(stop), keeper: Some(keeper), ended, console };
        Ok((qemu, Connections { agent, monitor }))
    }

    /// Whether the process has ended.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// The last lines of the guest's console and of QEMU's messages.
    pub(crate) fn console_tail(&self) -> String {
        let length = self.console.metadata().map(|meta| meta.len()).unwrap_or(0);
        let start = length.saturating_sub(CONSOLE_TAIL);
        let mut bytes = vec![0; (length - start) as usize];
        let read = self.console.read_at(&mut bytes, start).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..read]).into_owned()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(keeper) = self.keeper.take() {
            let _ = keeper.join();
        }
    }
}

/// A file for reading and appending that has no name any more.
fn nameless_file() -> Result<File> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("nvme-vm-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = env::temp_dir().join(name);
    let open = || {
        let file = File::options().read(true).append(true).create_new(true).open(&path)?;
        fs::remove_file(&path).map(|()| file)
    };
    open().map_err(Error::io(format!("making {}", path.display())))
}

/// Stays until the process ends or the handle is dropped.
fn keep(mut child: Child, stopped: &mpsc::Receiver<()>) {
    let ended = |child: &mut Child| matches!(child.try_wait(), Ok(Some(_)) | Err(_));
    while !ended(&mut child) {
        if stopped.recv_timeout(Duration::from_millis(50))
            == Err(mpsc::RecvTimeoutError::Disconnected)
        {
            let _: io::Result<ExitStatus> = child.kill().and_then(|()| child.wait());
            return;
        }
    }
}

fn arguments(machine: &Machine<'_>) -> Vec<String> {
    // Host port 0: the system chooses a free one, which the monitor tells.
    let forwards: String =
        machine.forwards.iter().map(|port| format!(",hostfwd=tcp:127.0.0.1:0-:{port}")).collect();
    let mut arguments: Vec<String> = [
        "-M",
        "q35",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        // Without cmpxchg16b: in QEMU 7.2 an interrupt right behind it now and then found flags
        // that were a register's value, and the guest died of a double fault in its allocator.
        "max,la57=off,cx16=off",
        // No devices but those named, no window, no user's configuration; a panic ends the process.
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-chardev",
        "file,id=console,path=/dev/stderr,append=on",
        "-serial",
        "chardev:console",
        "-chardev",
        "socket,id=monitor,fd=1",
        "-mon",
        "chardev=monitor,mode=control",
        "-device",
        "virtio-serial-pci,id=serial",
        "-chardev",
        "socket,id=agent,fd=0",
        "-device",
        "virtserialport,bus=serial.0,chardev=agent,name=nvme-vm.agent",
        "-device",
        "virtio-net-pci,netdev=net,id=nic,romfile=",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut add = |option: &str, value: String| arguments.extend([option.to_owned(), value]);
    add("-netdev", format!("user,id=net{forwards}"));
    add("-smp", machine.processors.to_string());
    add("-m", machine.memory_mib.to_string());
    add("-kernel", machine.image.kernel.display().to_string());
    add("-initrd", machine.image.initrd.display().to_string());
    add("-append", format!("{KERNEL_PARAMETERS} {}", machine.kernel_parameters));
    arguments.extend_from_slice(machine.arguments);
    arguments
}
