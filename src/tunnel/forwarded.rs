//! On whose behalf a connection comes, as load balancers say it: the PROXY protocol's header, version 1 or 2, and
//! X-Forwarded-For. Believes only whom the configuration lists. Holds no socket.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    address: IpAddr,
    /// The address's port, where it is known.
    port: Option<u16>,
    /// Who said so, instead of the caller's own socket.
    via: Option<SocketAddr>,
}

impl Caller {
    /// The other end of a socket itself.
    pub fn of(remote: SocketAddr) -> Self {
        Self { address: remote.ip(), port: Some(remote.port()), via: None }
    }

    /// The address that counts.
    pub fn ip(&self) -> IpAddr {
        self.address
    }

    /// What a PROXY header says that `via` sent.
    pub fn told(source: SocketAddr, via: SocketAddr) -> Self {
        Self { address: source.ip(), port: Some(source.port()), via: Some(via) }
    }

    /// What X-Forwarded-For adds: from its end, the first address that is not itself trusted; each of them is known
    /// only because the one behind it is.
    pub fn forwarded_for(self, header: &str, trusted: &[IpNet], via: SocketAddr) -> Self {
        let mut caller = self;
        for item in header.rsplit(',').take(HOPS_MAX) {
            if !is_trusted(caller.address, trusted) {
                break;
            }
            let Some(address) = address_of(item.trim()) else {
                break;
            };
            caller = Self { address, port: None, via: Some(via) };
        }
        caller
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}", SocketAddr::new(self.address, port))?,
            None => write!(f, "{}", self.address)?,
        }
        match self.via {
            Some(via) => write!(f, " (by {via})"),
            None => Ok(()),
        }
    }
}

/// Whether an address may speak for others.
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.contains(&address))
}

/// An item of X-Forwarded-For: some write a port behind the address.
fn address_of(item: &str) -> Option<IpAddr> {
    let bare = item.trim_start_matches('[').trim_end_matches(']');
    bare.parse().ok().or_else(|| item.parse().ok().map(|address: SocketAddr| address.ip()))
}

/// A version 1 header, `PROXY TCP4 source destination port port` and CRLF; `None`: the sender does not tell.
pub fn version_1(line: &[u8]) -> Result<Option<SocketAddr>, BadHeader> {
    let line = line.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok()).ok_or(BadHeader)?;
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, port, to_port] => {
            let source: IpAddr = source.parse().map_err(|_| BadHeader)?;
            let destination: IpAddr = destination.parse().map_err(|_| BadHeader)?;
            let (port, _): (u16, u16) =
                (port.parse().map_err(|_| BadHeader)?, to_port.parse().map_err(|_| BadHeader)?);
            if [source, destination].iter().any(|address| address.is_ipv4() != (family == "TCP4")) {
                return Err(BadHeader);
            }
            Ok(Some(SocketAddr::new(source, port)))
        }
        _ => Err(BadHeader),
    }
}

/// How long the rest of a version 2 header is, by its first [`V2_HEAD_LEN`] bytes:
/// ```text
/// [ signature 12 | version 4 bits, command 4 | family 4, protocol 4 | length u16 ]
/// ```
pub fn version_2_len(head: &[u8; V2_HEAD_LEN]) -> Result<usize, BadHeader> {
    let len = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if !head.starts_with(V2_SIGNATURE) || head[12] >> 4 != 2 || len > V2_REST_LEN_MAX {
        return Err(BadHeader);
    }
    Ok(len)
}

/// A version 2 header; `None`: the sender speaks for itself, or of no address.
/// ```text
/// TCP over IPv4: [ source 4 | destination 4 | port u16 | port u16 | … ]     IPv6: [ 16 | 16 | u16 | u16 | … ]
/// ```
pub fn version_2(head: &[u8; V2_HEAD_LEN], rest: &[u8]) -> Result<Option<SocketAddr>, BadHeader> {
    match (head[12] & 0xf, head[13]) {
        (0, _) => Ok(None),
        (1, 0x11) => {
            let (address, rest) = rest.split_first_chunk::<4>().ok_or(BadHeader)?;
            let port = rest.get(4..8).and_then(|ports| ports.first_chunk::<2>()).ok_or(BadHeader)?;
            Ok(Some((Ipv4Addr::from(*address), u16::from_be_bytes(*port)).into()))
        }
        (1, 0x21) => {
            let (address, rest) = rest.split_first_chunk::<16>().ok_or(BadHeader)?;
            let port = rest.get(16..20).and_then(|ports| ports.first_chunk::<2>()).ok_or(BadHeader)?;
            Ok(Some((Ipv6Addr::from(*address), u16::from_be_bytes(*port)).into()))
        }
        (1, _) => Ok(None),
        _ => Err(BadHeader),
    }
}

/// What stands there is no PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no PROXY header")]
pub struct BadHeader;

/// What a version 1 header begins with.
pub const V1_START: &[u8; 6] = b"PROXY ";
/// The longest version 1 header, CRLF included.
pub const V1_LEN_MAX: usize = 107;
/// What a version 2 header begins with.
pub const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Up to its length.
pub const V2_HEAD_LEN: usize = 16;
/// Addresses, and what load balancers add to them.
const V2_REST_LEN_MAX: usize = 1024;
/// Proxies behind each other.
const HOPS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted() -> Vec<IpNet> {
        vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]
    }

    #[test]
    fn version_1_tells_the_source() {
        let told =
            |line: &str| version_1(line.as_bytes()).map(|source| source.map(|source| source.to_string()));
        assert_eq!(told("PROXY TCP4 192.0.2.1 10.0.0.1 5000 443\r\n"), Ok(Some("192.0.2.1:5000".into())));
        assert_eq!(told("PROXY TCP6 fd00::1 fd00::2 5000 443\r\n"), Ok(Some("[fd00::1]:5000".into())));
        assert_eq!(told("PROXY UNKNOWN\r\n"), Ok(None));
        assert_eq!(told("PROXY UNKNOWN anything at all\r\n"), Ok(None));
        for line in [
            "PROXY TCP4 192.0.2.1 10.0.0.1 5000 443\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 5000\r\n",
            "PROXY TCP4 fd00::1 10.0.0.1 5000 443\r\n",
            "PROXY TCP6 192.0.2.1 10.0.0.1 5000 443\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 65536 443\r\n",
            "PROXY TCP4  192.0.2.1 10.0.0.1 5000 443\r\n",
            "proxy TCP4 192.0.2.1 10.0.0.1 5000 443\r\n",
            "PROXY \u{e4}\r\n",
        ] {
            assert_eq!(told(line), Err(BadHeader), "{line:?}");
        }
    }

    fn header(command: u8, family: u8, rest: &[u8]) -> ([u8; V2_HEAD_LEN], Vec<u8>) {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        let head = [&V2_SIGNATURE[..], &[0x20 | command, family], &len].concat();
        (head.try_into().unwrap(), rest.to_vec())
    }

    #[test]
    fn version_2_tells_the_source_and_its_own_length() {
        let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 0x13, 0x88, 1, 0xbb, 3, 0, 1, b'x'];
        let (head, rest) = header(1, 0x11, &v4);
        assert_eq!(version_2_len(&head), Ok(16));
        assert_eq!(version_2(&head, &rest), Ok(Some("192.0.2.1:5000".parse().unwrap())));
        let v6 = [&[0xfd; 16][..], &[0; 16], &[0x13, 0x88, 1, 0xbb]].concat();
        let (head, rest) = header(1, 0x21, &v6);
        let source = "[fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd]:5000".parse().unwrap();
        assert_eq!(version_2(&head, &rest), Ok(Some(source)));
        for (command, family) in [(0, 0), (0, 0x11), (1, 0), (1, 0x31)] {
            let (head, rest) = header(command, family, &[]);
            assert_eq!(version_2(&head, &rest), Ok(None), "{command} {family}");
        }
        for (command, family, rest) in [(1, 0x11, &v4[..11]), (1, 0x21, &v6[..35]), (2, 0x11, &v4[..])] {
            let (head, rest) = header(command, family, rest);
            assert_eq!(version_2(&head, &rest), Err(BadHeader), "{command} {family}");
        }
        let (mut head, _) = header(1, 0x11, &v4);
        head[14..].copy_from_slice(&[0xff, 0xff]);
        assert_eq!(version_2_len(&head), Err(BadHeader), "a length that nobody needs");
        head[12] = 0x11;
        assert_eq!(version_2_len(&head), Err(BadHeader), "version 1 in the binary form");
    }

    #[test]
    fn forwarded_for_is_believed_hop_by_hop_from_its_end() {
        let told = |from: &str, header: &str| {
            let via: SocketAddr = SocketAddr::new(from.parse().unwrap(), 1);
            Caller::of(via).forwarded_for(header, &trusted(), via).ip().to_string()
        };
        assert_eq!(told("10.0.0.1", "192.0.2.1"), "192.0.2.1");
        assert_eq!(told("10.0.0.1", "1.1.1.1, 192.0.2.1"), "192.0.2.1", "what a client put in itself");
        assert_eq!(told("10.0.0.1", "1.1.1.1, 192.0.2.1, 10.0.0.2"), "192.0.2.1");
        assert_eq!(told("fd00::1", "[2001:db8::1]"), "2001:db8::1");
        assert_eq!(told("10.0.0.1", "192.0.2.1:5000"), "192.0.2.1");
        assert_eq!(told("192.0.2.9", "1.1.1.1"), "192.0.2.9", "who is not trusted says nothing");
        assert_eq!(told("::ffff:10.0.0.1", "192.0.2.1"), "192.0.2.1");
        for garbage in ["", "unknown", "1.1.1.1, x"] {
            assert_eq!(told("10.0.0.1", garbage), "10.0.0.1", "{garbage}");
        }
    }

    #[test]
    fn a_caller_is_shown_with_who_told_of_it() {
        let via: SocketAddr = "10.0.0.1:9".parse().unwrap();
        assert_eq!(Caller::of(via).to_string(), "10.0.0.1:9");
        assert_eq!(
            Caller::told("192.0.2.1:5".parse().unwrap(), via).to_string(),
            "192.0.2.1:5 (by 10.0.0.1:9)"
        );
    }
}
