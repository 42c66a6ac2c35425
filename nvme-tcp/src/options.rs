//! What can be chosen per connection.

use std::net::IpAddr;
use std::time::Duration;

use crate::conn::MAX_R2T_LIMIT;

/// Choices for every connection to a controller: defaults of a [`crate::TcpTransport`], replaced
/// one by one by the parameters of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Ask for CRC32C digests of headers (`hdgst=0|1`).
    pub header_digest: bool,
    /// Ask for CRC32C digests of data (`ddgst=0|1`).
    pub data_digest: bool,
    /// Local address to connect from (`host_traddr=ADDRESS`).
    pub host_traddr: Option<IpAddr>,
    /// Network interface to connect through (`host_iface=NAME`).
    pub host_iface: Option<String>,
    /// Type of service, or IPv6 traffic class (`tos=0..255`).
    pub tos: Option<u8>,
    /// Priority of the socket in this host's queueing (`priority=N`); above 6 needs privilege.
    pub priority: Option<u32>,
    /// R2Ts that the controller may have outstanding for one command, 1 to 256 (`maxr2t=N`).
    pub max_r2t: u16,
    /// Longest time that sent data may stay unacknowledged before the operating system ends the
    /// connection (`user_timeout_ms=N`); `None` leaves it to the system's retransmission limit.
    pub user_timeout: Option<Duration>,
    /// Congestion control of the socket (`congestion=NAME`), one of
    /// `/proc/sys/net/ipv4/tcp_allowed_congestion_control`. `None` leaves it to the system, but for a
    /// controller on this machine (a loopback address), where it is one that does not pace.
    pub congestion: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            header_digest: false,
            data_digest: false,
            host_traddr: None,
            host_iface: None,
            tos: None,
            priority: None,
            max_r2t: 1,
            user_timeout: None,
            congestion: None,
        }
    }
}

/// The parameters, for messages.
const KNOWN: &str = "hdgst, ddgst, host_traddr, host_iface, tos, priority, maxr2t, user_timeout_ms, \
                     congestion";

/// Longest name of a network interface, in bytes (`IFNAMSIZ` with its NUL is 16).
const IFACE_MAX: usize = 15;

/// Longest name of a congestion control, in bytes (`TCP_CA_NAME_MAX` with its NUL is 16).
const CONGESTION_MAX: usize = 15;

impl Options {
    /// Replaces what the query of a URL names.
    pub(crate) fn apply_query(&mut self, query: &str) -> Result<(), String> {
        let mut seen: Vec<&str> = Vec::new();
        for pair in query.split('&') {
            let Some((name, value)) = pair.split_once('=') else {
                return Err(format!("parameter `{pair}` has no value; known are {KNOWN}"));
            };
            if seen.contains(&name) {
                return Err(format!("parameter `{name}` is given twice; known are {KNOWN}"));
            }
            seen.push(name);
            self.set(name, value)?;
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let bad = |want: &str| format!("parameter `{name}` is `{value}`: must be {want}");
        match name {
            "hdgst" => self.header_digest = flag(value).ok_or_else(|| bad("0 or 1"))?,
            "ddgst" => self.data_digest = flag(value).ok_or_else(|| bad("0 or 1"))?,
            "host_traddr" => {
                let bare = value.strip_prefix('[').and_then(|v| v.strip_suffix(']'));
                let address = bare.unwrap_or(value).parse();
                self.host_traddr = Some(address.map_err(|_| bad("an IP address of this host"))?);
            }
            "host_iface" => {
                if value.is_empty() || value.len() > IFACE_MAX || value.contains('/') {
                    return Err(bad("the name of a network interface, 1 to 15 bytes"));
                }
                self.host_iface = Some(value.to_owned());
            }
            "tos" => self.tos = Some(value.parse().map_err(|_| bad("0 to 255"))?),
            "priority" => {
                let priority = value.parse::<u32>().ok().filter(|p| *p <= i32::MAX as u32);
                self.priority = Some(priority.ok_or_else(|| bad("a number from 0 on"))?);
            }
            "maxr2t" => {
                let n = value.parse().ok().filter(|n| (1..=MAX_R2T_LIMIT).contains(n));
                self.max_r2t = n.ok_or_else(|| bad("1 to 256"))?;
            }
            "user_timeout_ms" => {
                let ms = value.parse::<u32>().ok().filter(|n| (1..=i32::MAX as u32).contains(n));
                let ms = ms.ok_or_else(|| bad("a number of milliseconds from 1 on"))?;
                self.user_timeout = Some(Duration::from_millis(ms.into()));
            }
            "congestion" => {
                if value.is_empty() || value.len() > CONGESTION_MAX {
                    return Err(bad("the name of a congestion control, 1 to 15 bytes"));
                }
                self.congestion = Some(value.to_owned());
            }
            _ => return Err(format!("unknown parameter `{name}`; known are {KNOWN}")),
        }
        Ok(())
    }
}

fn flag(value: &str) -> Option<bool> {
    match value {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}
