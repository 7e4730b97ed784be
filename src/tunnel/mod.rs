//! The link between two sites: transport, trust, handshake, lanes, keepalive, reconnect.
//! Carries frames and control messages; does not know what they mean. `tls://` only so far: WebSocket and
//! egress proxies will stand between [`edge`]'s socket and its TLS, an own PKI beside `trust`.

pub mod link;
pub mod status;

pub mod reason;

mod key;
mod trust;

mod identity;
pub mod init;

mod connection;
mod meter;

mod handshake;
mod refusal;
mod wire;

mod admission;
mod gate;

pub mod hub;
mod links;
mod welcome;

pub mod backoff;
mod dial;
pub mod edge;
mod hub_processes;

mod control;
mod lane;

pub mod metrics;
mod said;
mod shown;

pub use edge::EdgeDialer;
pub use hub::HubListener;
pub use metrics::TunnelMetrics;

/// Something is written on every lane at least this often; twice this of silence ends the lane.
pub const KEEPALIVE: std::time::Duration = std::time::Duration::from_secs(5);

/// Why the tunnel cannot even start: the configuration names something that is not usable.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The address is taken, not ours, or not permitted.
    #[error("tunnel.listen {address}: {source}: choose another address or stop what listens there")]
    Listen {
        /// What was configured.
        address: std::net::SocketAddr,
        /// The system's word.
        source: std::io::Error,
    },
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
    #[error("{file}: the token is of edge `{token}`, but this site is `{site}`: use this edge's own token")]
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
    /// Two edges have one key, so the key would not tell who dials.
    #[error("tunnel.edges: `{first}` and `{second}` list the same key: each edge needs its own")]
    SharedKey {
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// The TLS library refused what we gave it: our own fault.
    #[error("tls setup: {0}")]
    Tls(#[from] rustls::Error),
}
