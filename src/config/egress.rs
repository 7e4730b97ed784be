//! The edge's way out: which proxy, if any, stands between it and a hub. Reads the environment's variables as curl
//! does; takes no user and no password from a URL, and opens no connection.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::problem::{Refusal, shown};
use super::url;

/// The way out of the edge's network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// Through whom.
    pub proxy: Option<Proxy>,
    /// Whom it need not be asked for: only with a proxy of the environment's.
    pub exempt: Exempt,
}

/// A proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// What it speaks.
    pub kind: ProxyKind,
    /// Name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Who asks, where it wants to know.
    pub login: Option<Login>,
}

/// What a proxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyKind {
    /// HTTP's CONNECT.
    Http,
    /// SOCKS5; names are resolved by the proxy.
    Socks5,
}

/// Who asks a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The file with the password, read at every use.
    pub password_file: PathBuf,
}

impl Egress {
    /// The proxy for a host, if there is one.
    pub fn proxy_for(&self, host: &str) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| !self.exempt.has(host))
    }
}

impl Proxy {
    /// Parses `http://host:port` or `socks5://host:port`.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        if text.contains('@') {
            return Err(Refusal::new(
                "a proxy's URL must not carry a user or password",
                "take it out; write tunnel.proxy_user and tunnel.proxy_password_file",
            ));
        }
        let (kind, rest, default_port) = match text.split_once("://") {
            Some(("http", rest)) => (ProxyKind::Http, rest, HTTP_PORT),
            Some(("socks5" | "socks5h", rest)) => (ProxyKind::Socks5, rest, SOCKS_PORT),
            // As curl takes a variable of the environment.
            None => (ProxyKind::Http, text, HTTP_PORT),
            Some(_) => {
                return Err(Refusal::new(
                    format!("{} is no proxy that the bridge speaks to", shown(text)),
                    "write http://host:port or socks5://host:port; for others, run a local helper",
                ));
            }
        };
        let (host, port) = url::proxy_authority(rest, default_port)?;
        Ok(Self { kind, host, port, login: None })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            ProxyKind::Http => "http",
            ProxyKind::Socks5 => "socks5",
        };
        write!(f, "{scheme}://{}", url::authority(&self.host, self.port))
    }
}

/// Hosts that a proxy of the environment is not asked for: `NO_PROXY`, and this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exempt {
    everything: bool,
    /// In lower case, without a leading dot: a name, or the end of one.
    names: Vec<String>,
    networks: Vec<IpNet>,
    this_machine: bool,
}

impl Exempt {
    /// Reads `NO_PROXY`: names, ends of names, addresses and networks, with commas or blanks between; `*` is everything.
    /// What is none of these exempts nobody, as with curl.
    pub fn parse(text: &str) -> Self {
        let mut exempt = Self { this_machine: true, ..Self::default() };
        let items = text.split([',', ' ', '\t']).map(str::trim).filter(|item| !item.is_empty());
        for item in items.take(EXEMPT_MAX) {
            let bare = item.trim_start_matches('[').trim_end_matches(']');
            if item == "*" {
                // By itself, as with curl; in a list it stands for nobody.
                exempt.everything = text.trim() == "*";
            } else if let Ok(network) = bare.parse::<IpNet>() {
                exempt.networks.push(network);
            } else if let Ok(address) = bare.parse::<IpAddr>() {
                exempt.networks.push(address.into());
            } else {
                let name = item.trim_start_matches('.').trim_end_matches('.');
                exempt.names.push(name.to_ascii_lowercase());
            }
        }
        exempt
    }

    /// Whether this host is among them.
    pub fn has(&self, host: &str) -> bool {
        if self.everything {
            return true;
        }
        if let Ok(address) = host.parse::<IpAddr>() {
            return (self.this_machine && address.is_loopback())
                || self.networks.iter().any(|network| network.contains(&address));
        }
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let ends_with = |name: &String| {
            host.strip_suffix(name.as_str()).is_some_and(|front| front.is_empty() || front.ends_with('.'))
        };
        (self.this_machine && host == "localhost") || self.names.iter().any(ends_with)
    }
}

/// curl's default ports.
const HTTP_PORT: u16 = 1080;
const SOCKS_PORT: u16 = 1080;
/// More is no list that somebody keeps.
const EXEMPT_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_have_a_kind_a_host_and_a_port() {
        for (text, expected) in [
            ("http://egress:3128/", "http://egress:3128"),
            ("egress:3128", "http://egress:3128"),
            ("http://egress", "http://egress:1080"),
            ("socks5://[fd00::1]:1080", "socks5://[fd00::1]:1080"),
            ("socks5h://egress", "socks5://egress:1080"),
        ] {
            assert_eq!(Proxy::parse(text).map(|proxy| proxy.to_string()), Ok(expected.into()), "{text}");
        }
        for text in ["", "https://egress:1", "ftp://egress", "http://", "http://a/b", "socks4://a:1"] {
            assert!(Proxy::parse(text).is_err(), "{text}");
        }
        let refusal = Proxy::parse("http://me:canary@egress:3128").unwrap_err().to_string();
        assert!(refusal.contains("proxy_password_file") && !refusal.contains("canary"), "{refusal}");
    }

    #[test]
    fn who_is_exempt_is_read_as_curl_reads_it() {
        let exempt = Exempt::parse("corp.example, .lan 10.0.0.0/8,192.0.2.7 [fd00::1],fe80::/10");
        for host in [
            "corp.example",
            "a.corp.example",
            "A.Corp.Example.",
            "x.lan",
            "lan",
            "10.1.2.3",
            "192.0.2.7",
            "fd00::1",
        ] {
            assert!(exempt.has(host), "{host}");
        }
        for host in ["xcorp.example", "corp.example.org", "11.0.0.1", "192.0.2.8", "fd00::2"] {
            assert!(!exempt.has(host), "{host}");
        }
        assert!(Exempt::parse("*").has("anything"));
        assert!(Exempt::parse("").has("localhost") && Exempt::parse("").has("127.0.0.9"));
        assert!(!Exempt::default().has("localhost"), "a proxy that the configuration names is for everybody");
    }
}
