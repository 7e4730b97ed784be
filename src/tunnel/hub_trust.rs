//! What a hub presents and whom it believes, loaded whole from what its configuration names.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::edge_credentials::listed_by_name;
use super::forewarning::{Expiry, unix_now};
use super::hub_certificates::{HubCertificates, gauge};
use super::key::spki_sha256;
use super::pki::{Authorities, Moment};
use super::shown::RestsOn;
use super::tombstones::Tombstones;
use super::trust::{EdgeBook, KnownKey};
use super::{TunnelError, TunnelMetrics, connection};
use crate::config::credential::EdgeKey;
use crate::config::{HubCertificate, HubTunnel, TunnelLimits};

/// The certificates that a peer presented, its own first. Proven by its handshake.
pub type Presented = Arc<[CertificateDer<'static>]>;

/// A hub's identity, its book of edges, and its bounds.
#[derive(Debug)]
pub struct HubTrust {
    /// The configured edges, by name.
    pub(super) edges: BTreeSet<String>,
    /// Those of them that have neither key nor certificate: nobody joins as one of them.
    pub(super) shut_out: BTreeSet<String>,
    certificates: HubCertificates,
    book: Arc<EdgeBook>,
    pub(super) tls: Arc<ServerConfig>,
    keys: BTreeSet<EdgeKey>,
    tombstones: Option<Tombstones>,
    pub(super) limits: TunnelLimits,
    pub(super) trusted_proxies: Vec<IpNet>,
}

impl HubTrust {
    /// Loads the identity and the edges' keys, to take the place of what stood before, if anything did; an error is one
    /// of the configuration.
    pub fn load(cfg: &HubTunnel, site: &str, before: Option<&Self>) -> Result<Self, TunnelError> {
        let certificates = HubCertificates::load(&cfg.certificate, site)?;
        let tombstones = match &cfg.certificate {
            HubCertificate::Issuer(dir) => {
                let mut tombstones = Tombstones::read(dir)?;
                let before = before.and_then(|before| before.tombstones.as_ref());
                before.into_iter().for_each(|before| tombstones.carry(before));
                Some(tombstones)
            }
            HubCertificate::Own(_) => None,
        };
        tombstones.iter().try_for_each(|tombstones| tombstones.judge(&cfg.edges))?;
        let book = Arc::new(EdgeBook::load(cfg)?);
        Ok(Self {
            edges: cfg.edges.iter().map(|edge| edge.name.clone()).collect(),
            shut_out: cfg
                .edges
                .iter()
                .filter(|edge| edge.is_shut_out())
                .map(|edge| edge.name.clone())
                .collect(),
            tls: connection::hub_tls(certificates.resolver(), book.clone())?,
            certificates,
            book,
            keys: cfg.edges.iter().flat_map(|edge| edge.keys.iter().cloned()).collect(),
            tombstones,
            limits: cfg.limits.clone(),
            trusted_proxies: cfg.trusted_proxies.clone(),
        })
    }

    /// The files that it is loaded from.
    pub fn files(cfg: &HubTunnel) -> Vec<PathBuf> {
        [HubCertificates::files(&cfg.certificate), EdgeBook::files(cfg)].concat()
    }

    /// Writes down the keys of the one before it that it does not have: nobody lets them in again by mistake.
    pub fn bury_keys_of(&self, before: &Self) {
        let Some(tombstones) = &self.tombstones else {
            return;
        };
        let file = tombstones.file().display();
        match tombstones.bury(&before.keys, &self.keys, SystemTime::now()) {
            Ok(0) => {}
            Ok(keys) => tracing::info!(keys, %file, "keys that were taken away are written down"),
            // Such as a secret that is mounted read-only.
            Err(error) => tracing::warn!(
                %error, %file, "keys that were taken away are not written down: an old configuration would let them in"
            ),
        }
    }

    /// The edge that presented this.
    pub(super) fn edge_of(&self, presented: &Presented) -> Option<KnownKey> {
        self.book.edge_of(presented, Moment::Living, UnixTime::now()).ok().cloned()
    }

    /// What a link rests on whose edge presented this.
    pub(super) fn rests_on(&self, presented: &Presented) -> RestsOn {
        let edge_key = self.edge_of(presented).zip(presented.first()).and_then(|(known, leaf)| {
            Some(match known.key_index {
                Some(_) => EdgeKey { edge: known.edge, spki_sha256: spki_sha256(leaf)? }.to_string(),
                None => listed_by_name(leaf),
            })
        });
        RestsOn { edge_key, hub_root: Some(self.certificates.known_by()) }
    }

    /// What expires of it, and when.
    pub(super) fn expiries(&self) -> Vec<Expiry> {
        let mut expiries = self.certificates.expiries();
        if let Some(authorities) = self.book.authorities() {
            expiries.push(Expiry {
                what: "the first of the authorities in client_ca_file",
                at: authorities.expire(),
                warn_days: 14,
                then: "nobody joins by its certificates",
                remedy: "put the one that follows it beside it, into tunnel.client_ca_file",
            });
            expiries.extend(authorities.lists_expire().map(|at| Expiry {
                what: "the first of the lists in crl_file",
                at,
                // They are made for days, and told once they are late.
                warn_days: 0,
                then: "nobody whom it covers joins (crl_stale), who is in stays",
                remedy: "put the current one in its place, it is found within a second",
            }));
        }
        expiries
    }

    /// The pins of its roots, the newest first; none with an own PKI.
    pub fn pins(&self) -> Vec<String> {
        self.certificates.pins()
    }

    /// What an operator should know of it.
    pub fn warnings(&self) -> Vec<String> {
        let expiries = self.expiries();
        let ends = expiries.iter().filter_map(|expiry| expiry.warning(unix_now()));
        self.has_no_tombstones().into_iter().chain(ends).collect()
    }

    /// A word where the file of taken keys is not there.
    pub(super) fn has_no_tombstones(&self) -> Option<String> {
        let tombstones = self.tombstones.as_ref().filter(|tombstones| tombstones.is_missing())?;
        Some(format!(
            "{} is not there: a key that was taken away before is let in where the configuration lists it again; bring the \
             file along from where this hub's keys were before, or make an empty one if none was ever taken away",
            tombstones.file().display()
        ))
    }

    /// Publishes when it expires.
    pub(super) fn measure(&self, metrics: &TunnelMetrics) {
        self.certificates.measure(metrics);
        let lists = self.book.authorities().and_then(Authorities::lists_expire);
        metrics.lists_expire.set(lists.map_or(0, gauge));
    }

    /// Whether it is still the edge that it was.
    pub(super) fn knows(&self, edge: &str, presented: &Presented) -> bool {
        self.edge_of(presented).is_some_and(|known| known.edge == edge)
    }
}
