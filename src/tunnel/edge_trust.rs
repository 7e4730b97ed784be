//! Whom an edge dials and believes, by which way, and what it presents, loaded whole from what its configuration names.

use std::fs;
use std::path::PathBuf;

use super::connect::Connector;
use super::key::{EdgeCertificate, sha256};
use super::outer::OuterTls;
use super::{TunnelError, connection};
use crate::config::credential::{EdgeKey, JoinToken};
use crate::config::secret_file;
use crate::config::{EdgeTunnel, LinkScheme};

/// An edge's token and key, and where it dials.
pub struct EdgeTrust {
    pub(super) cfg: EdgeTunnel,
    pub(super) hub: String,
    pub(super) own_key: EdgeKey,
    pub(super) connector: Connector,
    /// For a try only.
    pub(super) small_hello: Connector,
    /// Of the texts that it was loaded from, so that another loading is known for the same.
    fingerprint: [[u8; 32]; 2],
}

impl EdgeTrust {
    /// Reads the token and makes the key; an error is one of the configuration.
    pub fn load(cfg: &EdgeTunnel, site: &str) -> Result<Self, TunnelError> {
        let (token, text) = read_token(cfg, site)?;
        let own = EdgeCertificate::of_token(&token);
        let own = own.map_err(|error| rustls::Error::General(error.to_string()))?;
        let tls = connection::edge_tls(&token, &own, cfg.trust_after)?;
        if let Some(login) = cfg.egress.proxy.as_ref().and_then(|proxy| proxy.login.as_ref()) {
            // It is read again at every dial; that it can be read is known now.
            secret_file::read(&login.password_file, TOKEN_FILE_LEN_MAX)
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
            hub: token.hub.clone(),
            small_hello: connector.with(connection::edge_tls_of_small_hello(&token, &own, cfg.trust_after)?),
            connector,
            own_key: own.edge_key,
            fingerprint: [text, sha256(&outer_ca.unwrap_or_default())],
        })
    }

    /// The files that it is loaded from.
    pub fn files(cfg: &EdgeTunnel) -> Vec<PathBuf> {
        [&cfg.token_file].into_iter().chain(&cfg.outer_ca_file).cloned().collect()
    }

    /// Whether a link that was dialled by this one need not be dialled anew by the other.
    pub(super) fn asks_the_same(&self, other: &Self) -> bool {
        self.cfg == other.cfg && self.fingerprint == other.fingerprint
    }

    /// The hub that it leads to.
    pub fn hub(&self) -> &str {
        &self.hub
    }
}

fn read_token(cfg: &EdgeTunnel, site: &str) -> Result<(JoinToken, [u8; 32]), TunnelError> {
    let file = &cfg.token_file;
    let text = secret_file::read(file, TOKEN_FILE_LEN_MAX)?;
    let token = JoinToken::parse(text.expose())
        .map_err(|source| TunnelError::Token { file: file.clone(), source })?;
    if token.edge != site {
        return Err(TunnelError::TokenOfAnother {
            file: file.clone(),
            token: token.edge.clone(),
            site: site.to_owned(),
        });
    }
    Ok((token, sha256(text.expose().as_bytes())))
}

const TOKEN_FILE_LEN_MAX: u64 = 4096;
