//! Faults between the host and the guest's target.

use std::time::Duration;

use serde_json::json;

#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::guest::Guest;

/// Ways to lose a path, one port at a time unless said otherwise. All fail as [`Guest::sh`], and
/// with [`Error::Unknown`] for a port the guest does not have.
impl Guest {
    /// Ends the connections at a port; new ones are accepted.
    ///
    /// # Errors
    /// See above.
    pub fn cut_connections(&self, port: u16) -> Result<()> {
        let service = self.check_port(port)?;
        self.target(
            "cut connections",
            &format!(
                "modprobe -a tcp_diag inet_diag
                 ss -H -n -K '( sport = :{service} )' > /dev/null || fail"
            ),
        )
    }

    /// Drops what comes to and goes from a port: connections stay and are silent. Undone by
    /// [`Guest::restore_traffic`], after which TCP needs up to some seconds to send again.
    ///
    /// # Errors
    /// See above.
    pub fn drop_traffic(&self, port: u16) -> Result<()> {
        let service = self.check_port(port)?;
        self.filter(
            port,
            &[format!("tcp dport {service} drop")],
            &[format!("tcp sport {service} drop")],
        )
    }

    /// Answers what comes to a port by a reset: connections end, and so do new ones, until
    /// [`Guest::restore_traffic`].
    ///
    /// # Errors
    /// See above.
    pub fn reset_traffic(&self, port: u16) -> Result<()> {
        let service = self.check_port(port)?;
        self.filter(port, &[format!("tcp dport {service} reject with tcp reset")], &[])
    }

    /// Holds everything a port sends for `delay`, in whole milliseconds: the path works and is
    /// slow. Undone by [`Guest::restore_traffic`].
    ///
    /// # Errors
    /// See above.
    pub fn delay_traffic(&self, port: u16, delay: Duration) -> Result<()> {
        let (service, delay) = (self.check_port(port)?, delay.as_millis());
        // Band 1 is everybody's, and each port has one of its own.
        // The path is written out because the guest's shell would take busybox's tc.
        self.target(
            "delay traffic",
            &format!(
                "tc=/bin/tc band=$(printf %x $(({port} + 1)))
                 modprobe -a sch_prio sch_netem cls_u32
                 $tc qdisc show dev eth0 | grep -q ' prio 1: ' ||
                    $tc qdisc add dev eth0 root handle 1: prio bands 16 \\
                        priomap 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 || fail
                 $tc qdisc replace dev eth0 parent 1:$band netem delay {delay}ms || fail
                 $tc filter del dev eth0 parent 1: prio {port} 2> /dev/null
                 $tc filter add dev eth0 parent 1: protocol ip prio {port} u32 \\
                    match ip sport {service} 0xffff flowid 1:$band || fail"
            ),
        )
    }

    /// Ends what [`Guest::drop_traffic`], [`Guest::reset_traffic`] or [`Guest::delay_traffic`]
    /// began.
    ///
    /// # Errors
    /// See above.
    pub fn restore_traffic(&self, port: u16) -> Result<()> {
        self.check_port(port)?;
        self.target(
            "restore traffic",
            &format!(
                "nft delete table inet port{port} 2> /dev/null
                 /bin/tc filter del dev eth0 parent 1: prio {port} 2> /dev/null
                 true"
            ),
        )
    }

    /// Makes the host's system refuse new connections to a port; open ones live on. Undone by
    /// [`Guest::accept_connections`].
    ///
    /// # Errors
    /// [`Error::Unknown`] for a port the guest does not have.
    pub fn refuse_connections(&self, port: u16) -> Result<()> {
        self.listen(port, false)
    }

    /// Ends what [`Guest::refuse_connections`] began; the address is the same as before. Nothing
    /// happens when it did not begin.
    ///
    /// # Errors
    /// [`Error::Unknown`] for a port the guest does not have; [`Error::Io`] when the system does
    /// not let it listen.
    pub fn accept_connections(&self, port: u16) -> Result<()> {
        self.listen(port, true)
    }

    /// Stops the whole guest: everything is silent at all ports, and the guest's clock stands.
    ///
    /// # Errors
    /// [`Error::Monitor`] or [`Error::Io`].
    pub fn freeze(&self) -> Result<()> {
        self.monitor("stop", &json!({})).map(drop)
    }

    /// Lets a frozen guest go on.
    ///
    /// # Errors
    /// [`Error::Monitor`] or [`Error::Io`].
    pub fn thaw(&self) -> Result<()> {
        self.monitor("cont", &json!({})).map(drop)
    }

    /// Rules of one port make up a table of their own, which goes as a whole.
    fn filter(&self, port: u16, input: &[String], output: &[String]) -> Result<()> {
        let chain = |name: &str, rules: &[String]| {
            format!(
                "chain {name} {{\ntype filter hook {name} priority 0\n{}\n}}\n",
                rules.join("\n")
            )
        };
        let chains: String = [("input", input), ("output", output)]
            .iter()
            .filter(|(_, rules)| !rules.is_empty())
            .map(|(name, rules)| chain(name, rules))
            .collect();
        let table = format!("inet port{port}");
        // Adding before deleting makes the deletion work whether or not the table is there.
        let rules =
            format!("add table {table}\ndelete table {table}\ntable {table} {{\n{chains}}}");
        self.target("filter traffic", &format!("touch /run/nft-used\nnft '{rules}' || fail"))
    }
}
