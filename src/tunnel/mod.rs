//! The link between two sites: transport, trust, handshake, lanes, keepalive, reconnect.
//! Carries frames and control messages; does not know what they mean.

pub mod features;
#[doc(hidden)]
#[cfg(feature = "fuzzed")]
pub mod fuzzed;
pub mod link;
pub mod status;

pub mod reason;
mod unvouched;

mod key;
mod named;
#[cfg(test)]
mod organisation;
mod pinned;
mod pki;
mod revocation;
mod tombstones;
mod trust;

mod identity;
mod own_certificate;

mod edge_credentials;
pub mod forewarning;
pub mod hub_certificates;
mod known_hub;

pub mod init;

mod carrier;
mod connection;
mod heard;
mod meter;
mod read_ahead;
mod upgrade;
mod websocket;

mod handshake;
mod refusal;
mod wire;

mod accept;
mod admission;
mod forwarded;
mod gate;

mod edge_trust;
mod hub_trust;
mod standing;

pub mod hub;
mod links;
mod welcome;

pub mod backoff;
mod bucket;
pub mod budget;
mod connect;
mod dial;
pub mod edge;
mod egress;
mod hub_processes;
mod hub_proof;
mod outer;
pub mod probe;
mod reach;
mod renewal;

mod control;
mod lane;
pub mod retiring;
mod stream_dial;
pub mod stream_lanes;
pub mod streams;
mod tally;

pub mod metrics;
mod network;
mod said;
mod shown;
mod strangers;

pub use edge::EdgeDialer;
pub use edge_trust::EdgeTrust;
pub use hub::{HubKeys, HubListener};
pub use hub_trust::HubTrust;
pub use metrics::TunnelMetrics;
pub use standing::Standing;

use crate::config::Problem;

/// Something is written on every lane at least this often; three times this of silence ends the lane: a network that
/// stands still for five seconds, at the worst moment, does not.
pub const KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(4);

/// Why the tunnel cannot even start: the configuration names something that is not usable.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// A secret file is missing or readable for too many.
    #[error(transparent)]
    SecretFile(#[from] crate::config::secret_file::SecretFileError),
    /// The token file holds no token.
    #[error("{file}: {source}")]
    Token {
        /// The file.
        file: std::path::PathBuf,
        /// What is wrong with its text.
        source: crate::config::credential::CredentialError,
    },
    /// The token belongs to another edge.
    #[error("{file}: the token is of edge `{token}`, but this site is `{site}`")]
    TokenOfAnother {
        /// The file.
        file: std::path::PathBuf,
        /// The edge that the token names.
        token: String,
        /// This site.
        site: String,
    },
    /// The hub's issuer key and chain do not make an identity.
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    /// A certificate's key cannot be read.
    #[error(transparent)]
    CertificateKey(crate::config::secret_file::SecretFileError),
    /// A file of certificates or lists is not used.
    #[error(transparent)]
    Pki(#[from] pki::PkiError),
    /// A key that was taken away is listed again.
    #[error(transparent)]
    Tombstone(#[from] tombstones::TombstoneError),
    /// Two edges have one key, so the key would not tell who dials.
    #[error("`{first}` and `{second}` list the same key")]
    SharedKey {
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// The proxy's password cannot be read.
    #[error(transparent)]
    ProxyPassword(crate::config::secret_file::SecretFileError),
    /// The ingress's authorities cannot be read.
    #[error(transparent)]
    Authorities(#[from] outer::AuthoritiesError),
    /// The TLS library refused what we gave it: our own fault.
    #[error("tls setup: {0}")]
    Tls(#[from] rustls::Error),
}

impl TunnelError {
    /// It as a problem of the configuration: where, what, and what to do about it.
    pub fn problem(&self) -> Problem {
        let (path, remedy) = match self {
            Self::SecretFile(error) => ("tunnel.token_file", error.remedy()),
            Self::Token { .. } => {
                ("tunnel.token_file", "bring here the token that `bridge init` wrote for this edge".into())
            }
            Self::TokenOfAnother { .. } => ("tunnel.token_file", "use this edge's own token".into()),
            Self::Identity(error) => ("tunnel.identity", error.remedy()),
            Self::CertificateKey(error) => ("tunnel.key_file", error.remedy()),
            Self::Tombstone(error) => ("tunnel.edges", error.remedy()),
            Self::Pki(error) => (error.place(), error.remedy().into()),
            Self::SharedKey { .. } => ("tunnel.edges", "give each edge a key of its own".into()),
            Self::ProxyPassword(error) => ("tunnel.proxy_password_file", error.remedy()),
            Self::Authorities(_) => {
                ("tunnel.outer_ca_file", "name a PEM file of certificates that this user may read".into())
            }
            Self::Tls(_) => ("tunnel", "report it: a fault of the bridge".into()),
        };
        Problem { path: path.into(), message: self.to_string(), remedy }
    }
}
