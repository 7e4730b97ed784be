//! The URLs of a configuration, parsed. Refuses passwords in them; resolves no name.

use std::fmt;
use std::net::Ipv6Addr;

use super::problem::{Refusal, shown};

/// Where a cluster's brokers answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceUrl {
    /// `pulsar+ssl` and not `pulsar`.
    pub tls: bool,
    /// Hosts and ports, at least one.
    pub hosts: Vec<(String, u16)>,
}

impl ServiceUrl {
    /// Parses `pulsar://host[:6650][,host…]` or `pulsar+ssl://host[:6651][,host…]`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        without_password(text)?;
        let (tls, rest) = match text.split_once("://") {
            Some(("pulsar", rest)) => (false, rest),
            Some(("pulsar+ssl", rest)) => (true, rest),
            Some(_) | None => {
                return Err(Refusal::new(
                    format!("{} is no broker's URL", shown(text)),
                    "write pulsar://host:6650 or pulsar+ssl://host:6651",
                ));
            }
        };
        let default_port = if tls { TLS_PORT } else { PLAIN_PORT };
        let hosts = rest.trim_end_matches('/').split(',');
        let hosts: Vec<_> =
            hosts.map(|host| host_port(host, Some(default_port))).collect::<Result<_, _>>()?;
        if hosts.len() > HOSTS_MAX {
            return Err(Refusal::new(
                "too many hosts",
                format!("name at most {HOSTS_MAX}: lookups find the others"),
            ));
        }
        Ok(Self { tls, hosts })
    }

    /// Likewise, for what speaks no TLS.
    pub fn parse_plain(text: &str) -> Result<Self, Refusal> {
        let url = Self::parse(text)?;
        if url.tls {
            return Err(Refusal::new("the load speaks no TLS", "write a pulsar:// URL"));
        }
        Ok(url)
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "pulsar+ssl://" } else { "pulsar://" })?;
        for (index, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}", Authority(host, *port))?;
        }
        Ok(())
    }
}

/// Where a hub accepts links, and what carries the link there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LinkUrl {
    /// What is spoken there first.
    pub scheme: LinkScheme,
    /// Name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What an upgrade to WebSocket asks for; `/` where the URL names none.
    pub path: String,
}

/// What is spoken first at a link's URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkScheme {
    /// The link's own TLS.
    Tls,
    /// Somebody's TLS: the hub's, or an ingress's that passes WebSockets on.
    Wss,
}

impl LinkUrl {
    /// Parses `tls://host:port` or `wss://host[:443][/path]`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        without_password(text)?;
        match text.split_once("://") {
            Some(("tls", rest)) => {
                let (host, port) = host_port(rest.trim_end_matches('/'), None)?;
                Ok(Self { scheme: LinkScheme::Tls, host, port, path: "/".into() })
            }
            Some(("wss", rest)) => {
                let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                let (host, port) = host_port(authority, Some(WSS_PORT))?;
                let path = if path.is_empty() { "/" } else { path };
                Ok(Self { scheme: LinkScheme::Wss, host, port, path: url_path(path)? })
            }
            Some(("ws", _)) => Err(Refusal::new(
                "an edge does not dial without TLS",
                "write wss://host/path, or tls://host:port",
            )),
            Some(_) | None => Err(Refusal::new(
                format!("{} is no link's URL", shown(text)),
                "write tls://host:port or wss://host/path",
            )),
        }
    }

    /// Host and port as HTTP's `Host` and CONNECT have them.
    pub fn authority(&self) -> String {
        Authority(&self.host, self.port).to_string()
    }
}

impl fmt::Display for LinkUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = Authority(&self.host, self.port);
        match self.scheme {
            LinkScheme::Tls => write!(f, "tls://{authority}"),
            LinkScheme::Wss => {
                let path = if self.path == "/" { "" } else { &self.path };
                match self.port {
                    WSS_PORT => write!(f, "wss://{}{path}", Bracketed(&self.host)),
                    _ => write!(f, "wss://{authority}{path}"),
                }
            }
        }
    }
}

/// A path as it goes into a request's first line. Without a query: it would only hold what is secret.
fn url_path(path: &str) -> Result<String, Refusal> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:%/".contains(c);
    if path.len() > PATH_LEN_MAX || !path.chars().all(plain) {
        return Err(Refusal::new(
            format!("{} is no plain path", shown(path)),
            "write a path such as /bridge, without a query",
        ));
    }
    Ok(path.to_owned())
}

/// `host:port`, with the brackets that IPv6 needs.
pub(super) fn authority(host: &str, port: u16) -> String {
    Authority(host, port).to_string()
}

/// Host and port of a proxy's URL behind its scheme.
pub(super) fn proxy_authority(text: &str, default_port: u16) -> Result<(String, u16), Refusal> {
    host_port(text.trim_end_matches('/'), Some(default_port))
}

/// An admin URL in its canonical form, without a slash at the end.
pub(super) fn admin_url(text: &str) -> Result<String, Refusal> {
    without_password(text)?;
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest.trim_end_matches('/')),
        Some(_) | None => {
            return Err(Refusal::new(
                format!("{} is no admin URL", shown(text)),
                "write http://host:8080 or https://host:8443",
            ));
        }
    };
    let (host, port) = host_port(rest, Some(if scheme == "https" { 443 } else { 80 }))?;
    Ok(format!("{scheme}://{}", Authority(&host, port)))
}

/// A host's name alone, without scheme and port.
pub(super) fn host_name(text: &str) -> Result<String, Refusal> {
    if !is_host_name(text) {
        return Err(Refusal::new(
            format!("{} is no host name", shown(text)),
            "write the name alone, without scheme and port",
        ));
    }
    Ok(text.to_owned())
}

fn is_host_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !text.is_empty() && text.len() <= HOST_LEN_MAX && text.chars().all(plain)
}

/// Before any of it is shown: it may be a password.
fn without_password(text: &str) -> Result<(), Refusal> {
    if text.contains('@') {
        return Err(Refusal::new(
            "a URL must not carry a user or password",
            "take it out; tokens belong in pulsar.auth",
        ));
    }
    Ok(())
}

/// Host and port; IPv6 addresses in brackets. Without a default the port must be there.
fn host_port(text: &str, default_port: Option<u16>) -> Result<(String, u16), Refusal> {
    let refused = || {
        let form = if default_port.is_some() { "host or host:port" } else { "host:port" };
        Refusal::new(
            format!("{} is not {form}", shown(text)),
            "name a host and a port from 1 to 65535, and nothing behind them",
        )
    };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or_else(refused)?;
            address.parse::<Ipv6Addr>().map_err(|_| refused())?;
            (address, port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            if !is_host_name(host) {
                return Err(refused());
            }
            (host, port)
        }
    };
    let port = match (port.strip_prefix(':'), default_port) {
        (Some(digits), _) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok(),
        (None, default_port) if port.is_empty() => default_port,
        (_, _) => None,
    };
    match port {
        Some(port) if port > 0 => Ok((host.to_owned(), port)),
        Some(_) | None => Err(refused()),
    }
}

/// `host:port`, with the brackets that IPv6 needs.
struct Authority<'a>(&'a str, u16);

impl fmt::Display for Authority<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", Bracketed(self.0), self.1)
    }
}

/// A host, with the brackets that IPv6 needs.
struct Bracketed<'a>(&'a str);

impl fmt::Display for Bracketed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains(':') {
            return write!(f, "[{}]", self.0);
        }
        f.write_str(self.0)
    }
}

const PLAIN_PORT: u16 = 6650;
const TLS_PORT: u16 = 6651;
const WSS_PORT: u16 = 443;
/// Longer than any ingress's route.
const PATH_LEN_MAX: usize = 1024;
/// The longest DNS name.
const HOST_LEN_MAX: usize = 253;
const HOSTS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broker_urls_have_default_ports_and_several_hosts() {
        for (text, expected) in [
            ("pulsar://broker", "pulsar://broker:6650"),
            ("pulsar+ssl://broker", "pulsar+ssl://broker:6651"),
            ("pulsar://a:1,b,10.0.0.7:3/", "pulsar://a:1,b:6650,10.0.0.7:3"),
            ("pulsar://[::1]:7,[fe80::1]", "pulsar://[::1]:7,[fe80::1]:6650"),
        ] {
            assert_eq!(ServiceUrl::parse(text).map(|url| url.to_string()), Ok(expected.into()));
        }
    }

    #[test]
    fn urls_of_another_kind_are_refused() {
        for text in [
            "",
            "broker:6650",
            "http://broker:8080",
            "pulsar://",
            "pulsar://a,,b",
            "pulsar://a:0",
            "pulsar://a:65536",
            "pulsar://a:+1",
            "pulsar://a:",
            "pulsar://a/b",
            "pulsar://::1",
            "pulsar://[::1",
            "pulsar://[x]:1",
            "pulsar://[::1]x",
            "pulsar://user:secret@a",
            "pulsar://a b",
        ] {
            assert!(ServiceUrl::parse(text).is_err(), "{text}");
        }
        for text in [
            "tls://hub",
            "hub:8001",
            "https://hub:1",
            "tls://hub:1/x",
            "ws://hub/",
            "wss://",
            "wss:///x",
            "wss://hub:0",
            "wss://hub/a b",
            "wss://hub/?token=x",
            "wss://hub/#x",
            "wss://u:p@hub/",
            "tls://:1",
        ] {
            assert!(LinkUrl::parse(text).is_err(), "{text}");
        }
        for text in ["pulsar://a", "http://", "http://a/admin", "http://u:p@a"] {
            assert!(admin_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_not_repeated() {
        let refusal = ServiceUrl::parse("pulsar://user:canary@a").unwrap_err();
        assert!(!refusal.to_string().contains("canary"), "{refusal}");
        let refusal = LinkUrl::parse("https://user:canary@a").unwrap_err();
        assert!(!refusal.to_string().contains("canary"), "{refusal}");
    }

    #[test]
    fn links_and_admin_urls_have_one_form() {
        for (text, canonical) in [
            ("tls://hub:8001/", "tls://hub:8001"),
            ("tls://[::1]:8001", "tls://[::1]:8001"),
            ("wss://hub", "wss://hub"),
            ("wss://hub:443/", "wss://hub"),
            ("wss://[fd00::1]", "wss://[fd00::1]"),
            ("wss://hub:8443/bridge/a", "wss://hub:8443/bridge/a"),
        ] {
            assert_eq!(LinkUrl::parse(text).map(|url| url.to_string()), Ok(canonical.into()));
        }
        let url = LinkUrl::parse("wss://[fd00::1]/x").unwrap();
        assert_eq!((url.authority().as_str(), url.path.as_str()), ("[fd00::1]:443", "/x"));
        assert_eq!(admin_url("http://pulsar:8080/"), Ok("http://pulsar:8080".into()));
        assert_eq!(admin_url("https://pulsar"), Ok("https://pulsar:443".into()));
    }
}
