//! URLs of controllers: `tcp://HOST[:PORT]/NQN?parameters`.

use std::net::{IpAddr, SocketAddr};

use nvme_core::nqn::Nqn;
use nvme_core::transport::UrlError;

use crate::options::Options;

/// The port that IANA gave to NVMe I/O controllers over TCP.
pub const IO_PORT: u16 = 4420;

/// The port that IANA gave to NVMe discovery controllers over TCP.
pub const DISCOVERY_PORT: u16 = 8009;

/// Where a host part leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To an address.
    Address(SocketAddr),
    /// To a name that has to be resolved.
    Name(String, u16),
}

/// A URL taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) target: Target,
    /// `tcp://HOST:PORT` in normal form.
    pub(crate) address: String,
    pub(crate) nqn: Nqn,
    pub(crate) options: Options,
}

/// Parses `url`; what it does not say is taken from `defaults`.
pub(crate) fn parse(url: &str, defaults: &Options) -> Result<Parsed, UrlError> {
    parse_parts(url, defaults).map_err(|reason| UrlError { url: url.to_owned(), reason })
}

fn parse_parts(url: &str, defaults: &Options) -> Result<Parsed, String> {
    let rest = url.strip_prefix("tcp://").ok_or("the scheme must be `tcp://`")?;
    if rest.contains('#') {
        return Err("a fragment (`#`) has no meaning here".to_owned());
    }
    let (rest, query) = match rest.split_once('?') {
        Some((rest, query)) => (rest, Some(query)),
        None => (rest, None),
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let nqn = nqn(path)?;
    let (host, port) = host_and_port(authority)?;
    let port = port.unwrap_or(if nqn.is_discovery() { DISCOVERY_PORT } else { IO_PORT });
    let (target, address) = target(host, port)?;
    let mut options = defaults.clone();
    if let Some(query) = query {
        options.apply_query(query)?;
    }
    if let (Target::Address(to), Some(from)) = (&target, options.host_traddr)
        && to.is_ipv4() != from.is_ipv4()
    {
        return Err(format!("host_traddr {from} and {} are of different families", to.ip()));
    }
    Ok(Parsed { target, address, nqn, options })
}

/// The path without its slash: an NQN, percent-encoded where need be, or nothing for discovery.
fn nqn(path: &str) -> Result<Nqn, String> {
    if path.is_empty() {
        return Ok(Nqn::discovery());
    }
    let name = percent_decode(path).ok_or_else(|| format!("bad percent-encoding in `{path}`"))?;
    Nqn::new(&name).map_err(|e| format!("subsystem `{name}`: {e}"))
}

fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            out.push((high << 4 | low) as u8);
        } else {
            out.push(b);
        }
    }
    String::from_utf8(out).ok()
}

fn host_and_port(authority: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = if authority.starts_with('[') {
        let end = authority.find(']').ok_or("`[` without `]` in the host")?;
        let (host, rest) = authority.split_at(end + 1);
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err(format!("`{rest}` after the IPv6 address")),
        }
    } else {
        match authority.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err(format!("an IPv6 address needs brackets: `[{authority}]`"));
            }
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    let port = match port {
        None => None,
        Some(text) => Some(
            text.parse::<u16>()
                .ok()
                .filter(|p| *p != 0 && !text.starts_with('+'))
                .ok_or_else(|| format!("port `{text}`: must be 1 to 65535"))?,
        ),
    };
    Ok((host, port))
}

fn target(host: &str, port: u16) -> Result<(Target, String), String> {
    if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        let address = format!("tcp://{host}:{port}");
        if let Ok(to) = format!("{host}:{port}").parse::<SocketAddr>() {
            return Ok((Target::Address(to), format!("tcp://{to}")));
        }
        // A zone by the name of its interface is for the resolver.
        return match inner.split_once('%') {
            Some((ip, zone)) if ip.parse::<std::net::Ipv6Addr>().is_ok() && !zone.is_empty() => {
                Ok((Target::Name(inner.to_owned(), port), address))
            }
            _ => Err(format!("`{inner}` is no IPv6 address")),
        };
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        let to = SocketAddr::new(ip, port);
        return Ok((Target::Address(to), format!("tcp://{to}")));
    }
    if host.is_empty() {
        return Err("the host is missing".to_owned());
    }
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_')) {
        return Err(format!("`{host}` is no host name"));
    }
    Ok((Target::Name(host.to_owned(), port), format!("tcp://{host}:{port}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NQN: &str = "nqn.2026-01.org.example:sub";

    fn ok(url: &str) -> Parsed {
        parse(url, &Options::default()).unwrap()
    }

    fn reason(url: &str) -> String {
        let error = parse(url, &Options::default()).unwrap_err();
        assert_eq!(error.url, url);
        error.reason
    }

    #[test]
    fn ports_and_names_have_defaults() {
        let p = ok(&format!("tcp://192.0.2.7/{NQN}"));
        assert_eq!((p.address.as_str(), p.nqn.as_str()), ("tcp://192.0.2.7:4420", NQN));
        for url in ["tcp://192.0.2.7", "tcp://192.0.2.7/", "tcp://192.0.2.7/?hdgst=0"] {
            let p = ok(url);
            assert_eq!(p.address, "tcp://192.0.2.7:8009");
            assert!(p.nqn.is_discovery());
        }
        assert_eq!(ok("tcp://192.0.2.7:4421").address, "tcp://192.0.2.7:4421");
        assert_eq!(ok("tcp://[2001:DB8::7]:1").address, "tcp://[2001:db8::7]:1");
        let p = ok(&format!("tcp://[::1]/{NQN}"));
        assert_eq!(p.target, Target::Address("[::1]:4420".parse().unwrap()));
        let p = ok(&format!("tcp://target-1.example.org/{NQN}"));
        assert_eq!(p.target, Target::Name("target-1.example.org".to_owned(), 4420));
        assert_eq!(ok("tcp://[fe80::1%eth0]").target, Target::Name("fe80::1%eth0".into(), 8009));
    }

    #[test]
    fn parameters_replace_defaults() {
        let defaults = Options { data_digest: true, max_r2t: 4, ..Options::default() };
        let url = format!(
            "tcp://192.0.2.7/{NQN}?hdgst=1&host_traddr=192.0.2.1&host_iface=eth0&tos=184\
             &priority=6&user_timeout_ms=5000&congestion=reno"
        );
        let o = parse(&url, &defaults).unwrap().options;
        assert!(o.header_digest && o.data_digest);
        assert_eq!(o.host_traddr, Some("192.0.2.1".parse().unwrap()));
        assert_eq!(o.host_iface.as_deref(), Some("eth0"));
        assert_eq!(o.congestion.as_deref(), Some("reno"));
        assert_eq!((o.tos, o.priority, o.max_r2t), (Some(184), Some(6), 4));
        assert_eq!(o.user_timeout, Some(std::time::Duration::from_secs(5)));
        let o = parse(&format!("tcp://[::1]/{NQN}?ddgst=0&maxr2t=16&host_traddr=[::1]"), &defaults);
        let o = o.unwrap().options;
        assert!(!o.data_digest);
        assert_eq!((o.max_r2t, o.host_traddr), (16, Some("::1".parse().unwrap())));
    }

    #[test]
    fn names_may_be_percent_encoded() {
        assert_eq!(ok("tcp://192.0.2.7/nqn.2026-01.org.example%3Aa%3fb").nqn.as_str(), {
            "nqn.2026-01.org.example:a?b"
        });
        assert!(reason("tcp://192.0.2.7/nqn.2026-01.org.example%3").contains("percent-encoding"));
    }

    #[test]
    fn each_error_names_the_part_that_is_wrong() {
        for (url, want) in [
            ("http://192.0.2.7/", "scheme"),
            ("tcp:///nqn.2026-01.org.example:sub", "host is missing"),
            ("tcp://a b/", "no host name"),
            ("tcp://user@host/", "no host name"),
            ("tcp://192.0.2.7:0/", "port `0`"),
            ("tcp://192.0.2.7:65536/", "port `65536`"),
            ("tcp://192.0.2.7:/", "port ``"),
            ("tcp://192.0.2.7:+80/", "port `+80`"),
            ("tcp://2001:db8::7/", "brackets"),
            ("tcp://[2001:db8::7/", "without `]`"),
            ("tcp://[::1]x/", "after the IPv6 address"),
            ("tcp://[nonsense]/", "no IPv6 address"),
            ("tcp://192.0.2.7/sub", "subsystem `sub`"),
            ("tcp://192.0.2.7/#x", "fragment"),
            ("tcp://192.0.2.7/?hdgst", "`hdgst` has no value"),
            ("tcp://192.0.2.7/?hdgst=2", "must be 0 or 1"),
            ("tcp://192.0.2.7/?hdgst=1&hdgst=1", "`hdgst` is given twice"),
            ("tcp://192.0.2.7/?digest=1", "known are hdgst, ddgst, host_traddr"),
            ("tcp://192.0.2.7/?tos=256", "0 to 255"),
            ("tcp://192.0.2.7/?maxr2t=0", "1 to 256"),
            ("tcp://192.0.2.7/?maxr2t=257", "1 to 256"),
            ("tcp://192.0.2.7/?priority=-1", "from 0 on"),
            ("tcp://192.0.2.7/?host_traddr=here", "an IP address"),
            ("tcp://192.0.2.7/?host_traddr=::1", "different families"),
            ("tcp://192.0.2.7/?host_iface=", "name of a network interface"),
            ("tcp://192.0.2.7/?user_timeout_ms=0", "milliseconds"),
            ("tcp://192.0.2.7/?congestion=", "name of a congestion control"),
            ("tcp://192.0.2.7/?congestion=sixteen-is-a-lot", "1 to 15 bytes"),
        ] {
            let got = reason(url);
            assert!(got.contains(want), "{url}: {got}");
        }
    }
}
