//! What a hub presents and whom it believes, loaded whole from what its configuration names.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;

use super::identity::{CHAIN_FILE, HubIdentity, ISSUER_KEY_FILE};
use super::trust::{EdgeBook, KnownKey};
use super::{TunnelError, connection};
use crate::config::{HubTunnel, TunnelLimits};

/// The certificates that a peer presented, its own first. Proven by its handshake.
pub type Presented = Arc<[CertificateDer<'static>]>;

/// A hub's identity, its book of edges, and its bounds.
#[derive(Debug)]
pub struct HubTrust {
    /// The configured edges, by name.
    pub(super) edges: BTreeSet<String>,
    pub(super) identity: Arc<HubIdentity>,
    pub(super) book: Arc<EdgeBook>,
    pub(super) tls: Arc<ServerConfig>,
    pub(super) limits: TunnelLimits,
    pub(super) trusted_proxies: Vec<IpNet>,
}

impl HubTrust {
    /// Loads the identity and the edges' keys; an error is one of the configuration.
    pub fn load(cfg: &HubTunnel, site: &str) -> Result<Self, TunnelError> {
        let identity = Arc::new(HubIdentity::load(&cfg.identity, site, connection::provider())?);
        let book = Arc::new(EdgeBook::new(&cfg.edges)?);
        Ok(Self {
            edges: cfg.edges.iter().map(|edge| edge.name.clone()).collect(),
            tls: connection::hub_tls(identity.clone(), book.clone())?,
            identity,
            book,
            limits: cfg.limits.clone(),
            trusted_proxies: cfg.trusted_proxies.clone(),
        })
    }

    /// The files that it is loaded from.
    pub fn files(cfg: &HubTunnel) -> Vec<PathBuf> {
        [ISSUER_KEY_FILE, CHAIN_FILE].iter().map(|file| cfg.identity.join(file)).collect()
    }

    /// The edge that presented this.
    pub(super) fn edge_of(&self, presented: &Presented) -> Option<KnownKey> {
        self.book.edge_of(presented.first()?).cloned()
    }

    /// Whether it is still the edge that it was.
    pub(super) fn knows(&self, edge: &str, presented: &Presented) -> bool {
        self.edge_of(presented).is_some_and(|known| known.edge == edge)
    }
}
