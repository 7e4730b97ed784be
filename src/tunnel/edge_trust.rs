//! Whom an edge dials and believes, by which way, and what it presents, loaded whole from what its configuration names.

use std::fs;
use std::path::PathBuf;

use super::TunnelError;
use super::connect::Connector;
use super::edge_credentials::EdgeCredentials;
use super::forewarning::{Expiry, unix_now};
use super::key::sha256;
use super::outer::OuterTls;
use crate::config::secret_file;
use crate::config::{EdgeTunnel, LinkScheme};

/// An edge's credentials, and where it dials.
pub struct EdgeTrust {
    pub(super) cfg: EdgeTunnel,
    pub(super) hub: String,
    /// By what the hub lists this edge.
    pub(super) listed_as: String,
    pub(super) expiries: Vec<Expiry>,
    pub(super) connector: Connector,
    /// For a try only.
    pub(super) small_hello: Connector,
    /// Of the texts that it was loaded from, so that another loading is known for the same.
    fingerprint: [[u8; 32]; 2],
}

impl EdgeTrust {
    /// Reads token or certificate; an error is one of the configuration.
    pub fn load(cfg: &EdgeTunnel, site: &str) -> Result<Self, TunnelError> {
        let credentials = EdgeCredentials::load(cfg, site)?;
        let tls = credentials.tls;
        if let Some(login) = cfg.egress.proxy.as_ref().and_then(|proxy| proxy.login.as_ref()) {
            // It is read again at every dial; that it can be read is known now.
            secret_file::read(&login.password_file, PASSWORD_FILE_LEN_MAX)
                .map_err(TunnelError::ProxyPassword)?;
        }
        let has_ingress = cfg.connect.iter().any(|url| url.scheme == LinkScheme::Wss);
        let outer = match has_ingress {
            true => Some(OuterTls::new(tls.clone(), cfg.outer_ca_file.as_deref())?),
            false => None,
        };
        // It was read a moment ago; one that is gone since then is noticed by the next look.
        let outer_ca =
            cfg.outer_ca_file.as_ref().filter(|_| has_ingress).and_then(|file| fs::read(file).ok());
        let connector = Connector { tls, outer, egress: cfg.egress.clone() };
        Ok(Self {
            cfg: cfg.clone(),
            hub: credentials.hub,
            small_hello: connector.with(credentials.small_hello),
            connector,
            listed_as: credentials.listed_as,
            expiries: credentials.expiries,
            fingerprint: [credentials.fingerprint, sha256(&outer_ca.unwrap_or_default())],
        })
    }

    /// The files that it is loaded from.
    pub fn files(cfg: &EdgeTunnel) -> Vec<PathBuf> {
        let mut files = EdgeCredentials::files(cfg);
        files.extend(cfg.outer_ca_file.clone());
        files
    }

    /// Whether a link that was dialled by this one need not be dialled anew by the other.
    pub(super) fn asks_the_same(&self, other: &Self) -> bool {
        self.cfg == other.cfg && self.fingerprint == other.fingerprint
    }

    /// Whether it proves itself by another key than the other one does, or by another certificate of its name.
    pub(super) fn presents_another_than(&self, other: &Self) -> bool {
        let has_certificate = self.own_expires().is_some();
        self.listed_as != other.listed_as || has_certificate && self.fingerprint[0] != other.fingerprint[0]
    }

    /// The same with the key and pins of one that a hub has welcomed; none where they are its own.
    pub(super) fn with_key_of(&self, welcomed: &Self) -> Option<Self> {
        let ([key, _], [own_key, outer_ca]) = (welcomed.fingerprint, self.fingerprint);
        (key != own_key).then(|| Self {
            cfg: self.cfg.clone(),
            hub: self.hub.clone(),
            listed_as: welcomed.listed_as.clone(),
            expiries: welcomed.expiries.clone(),
            connector: self.connector.with(welcomed.connector.tls.clone()),
            small_hello: self.small_hello.with(welcomed.small_hello.tls.clone()),
            // Not the same as ours, so that a link by it is renewed as soon as the hub knows our key.
            fingerprint: [key, outer_ca],
        })
    }

    /// When its own certificate expires, Unix seconds, where it has one of an own PKI.
    pub(super) fn own_expires(&self) -> Option<u64> {
        self.expiries.first().map(|own| own.at)
    }

    /// What an operator should know of it.
    pub fn warnings(&self) -> Vec<String> {
        self.expiries.iter().filter_map(|expiry| expiry.warning(unix_now())).collect()
    }

    /// The pins of its hub's roots, in the order of its token; none with an own PKI.
    pub fn pins(&self) -> Vec<String> {
        self.connector.tls.verifier.pins()
    }

    /// The hub that it leads to.
    pub fn hub(&self) -> &str {
        &self.hub
    }
}

/// A password is short.
const PASSWORD_FILE_LEN_MAX: u64 = 4096;
