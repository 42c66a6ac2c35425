//! A running guest: started, given scripts, put back into its first state, ended.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::agent::{Agent, Lost, Output};
use crate::config::{Config, Namespace};
use crate::error::{Error, Result};
use crate::image;
use crate::monitor::Monitor;
use crate::qemu::{Machine, Qemu};
use crate::relay::Relay;

/// An idle machine takes 3 s; many test processes on two processors take far longer.
const BOOT: Duration = Duration::from_secs(240);
/// What [`Guest::run`] and the harness's own scripts are given.
const SCRIPT: Duration = Duration::from_secs(60);
/// How much longer than the agent the host waits.
const GRACE: Duration = Duration::from_secs(30);

/// Brings a script the functions of `guest/*.sh`.
pub(crate) const LIBRARIES: &str = ". /etc/target.sh; . /etc/linux.sh\n";

/// The guest's address in QEMU's network, as `guest/init` sets it.
const ADDRESS: [u8; 4] = [10, 0, 2, 15];

/// The name of the target's subsystem.
pub const SUBNQN: &str = "nqn.2014-08.com.example:nvme-host:guest";
/// The serial number of the target's subsystem.
pub const SERIAL: &str = "NVMEHOSTGUEST";

/// A virtual machine with Linux's NVMe/TCP target (and its host) inside. Usable from several
/// threads at once; dropping it ends QEMU.
pub struct Guest {
    agent: Agent,
    monitor: Monitor,
    // QEMU ends before the relay: it never sees what the relay's end does to connections.
    qemu: Qemu,
    relay: Relay,
    config: Config,
}

impl Guest {
    /// Boots a guest of one's own, with its target in the state `config` tells. Takes 3 to 5 s on
    /// an idle machine, and longer the first time, when the image is made.
    ///
    /// # Errors
    /// [`Error::MissingPackages`] and [`Error::MissingKernel`] say what to install; others, that
    /// the guest did not come up and how far it came.
    pub fn boot(config: Config) -> Result<Self> {
        let image = image::prepare()?;
        let forwards: Vec<u16> = (1..=config.ports).map(Config::service).collect();
        let machine = Machine {
            image: &image,
            processors: config.processors,
            memory_mib: config.memory_mib,
            kernel_parameters: &config.kernel_parameters,
            arguments: &config.qemu_arguments,
            forwards: &forwards,
        };
        let (qemu, connections) = Qemu::start(&machine)?;
        let agent = Agent::new(connections.agent).map_err(Error::io("listening to the agent"))?;
        let failed = |what: String| Error::Guest { what, console: qemu.console_tail() };
        let monitor = Monitor::new(connections.monitor)
            .map_err(|error| failed(format!("did not start: {error}")))?;
        let chosen = monitor.forwards()?;
        let forwarded = forwards
            .iter()
            .map(|service| chosen.iter().find(|(guest, _)| guest == service))
            .map(|found| found.map(|&(_, host)| SocketAddr::from(([127, 0, 0, 1], host))))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| failed(format!("has not all ports forwarded: {chosen:?}")))?;
        let relay = Relay::start(&forwarded).map_err(Error::io("starting the relay"))?;
        agent.wait_ready(BOOT).map_err(|lost| match lost {
            Lost::Gone => failed("ended while it booted".to_owned()),
            Lost::Late => failed(format!("did not boot within {BOOT:?}")),
        })?;
        let guest = Self { agent, monitor, qemu, relay, config };
        guest.reset()?;
        Ok(guest)
    }

    /// The guest that all tests of a process share, in its pristine state. Held by one test at a
    /// time; the others wait.
    ///
    /// # Errors
    /// As [`Guest::boot`]. After a boot that failed, later calls fail at once and say so.
    pub fn shared() -> Result<Shared> {
        static SHARED: Mutex<State> = Mutex::new(State { guest: None, failed: None });
        // A test that panicked has left a used guest, and that is what the reset is for.
        let mut state = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(what) = &state.failed {
            return Err(Error::Guest {
                what: what.clone(),
                console: "(told with the first failure)".to_owned(),
            });
        }
        if state.guest.as_ref().is_none_or(|guest| guest.reset().is_err()) {
            // Never booted, or beyond repair.
            state.guest = None;
            match Self::boot(Config::default()) {
                Ok(guest) => state.guest = Some(guest),
                Err(error) => {
                    if let Error::Guest { what, .. } = &error {
                        state.failed = Some(format!("{what} when another test booted it"));
                    }
                    return Err(error);
                }
            }
        }
        Ok(Shared(state))
    }

    /// Puts the target, its namespaces' contents (zeros), the network and Linux's own host back
    /// into their first state. Every connection to the guest ends. Takes under a second on an idle
    /// machine.
    ///
    /// # Errors
    /// [`Error::Script`] when something cannot be taken away.
    pub fn reset(&self) -> Result<()> {
        self.thaw()?;
        for port in 1..=self.config.ports {
            self.accept_connections(port)?;
        }
        let mut script = format!("teardown\nmake_subsystem {SUBNQN} {SERIAL}\n");
        for namespace in &self.config.namespaces {
            script += &add_namespace(namespace);
        }
        for port in 1..=self.config.ports {
            let (service, groups) = (Config::service(port), self.config.groups);
            script += &format!("make_port {port} {service} {groups}\nlink_port {port} {SUBNQN}\n");
        }
        self.target("put the target into its first state", &script)
    }

    /// Runs a shell script in the guest for at most a minute. A script that fails is no error here:
    /// look at the output.
    ///
    /// # Errors
    /// [`Error::Guest`] or [`Error::NoAnswer`] when the guest is gone or hangs.
    pub fn run(&self, script: &str) -> Result<Output> {
        self.run_with(script, &[], SCRIPT)
    }

    /// As [`Guest::run`], with a standard input and a time limit; at the limit the script's process
    /// group is killed.
    ///
    /// # Errors
    /// As [`Guest::run`].
    pub fn run_with(&self, script: &str, input: &[u8], limit: Duration) -> Result<Output> {
        self.agent.run(script, input, limit, GRACE).map_err(|lost| match lost {
            Lost::Gone => Error::Guest { what: "is gone".to_owned(), console: self.console() },
            Lost::Late => Error::NoAnswer { what: first_line(script), limit: limit + GRACE },
        })
    }

    /// Runs a shell script that must succeed; gives its output.
    ///
    /// # Errors
    /// As [`Guest::run`], and [`Error::Script`] when it ends with another status than 0.
    pub fn sh(&self, script: &str) -> Result<String> {
        let output = self.run(script)?;
        if output.success() {
            return Ok(output.text);
        }
        Err(Error::Script { what: first_line(script), code: output.code, output: output.text })
    }

    /// Lets the host's system accept new connections to a port, or refuse them.
    pub(crate) fn listen(&self, port: u16, listen: bool) -> Result<()> {
        self.check_port(port)?;
        let verb = if listen { "opening" } else { "closing" };
        self.relay
            .listen(usize::from(port) - 1, listen)
            .map_err(Error::io(format!("{verb} the relay's port {port}")))
    }

    /// Runs a script with the functions of `guest/*.sh`; `what` is for the error.
    pub(crate) fn target(&self, what: &str, script: &str) -> Result<()> {
        self.ask_target(what, script).map(drop)
    }

    /// As [`Self::target`], for the output.
    pub(crate) fn ask_target(&self, what: &str, script: &str) -> Result<String> {
        let output = self.run(&format!("{LIBRARIES}{script}"))?;
        if output.success() {
            return Ok(output.text);
        }
        Err(Error::Script {
            what: format!("the script to {what}"),
            code: output.code,
            output: output.text,
        })
    }

    /// Polls until `script` ends with status 0; gives its output.
    ///
    /// # Errors
    /// As [`Guest::sh`], with the last failure, once `limit` is over.
    pub fn wait_for(&self, script: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            match self.sh(script) {
                Err(Error::Script { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                end => return end,
            }
        }
    }

    /// Writes a file in the guest, executable for all; directories on its way are made.
    ///
    /// # Errors
    /// As [`Guest::sh`].
    pub fn upload(&self, path: &str, contents: &[u8]) -> Result<()> {
        let script =
            format!("mkdir -p \"$(dirname '{path}')\" && cat > '{path}' && chmod 755 '{path}'");
        let output = self.run_with(&script, contents, SCRIPT)?;
        if output.success() {
            return Ok(());
        }
        Err(Error::Script {
            what: format!("the upload of {path}"),
            code: output.code,
            output: output.text,
        })
    }

    /// Where the target's port (from 1) is reached from the host. A relay in this process accepts
    /// every connection there and only then QEMU tries the guest: a port that is closed in the
    /// guest looks like a connection that ends at once.
    ///
    /// When a connection is reset from the host's side, what was sent is discarded except for what
    /// QEMU or the kernel's buffers before it have already taken (some 100 KiB each); the guest may
    /// see that much late, and then the end of the stream, never a reset: QEMU does not survive
    /// resets at certain moments. Bytes before an orderly end are delivered unless QEMU does not
    /// take them within a second.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a port beyond [`Config::ports`].
    pub fn addr(&self, port: u16) -> Result<SocketAddr> {
        let at = usize::from(port).checked_sub(1);
        at.and_then(|at| self.relay.address(at))
            .ok_or(Error::Unknown { what: "port", number: port.into() })
    }

    /// Bytes that went to and from the target's port (from 1) since the guest was booted. Known without
    /// asking the guest, whose one processor may have no time for it under load.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a port beyond [`Config::ports`].
    pub fn moved(&self, port: u16) -> Result<u64> {
        let at = usize::from(port).checked_sub(1);
        at.and_then(|at| self.relay.moved(at))
            .ok_or(Error::Unknown { what: "port", number: port.into() })
    }

    /// Where the target's port (from 1) is inside the guest, which is also what the guest's
    /// discovery log names. The host reaches it by [`Guest::addr`] only.
    ///
    /// # Errors
    /// As [`Guest::addr`].
    pub fn guest_addr(&self, port: u16) -> Result<SocketAddr> {
        Ok(SocketAddr::from((ADDRESS, self.check_port(port)?)))
    }

    /// The name of the target's subsystem.
    #[must_use]
    pub fn subnqn(&self) -> &'static str {
        SUBNQN
    }

    /// The guest's configuration, which is the target's pristine state.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The pristine state of a namespace.
    ///
    /// # Errors
    /// [`Error::Unknown`] when the configuration has none of that number.
    pub fn namespace(&self, nsid: u32) -> Result<&Namespace> {
        let found = self.config.namespaces.iter().find(|namespace| namespace.nsid == nsid);
        found.ok_or(Error::Unknown { what: "namespace", number: nsid })
    }

    /// The guest's kernel log.
    ///
    /// # Errors
    /// As [`Guest::sh`].
    pub fn dmesg(&self) -> Result<String> {
        self.sh("dmesg")
    }

    /// The end of the guest's console and of QEMU's messages; works when the guest is gone.
    #[must_use]
    pub fn console(&self) -> String {
        self.qemu.console_tail()
    }

    /// Whether QEMU still runs. It ends when the guest's kernel panics.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.qemu.ended()
    }

    /// Gives QEMU's monitor (QMP) a command, such as `stop`, `cont` or `device_del`; the answer is
    /// what it returns.
    ///
    /// # Errors
    /// [`Error::Monitor`] with QEMU's words, [`Error::Io`] when QEMU is gone.
    pub fn monitor(&self, command: &str, arguments: &Value) -> Result<Value> {
        self.monitor.execute(command, arguments)
    }

    /// Gives QEMU's human monitor a line, such as `info usernet`; the answer is text.
    ///
    /// # Errors
    /// As [`Guest::monitor`]; but a line that QEMU rejects is an answer.
    pub fn human_monitor(&self, line: &str) -> Result<String> {
        self.monitor.human(line)
    }
}

pub(crate) fn add_namespace(namespace: &Namespace) -> String {
    let Namespace { nsid, block_size, blocks, group, .. } = namespace;
    format!(
        "add_namespace {SUBNQN} {nsid} {block_size} {blocks} {group} {}\n",
        namespace.uuid_text()
    )
}

fn first_line(script: &str) -> String {
    format!("`{}`", script.trim().lines().next().unwrap_or_default())
}

/// The process's guest and whether it could be had.
struct State {
    guest: Option<Guest>,
    failed: Option<String>,
}

/// The shared guest, held by one test. Dereferences to [`Guest`].
pub struct Shared(MutexGuard<'static, State>);

impl Deref for Shared {
    type Target = Guest;

    fn deref(&self) -> &Guest {
        // `Guest::shared` makes this handle only with a guest in it, and nobody else can take it
        // out.
        self.0.guest.as_ref().unwrap_or_else(|| unreachable!("a shared handle without a guest"))
    }
}
