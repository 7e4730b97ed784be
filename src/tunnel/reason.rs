//! Why a lane or link is not up: the one catalogue of codes, messages and remedies.
//! Texts are ours; what a peer said appears only capped and escaped.

use std::fmt;
use std::time::Duration;

pub use super::egress::Said;
pub use super::unvouched::Unvouched;

/// A typed reason, shown on the board and logged once for each change of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The other side is not the hub that the token pins, or that `hub_name` and `ca_file` tell.
    Intercepted {
        /// Who issued its certificate, as that says (capped, escaped).
        issuer: String,
        /// SHA-256 of its certificate, hex.
        leaf_sha256: String,
        /// The proxy that the connection went through.
        via: Option<String>,
        /// By what the hub would have been known.
        known_by: KnownBy,
    },
    /// The hub is right, but its certificates are not valid at this machine's time.
    Clock {
        /// How far this machine's time lies outside of their validity, at least.
        skew: Duration,
        /// Whether this machine is ahead of it.
        ahead: bool,
    },
    /// The hub's issuer is from before `tunnel.trust_after`.
    IssuerDistrusted,
    /// The hub does not list this edge's key.
    RefusedUnknownKey,
    /// The name in Hello or Welcome is not the authenticated one.
    RefusedSiteMismatch,
    /// The key that a lane was joined by is no longer accepted here.
    Revoked,
    /// Too many processes use one edge's key.
    TooManyInstances,
    /// The link that a relay lane belongs to does not live in this hub process.
    NoSuchLink,
    /// A newer connection took this one's place.
    Superseded,
    /// The lane asked for is none that this link has.
    LaneRefused,
    /// No protocol version in common.
    Version,
    /// What came is not of the bridge's protocol, though the peer was authenticated.
    Malformed,
    /// The other side refused this side's certificate.
    CertificateRefused,
    /// The hub does not take the edge's certificate of an own PKI.
    Unvouched(Unvouched),
    /// What answers (or calls) does not speak the bridge's TLS.
    NotABridge,
    /// No TCP connection.
    Unreachable {
        /// The system's word.
        error: String,
    },
    /// The proxy wants to know who asks, and does not take what it was told.
    ProxyAuth {
        /// The ways that it offers, of those that have a name here.
        offered: Vec<&'static str>,
    },
    /// The file with the proxy's password cannot be used.
    ProxyPassword {
        /// The file, and the system's word.
        problem: String,
    },
    /// The proxy does not connect to the hub, or is no proxy.
    ProxyRefused {
        /// How it said so.
        said: Said,
    },
    /// The ingress of a `wss://` URL does not pass a WebSocket on.
    UpgradeRefused {
        /// Its status.
        status: u16,
    },
    /// What ends the TLS of a `wss://` URL speaks no TLS 1.3.
    IngressTls,
    /// A PROXY header by somebody who is not trusted to say on whose behalf it calls.
    ProxyHeader,
    /// Connecting or the handshake took too long.
    Timeout,
    /// Nothing arrived for three keepalives.
    Silence,
    /// Nothing of what was sent was taken for two minutes, though the other side speaks.
    Unread,
    /// It is older than any connection may be.
    LaneAge,
    /// The address that the connection had is no longer this machine's.
    AddressGone,
    /// The other side ended the connection.
    PeerClosed,
    /// An edge tried its way to the hub, and asked for no lane.
    Checked,
    /// Too many unauthenticated sockets: one of the busiest address went.
    Displaced,
    /// We ended it.
    Ended,
    /// The other side gave a code that this version does not know.
    RefusedUnknownCode(u32),
}

/// How an edge knows its hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnownBy {
    /// By the pins in its token.
    Pin,
    /// By a name and authorities of an own PKI.
    Name {
        /// The names in the certificate that was presented, as it says (capped, escaped).
        presented: Box<str>,
    },
}

impl Reason {
    /// The code: stable, for scripts and metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Intercepted { .. } => "intercepted",
            Self::Clock { .. } => "clock",
            Self::IssuerDistrusted => "issuer_distrusted",
            Self::RefusedUnknownKey => "refused_unknown_key",
            Self::RefusedSiteMismatch => "refused_site_mismatch",
            Self::Revoked => "revoked",
            Self::TooManyInstances => "too_many_instances",
            Self::NoSuchLink => "no_such_link",
            Self::Superseded => "superseded",
            Self::LaneRefused => "lane_refused",
            Self::Version => "version",
            Self::Malformed => "malformed",
            Self::CertificateRefused => "certificate_refused",
            Self::Unvouched(why) => why.code(),
            Self::NotABridge => "not_a_bridge",
            Self::Unreachable { .. } => "unreachable",
            Self::ProxyAuth { .. } => "proxy_auth",
            Self::ProxyPassword { .. } => "proxy_password",
            Self::ProxyRefused { .. } => "proxy_refused",
            Self::UpgradeRefused { .. } => "upgrade_refused",
            Self::IngressTls => "ingress_tls",
            Self::ProxyHeader => "proxy_header",
            Self::Timeout => "timeout",
            Self::Silence => "silence",
            Self::Unread => "unread",
            Self::LaneAge => "lane_age",
            Self::AddressGone => "address_gone",
            Self::PeerClosed => "peer_closed",
            Self::Checked => "checked",
            Self::Displaced => "displaced",
            Self::Ended => "ended",
            Self::RefusedUnknownCode(_) => "refused",
        }
    }

    /// Whether somebody has to act before dialling again can help.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Intercepted { .. }
            | Self::Clock { .. }
            | Self::IssuerDistrusted
            | Self::RefusedUnknownKey
            | Self::RefusedSiteMismatch
            | Self::Revoked
            | Self::TooManyInstances
            | Self::LaneRefused
            | Self::Version
            | Self::Malformed
            | Self::CertificateRefused
            | Self::Unvouched(_)
            | Self::NotABridge
            | Self::ProxyAuth { .. }
            | Self::ProxyPassword { .. }
            | Self::ProxyRefused { .. }
            | Self::UpgradeRefused { .. }
            | Self::IngressTls
            | Self::ProxyHeader
            | Self::RefusedUnknownCode(_) => true,
            Self::NoSuchLink
            | Self::Superseded
            | Self::Unreachable { .. }
            | Self::Timeout
            | Self::Silence
            | Self::Unread
            | Self::LaneAge
            | Self::AddressGone
            | Self::PeerClosed
            | Self::Checked
            | Self::Displaced
            | Self::Ended => false,
        }
    }

    /// What an operator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Intercepted { issuer, known_by, .. } => not_the_hub_remedy(issuer, known_by),
            Self::Clock { .. } => "set this machine's clock, or renew the hub's issuer if it has expired",
            Self::IssuerDistrusted => {
                "renew the hub's issuer (`bridge init --renew-issuer`); if it has the new one, somebody else answers with the old one: check the address"
            }
            Self::RefusedUnknownKey => {
                "list this edge's key (bk1.…) under tunnel.edges[].keys at the hub, or the name in its certificate as cert_name, or use the token that the hub knows; a key that was taken away stays out where the file `revoked` beside the hub's issuer has it (where its certificate is of an own PKI there is none): the edge needs a new one, by `bridge init --rotate` at the hub, or by `bridge init --own-key` with another --out at an edge that makes its own"
            }
            Self::RefusedSiteMismatch => {
                "make the edge's `site` the name of its entry in the hub's tunnel.edges, and what the edge calls the hub (in its token, or hub_site) the hub's `site`"
            }
            Self::Revoked => {
                "none needed if it was meant: the edge joins again with a key that is listed at the hub"
            }
            Self::TooManyInstances => {
                "stop the other processes that use this token, raise max_instances at the hub, or rotate the token if they are not yours"
            }
            Self::NoSuchLink => {
                "none needed: the load balancer led to another hub process, the lane is dialled again"
            }
            Self::Superseded => "none needed: a newer connection of the same process took over",
            Self::LaneRefused => "lower tunnel.lanes at the edge to what the hub allows",
            Self::Version => "upgrade the older side: version N speaks N-1",
            Self::Malformed => "upgrade the older side; if both are equal, report it with both logs",
            Self::CertificateRefused => {
                "the edge's log says why: its token pins another root (after a rotation of roots `bridge init --repin` there, else a token of this hub's `bridge init`); its trust_after is later than this hub's issuer (put the new one's issuer.key and chain.pem into tunnel.identity); its ca_file or hub_name is of another hub; or its clock is wrong"
            }
            Self::Unvouched(why) => why.remedy(),
            Self::NotABridge => "check host and port: something else listens or calls there",
            Self::Unreachable { .. } => "check address, DNS, route and firewall, and that the hub is running",
            Self::ProxyAuth { .. } => {
                "set tunnel.proxy_user and tunnel.proxy_password_file, or correct them; a proxy that takes only NTLM or Negotiate needs a local helper such as cntlm or px, which tunnel.proxy then names"
            }
            Self::ProxyPassword { .. } => {
                "put the file of tunnel.proxy_password_file there, readable for this user alone (chmod 0600)"
            }
            Self::ProxyRefused { .. } => {
                "have the proxy allow CONNECT to the hub's host and port, and check that tunnel.proxy names the proxy"
            }
            Self::UpgradeRefused { .. } => {
                "have the ingress pass WebSocket upgrades of this host and path on to the hub's port (nginx: proxy_http_version 1.1 and the headers Upgrade and Connection)"
            }
            Self::IngressTls => {
                "have the ingress offer TLS 1.3 (nginx before 1.23.4 needs ssl_protocols TLSv1.2 TLSv1.3)"
            }
            Self::ProxyHeader => "list the load balancer's address in tunnel.trusted_proxies",
            Self::Timeout => {
                "check firewall and proxies on the way: packets are dropped, or the hub is overloaded"
            }
            Self::Silence => {
                "none needed if it comes back: the network dropped the connection without saying so"
            }
            Self::Unread => {
                "none needed if it comes back: the other side does not read what it is sent, look into its log"
            }
            Self::LaneAge => {
                "none needed: it is dialled anew; upgrade the edge if its log says no `link renewed` each day"
            }
            Self::AddressGone => "none needed if it comes back: this machine changed its network",
            Self::PeerClosed => "none needed if it comes back: look into the other side's log",
            Self::Checked => "none needed: somebody ran `bridge check` there",
            Self::Displaced => "see bridge_tunnel_unauthenticated_sockets: somebody floods the port",
            Self::Ended => "none needed",
            Self::RefusedUnknownCode(_) => "upgrade this side: the other one knows a newer reason",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Intercepted { issuer, leaf_sha256, via, known_by } => {
                write!(f, "the certificate is not the hub's: issued by `{issuer}`, sha256 {leaf_sha256}")?;
                if let KnownBy::Name { presented } = known_by {
                    write!(f, ", for `{presented}`")?;
                }
                via.iter().try_for_each(|proxy| write!(f, ", through the proxy {proxy}"))
            }
            Self::Clock { skew, ahead } => write!(
                f,
                "this machine's clock is at least {} {} the validity of the hub's certificates",
                Days(*skew),
                if *ahead { "past the end of" } else { "before the start of" }
            ),
            Self::IssuerDistrusted => f.write_str("the hub's issuer is from before `tunnel.trust_after`"),
            Self::RefusedUnknownKey => f.write_str("the hub does not know this key"),
            Self::RefusedSiteMismatch => {
                f.write_str("one of the two sites has another name than the other side knows it by")
            }
            Self::Revoked => f.write_str("the key is no longer accepted"),
            Self::TooManyInstances => f.write_str("too many processes use this edge's key"),
            Self::NoSuchLink => f.write_str("the link does not live in this hub process"),
            Self::Superseded => f.write_str("a newer connection took this one's place"),
            Self::LaneRefused => f.write_str("the link has no such lane"),
            Self::Version => f.write_str("no protocol version in common"),
            Self::Malformed => f.write_str("the peer sent what the protocol does not have"),
            Self::CertificateRefused => f.write_str("the caller does not believe this hub's certificate"),
            Self::Unvouched(why) => why.fmt(f),
            Self::NotABridge => f.write_str("the other side is no bridge"),
            Self::Unreachable { error } => write!(f, "no connection: {error}"),
            Self::ProxyAuth { offered } if offered.is_empty() => {
                f.write_str("the proxy does not take this user, or wants one")
            }
            Self::ProxyAuth { offered } => {
                write!(f, "the proxy does not take this user, or wants one: it offers {}", offered.join(", "))
            }
            Self::ProxyPassword { problem } => write!(f, "the proxy's password: {problem}"),
            Self::ProxyRefused { said: Said::Status(status) } => {
                write!(f, "the proxy does not connect to the hub: status {status}")
            }
            Self::ProxyRefused { said: Said::Socks(reply) } => {
                write!(f, "the proxy does not connect to the hub: SOCKS5 reply {reply}")
            }
            Self::ProxyRefused { said: Said::NoProxy } => f.write_str("what answers is no such proxy"),
            Self::UpgradeRefused { status } => {
                write!(f, "the ingress does not pass a websocket on: status {status}")
            }
            Self::IngressTls => f.write_str("what ends the TLS of this URL speaks no TLS 1.3"),
            Self::ProxyHeader => f.write_str("a PROXY header by an address that is not trusted to send one"),
            Self::Timeout => f.write_str("connecting took too long"),
            Self::Silence => f.write_str("nothing arrived for three keepalives"),
            Self::Unread => f.write_str("the other side takes nothing of what is sent"),
            Self::LaneAge => f.write_str("the connection is older than any may be"),
            Self::AddressGone => f.write_str("this machine no longer has the connection's address"),
            Self::PeerClosed => f.write_str("the other side closed the connection"),
            Self::Checked => f.write_str("the edge tried its way here, and is known"),
            Self::Displaced => f.write_str("given up for a newer unauthenticated connection"),
            Self::Ended => f.write_str("ended by this side"),
            Self::RefusedUnknownCode(code) => write!(f, "refused with the unknown code {code}"),
        }
    }
}

impl std::error::Error for Reason {}

fn not_the_hub_remedy(issuer: &str, known_by: &KnownBy) -> &'static str {
    match known_by {
        KnownBy::Name { .. } => {
            "compare tunnel.hub_name with the names in the certificate, and tunnel.ca_file with its issuer; if they are not the hub's, something between ends the TLS, or the address leads elsewhere: exempt the hub's address from inspection; if it is the ingress of a wss:// URL, name its authority in tunnel.outer_ca_file"
        }
        KnownBy::Pin if issuer.starts_with(ISSUER_OF_A_HUB) => {
            "if the hub's root was replaced, give this edge's token the pin that the hub's operator tells (`bridge init --repin`); if the token is of another `bridge init` than the hub, get a new one there; else the address leads to another hub, or to one that only calls itself so: compare the hash, exempt the hub's address from inspection"
        }
        KnownBy::Pin => {
            "something between ends the TLS, or the hub has another root: compare the issuer, exempt the hub's address from inspection, or get a new token; if it is the ingress of a wss:// URL, name its authority in tunnel.outer_ca_file"
        }
    }
}

/// A peer's text as it may be shown: at most [`PEER_TEXT_LEN_MAX`] characters, control characters escaped.
pub fn shown(text: &str) -> String {
    text.chars().take(PEER_TEXT_LEN_MAX).flat_map(char::escape_debug).collect()
}

/// How `bridge init` names the issuers of its hubs; what names itself so is not proven to be one.
const ISSUER_OF_A_HUB: &str = "CN=bridge issuer of ";

/// Longest text of a peer that is shown anywhere.
pub const PEER_TEXT_LEN_MAX: usize = 256;

struct Days(Duration);

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..=119 => write!(f, "{seconds} s"),
            120..=172_799 => write!(f, "{} min", seconds / 60),
            _ => write!(f, "{} days", seconds / 86_400),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_text_is_capped_and_cannot_move_the_cursor() {
        let text = format!("\x1b[2J\n{}", "x".repeat(1000));
        let shown = shown(&text);
        assert!(!shown.contains('\x1b') && !shown.contains('\n'), "{shown}");
        assert!(shown.len() < 300, "{}", shown.len());
    }

    #[test]
    fn a_skewed_clock_is_told_with_its_measure() {
        let reason = Reason::Clock { skew: Duration::from_secs(365 * 86_400), ahead: true };
        assert!(reason.to_string().contains("365 days"), "{reason}");
        assert_eq!(reason.code(), "clock");
    }
}
