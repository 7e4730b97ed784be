//! What a forward may reach: exact `host:port` in one canonical form, and the addresses that a name must not lead to.
//! Decides about texts and addresses; resolves nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A target, canonical: equal texts mean equal targets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    host: Host,
    port: u16,
}

/// Its host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An address, spelled out; never an IPv4 one in IPv6's clothes.
    Address(IpAddr),
    /// A name, in lower case. With a dot at its end it is whole (RFC 1034 §3.1); without one a resolver may try the
    /// ends of names that its machine lists first, so these are two names.
    Name(String),
}

/// Why a text is no target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Only TCP is forwarded.
    #[error("forwards carry tcp only, not udp")]
    Udp,
    /// A URL where host and port belong.
    #[error("a url, not host:port")]
    Url,
    /// No port, or none from 1 to 65535.
    #[error("without a port from 1 to 65535")]
    Port,
    /// An IPv6 address without brackets, or something else in them.
    #[error("an ipv6 address stands in brackets, without a zone")]
    Brackets,
    /// An IPv4 address in a spelling that programs read differently.
    #[error("an ipv4 address is spelled as four plain decimal numbers")]
    OddAddress,
    /// Neither a name nor an address.
    #[error("neither a host name nor an address")]
    Host,
    /// A name for this machine's own loopback, whose services trust whoever reaches them.
    #[error("`localhost` is a name, and a name may not lead to the machine's own services")]
    Localhost,
}

impl TargetError {
    /// What to do about it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::Udp => "name a tcp port; for dns or other udp use the other site's own means",
            Self::Localhost => "write the address, 127.0.0.1 or [::1], where it is really meant",
            Self::Url | Self::Port | Self::Brackets | Self::OddAddress | Self::Host => {
                "write host:port, such as kubernetes.default.svc:443, 10.0.0.7:22 or [2001:db8::7]:22"
            }
        }
    }
}

impl Target {
    /// Parses `host:port`.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        if let Some((scheme, _)) = text.split_once("://") {
            return Err(if scheme.eq_ignore_ascii_case("udp") { TargetError::Udp } else { TargetError::Url });
        }
        let (host, port) = text.rsplit_once(':').ok_or(TargetError::Port)?;
        let plain = !port.is_empty() && port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| plain && *port > 0).ok_or(TargetError::Port)?;
        Ok(Self { host: Host::parse(host)?, port })
    }

    /// Its host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl Host {
    fn parse(text: &str) -> Result<Self, TargetError> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(TargetError::Brackets)?;
            let address: Ipv6Addr = inner.parse().map_err(|_| TargetError::Brackets)?;
            return Ok(Self::Address(IpAddr::V6(address).to_canonical()));
        }
        if text.contains(':') {
            return Err(TargetError::Brackets);
        }
        let whole = text.to_ascii_lowercase();
        let name = whole.strip_suffix('.').unwrap_or(&whole);
        if let Ok(address) = name.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        let label = |label: &str| {
            let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            (1..=LABEL_LEN_MAX).contains(&label.len()) && label.bytes().all(inner)
        };
        if name.len() > NAME_LEN_MAX || !name.split('.').all(label) {
            return Err(TargetError::Host);
        }
        // What inet_aton reads as a number (127.1, 0x7f.1, 2130706433) is no name to the resolvers that call it.
        let last = name.rsplit('.').next().unwrap_or_default();
        let is_hex = last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        if is_hex || last.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(TargetError::OddAddress);
        }
        if last == "localhost" {
            return Err(TargetError::Localhost);
        }
        Ok(Self::Name(whole))
    }
}

/// Whether an address that a name resolved to is one that services trust for where it is: the machine's own, its
/// link's, the metadata of its cloud. Those are reached only by whoever wrote them down.
pub fn is_trusted_place(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_trusted_v4(v4),
        IpAddr::V6(v6) => {
            v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || METADATA_V6.contains(&v6)
                || carried_v4(v6).is_some_and(is_trusted_v4)
        }
    }
}

fn is_trusted_v4(address: Ipv4Addr) -> bool {
    address.octets()[0] == 0
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || METADATA_V4.contains(&address)
}

/// The IPv4 address to which a translator or a relay takes packets for an IPv6 one.
fn carried_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let within = |network: Ipv6Addr, bits: u32| (v6.to_bits() ^ network.to_bits()).leading_zeros() >= bits;
    // The old form `::a.b.c.d`, RFC 6052's prefix, and any of 96 bits in RFC 8215's.
    if within(Ipv6Addr::UNSPECIFIED, 96) || within(NAT64, 96) || within(NAT64_LOCAL, 48) {
        return Some(Ipv4Addr::from_bits(v6.to_bits() as u32));
    }
    within(SIX_TO_FOUR, 16).then(|| Ipv4Addr::from_bits((v6.to_bits() >> 80) as u32))
}

/// Bounds on the connections of one forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardLimits {
    /// Connections that may be open at once.
    pub connections: u32,
    /// New connections per second, when they are limited.
    pub rate: Option<u32>,
}

impl Default for ForwardLimits {
    fn default() -> Self {
        Self { connections: CONNECTIONS_DEFAULT, rate: None }
    }
}

/// The targets that another site may reach here. The default allows none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetRules {
    rules: BTreeMap<Target, ForwardLimits>,
}

impl TargetRules {
    /// Allows a target; whether it was not allowed before.
    pub fn allow(&mut self, target: Target, limits: ForwardLimits) -> bool {
        self.rules.insert(target, limits).is_none()
    }

    /// Its bounds, when it is allowed.
    pub fn of(&self, target: &Target) -> Option<ForwardLimits> {
        self.rules.get(target).copied()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Target, &ForwardLimits)> {
        self.rules.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether nothing is allowed.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

/// What one may have open at once unless it says otherwise.
pub const CONNECTIONS_DEFAULT: u32 = 128;
/// What a forward, or a target, may have open at most, whatever is said.
pub const CONNECTIONS_MAX: u32 = 10_000;
/// Forwards of one site, and of one declaration.
pub const FORWARDS_MAX: usize = 64;
const LABEL_LEN_MAX: usize = 63;
/// The longest DNS name.
const NAME_LEN_MAX: usize = 253;
/// RFC 6052: IPv4 addresses behind a translator.
const NAT64: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);
/// RFC 8215: the same with a site's own prefixes.
const NAT64_LOCAL: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0);
/// RFC 3056.
const SIX_TO_FOUR: Ipv6Addr = Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0);
/// Clouds' own services that do not lie in the link-local ranges: AWS's names and metadata, Google's metadata.
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];
/// Alibaba's metadata, Azure's virtual public address, Oracle's metadata.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_target_has_one_form() {
        for (text, canonical) in [
            ("kubernetes.default.svc:443", "kubernetes.default.svc:443"),
            ("Kubernetes.Default.SVC.:443", "kubernetes.default.svc.:443"),
            ("host:00443", "host:443"),
            ("10.0.0.7:22", "10.0.0.7:22"),
            ("10.0.0.7.:22", "10.0.0.7:22"),
            ("[2001:DB8:0::7]:22", "[2001:db8::7]:22"),
            ("[::ffff:10.0.0.7]:22", "10.0.0.7:22"),
            ("_x.a-b:1", "_x.a-b:1"),
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!(target.to_string(), canonical, "{text}");
            assert_eq!(Target::parse(canonical), Ok(target));
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (text, error) in [
            ("udp://dns:53", TargetError::Udp),
            ("https://kube:443", TargetError::Url),
            ("kube", TargetError::Port),
            ("kube:0", TargetError::Port),
            ("kube:65536", TargetError::Port),
            ("kube:+1", TargetError::Port),
            ("kube:", TargetError::Port),
            ("kube:4 3", TargetError::Port),
            ("::1:22", TargetError::Brackets),
            ("[::1:22", TargetError::Brackets),
            ("[fe80::1%eth0]:22", TargetError::Brackets),
            ("[127.0.0.1]:22", TargetError::Brackets),
            ("127.1:22", TargetError::OddAddress),
            ("0177.0.0.1:22", TargetError::OddAddress),
            ("0x7f.0.0.1:22", TargetError::OddAddress),
            ("2130706433:22", TargetError::OddAddress),
            ("a.0x7f:22", TargetError::OddAddress),
            ("256.0.0.1:22", TargetError::OddAddress),
            ("localhost:22", TargetError::Localhost),
            ("a.LOCALHOST.:22", TargetError::Localhost),
            (":22", TargetError::Host),
            (".:22", TargetError::Host),
            ("a..b:22", TargetError::Host),
            ("a b:22", TargetError::Host),
            ("user@host:22", TargetError::Host),
            ("h\u{f6}st:22", TargetError::Host),
            ("a/b:22", TargetError::Host),
            ("*.svc:22", TargetError::Host),
        ] {
            assert_eq!(Target::parse(text), Err(error), "{text}");
        }
        assert_eq!(Target::parse(&format!("{}:1", "x".repeat(64))), Err(TargetError::Host));
        assert_eq!(Target::parse(&format!("{}:1", "x.".repeat(127) + "y")), Err(TargetError::Host));
    }

    #[test]
    fn a_name_must_not_lead_to_places_that_are_trusted_for_where_they_are() {
        for text in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "100.100.100.200",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "168.63.129.16",
            "192.0.0.192",
            "::ffff:168.63.129.16",
            "fd00:ec2::23",
            "fd00:ec2::254",
            "fd20:ce::254",
            "64:ff9b::a83f:8110",
            "64:ff9b:1::127.0.0.1",
            "64:ff9b:1:ffff:ffff:ffff:169.254.169.254",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2002:c000:c0:1:2:3:4:5",
        ] {
            assert!(is_trusted_place(text.parse().unwrap()), "{text}");
        }
        for text in [
            "10.0.0.7",
            "192.168.1.1",
            "8.8.8.8",
            "168.63.129.17",
            "192.0.0.191",
            "2001:db8::1",
            "fd00::1",
            "fd00:ec2::24",
            "64:ff9b::10.0.0.7",
            "64:ff9b:1::10.0.0.7",
            "64:ff9b:2::127.0.0.1",
            "2002:a00:7::7f00:1",
        ] {
            assert!(!is_trusted_place(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn only_what_is_listed_is_allowed_and_a_host_without_its_port_is_not() {
        let mut rules = TargetRules::default();
        let target = |text| Target::parse(text).unwrap();
        assert!(rules.allow(target("kube:443"), ForwardLimits { connections: 3, rate: Some(2) }));
        assert!(!rules.allow(target("KUBE:443"), ForwardLimits { connections: 3, rate: Some(2) }));
        assert_eq!(rules.of(&target("kube:443")).unwrap().connections, 3);
        for other in ["kube:444", "kube.:443", "kube.svc:443", "10.0.0.1:443"] {
            assert_eq!(rules.of(&target(other)), None);
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_parses_has_one_form(text in "\\PC{0,40}", host in "[a-zA-Z0-9.:\\[\\]-]{0,40}", port: u16) {
            for text in [text, format!("{host}:{port}")] {
                if let Ok(target) = Target::parse(&text) {
                    proptest::prop_assert_eq!(Target::parse(&target.to_string()), Ok(target));
                }
            }
        }
    }
}
