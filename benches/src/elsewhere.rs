//! A target in a process of its own, so that what the host uses can be told from what it uses.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nvme_target::{NamespaceConfig, SubsystemConfig, Target};

use crate::SUBNQN;

/// The name of subsystem `n` of [`many`].
#[must_use]
pub fn subnqn(n: usize) -> String {
    format!("{SUBNQN}-{n}")
}

/// A target with `subsystems` of `namespaces` each, which hold nothing, behind `listeners`.
///
/// # Panics
/// When loopback cannot be listened on.
#[must_use]
pub fn many(subsystems: usize, namespaces: u32, listeners: usize) -> Target {
    let mut builder = Target::builder();
    for n in 0..subsystems {
        let mut config = SubsystemConfig::new(&subnqn(n)).expect("a valid name");
        for nsid in 1..=namespaces {
            config = config.namespace(NamespaceConfig::null(nsid, 1 << 30).block_size(4096));
        }
        builder = builder.subsystem(config);
    }
    for _ in 0..listeners {
        builder = builder.listen("127.0.0.1:0");
    }
    builder.start().expect("a target on loopback")
}

/// What a program does when it is called to be the target of [`Elsewhere`]: serves until its input
/// ends.
///
/// # Errors
/// When nobody reads what it says.
pub fn serve(subsystems: usize, namespaces: u32, listeners: usize) -> io::Result<()> {
    let target = many(subsystems, namespaces, listeners);
    let mut out = io::stdout();
    for listener in 0..listeners {
        let addr = target.addr(listener).map_err(io::Error::other)?;
        writeln!(out, "{addr}")?;
    }

    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

/// The target in its process. It ends when this is dropped.
#[derive(Debug)]
pub struct Elsewhere {
    child: Child,
    addresses: Vec<String>,
}

impl Elsewhere {
    /// Starts this program once more, with words that lead to [`serve`].
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(subsystems: usize, namespaces: u32, listeners: usize) -> io::Result<Self> {
        Self::of(&std::env::current_exe()?, subsystems, namespaces, listeners)
    }

    /// Starts another program that knows such words.
    ///
    /// # Errors
    /// When it does not start.
    pub fn of(
        program: &Path,
        subsystems: usize,
        namespaces: u32,
        listeners: usize,
    ) -> io::Result<Self> {
        let numbers = [subsystems, namespaces as usize, listeners].map(|n| n.to_string());
        let mut command = Command::new(program);
        command.arg("target").args(numbers).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let out = child.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
        let lines = BufReader::new(out).lines().take(listeners);
        let addresses = lines.collect::<io::Result<Vec<String>>>()?;
        Ok(Self { child, addresses })
    }

    /// The URL of a subsystem by way of a listener.
    #[must_use]
    pub fn url(&self, subsystem: usize, listener: usize) -> String {
        format!("tcp://{}/{}", self.addresses[listener], subnqn(subsystem))
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
