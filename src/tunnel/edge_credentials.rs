//! What an edge presents and whom it believes: its token, or a certificate and authorities of its organisation's own PKI.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;

use super::forewarning::Expiry;
use super::hub_certificates::RENEW_CERTIFICATE;
use super::key::{EdgeCertificate, sha256};
use super::known_hub::{HubVerifier, KnownHub};
use super::named::NamedHub;
use super::own_certificate::OwnCertificate;
use super::pinned::PinnedHub;
use super::pki::{Authorities, dns_names};
use super::{TunnelError, connection};
use crate::config::credential::JoinToken;
use crate::config::secret_file;
use crate::config::{EdgeCredential, EdgePki, EdgeTunnel};

/// An edge's side of the trust, loaded whole.
pub struct EdgeCredentials {
    /// The hub's site name.
    pub hub: String,
    /// Both sides of TLS.
    pub tls: connection::EdgeTls,
    /// The same by a smaller ClientHello, for a try only.
    pub small_hello: connection::EdgeTls,
    /// By what the hub lists this edge: its public key, or the names in its certificate.
    pub listed_as: String,
    /// What expires, and when.
    pub expiries: Vec<Expiry>,
    /// Of what it was loaded from, so that another loading is known for the same.
    pub fingerprint: [u8; 32],
}

impl EdgeCredentials {
    /// Reads what the configuration names.
    pub fn load(cfg: &EdgeTunnel, site: &str) -> Result<Self, TunnelError> {
        match &cfg.credential {
            EdgeCredential::Token(file) => Self::of_token(file, cfg.trust_after, site),
            EdgeCredential::Certificate(pki) => Self::of_pki(pki),
        }
    }

    /// The files that it is loaded from.
    pub fn files(cfg: &EdgeTunnel) -> Vec<PathBuf> {
        match &cfg.credential {
            EdgeCredential::Token(file) => vec![file.clone()],
            EdgeCredential::Certificate(pki) => {
                vec![pki.own.cert.clone(), pki.own.key.clone(), pki.ca_file.clone()]
            }
        }
    }

    fn of_token(file: &std::path::Path, trust_after: u64, site: &str) -> Result<Self, TunnelError> {
        let text = secret_file::read(file, TOKEN_FILE_LEN_MAX)?;
        let token = JoinToken::parse(text.expose())
            .map_err(|source| TunnelError::Token { file: file.to_owned(), source })?;
        if token.edge != site {
            return Err(TunnelError::TokenOfAnother {
                file: file.to_owned(),
                token: token.edge.clone(),
                site: site.to_owned(),
            });
        }
        let own = EdgeCertificate::of_token(&token);
        let own = own.map_err(|error| rustls::Error::General(error.to_string()))?;
        let provider = connection::provider();
        let algorithms = provider.signature_verification_algorithms;
        let pinned = PinnedHub::new(&token.hub, token.pins.clone(), algorithms)?.after(trust_after);
        let key = provider.key_provider.load_private_key(own.private_key.clone_key())?;
        let certified = CertifiedKey::new(vec![own.certificate.clone()], key);
        let (tls, small_hello) = both(&provider, KnownHub::ByPin(pinned), Arc::new(certified))?;
        Ok(Self {
            hub: token.hub.clone(),
            tls,
            small_hello,
            listed_as: own.edge_key.to_string(),
            expiries: Vec::new(),
            fingerprint: sha256(text.expose().as_bytes()),
        })
    }

    fn of_pki(pki: &EdgePki) -> Result<Self, TunnelError> {
        let provider = connection::provider();
        let algorithms = provider.signature_verification_algorithms;
        let authorities = Authorities::load(("ca_file", &pki.ca_file), None, algorithms)?;
        let own = OwnCertificate::load(&pki.own, &provider)?;
        let expiries = vec![
            Expiry {
                what: "the certificate in cert_file",
                at: own.expires(),
                warn_days: 14,
                then: "the hub does not let this edge join",
                remedy: RENEW_CERTIFICATE,
            },
            Expiry {
                what: "the first of the authorities in ca_file",
                at: authorities.expire(),
                warn_days: 14,
                then: "it vouches for no hub",
                remedy: "put the one that follows it beside it, into tunnel.ca_file",
            },
        ];
        let fingerprint = sha256(&[own.fingerprint(), authorities.fingerprint()].concat());
        let certified = own.certified();
        let listed_as = certified.cert.first().map(listed_by_name).unwrap_or_default();
        let hub = KnownHub::ByName(NamedHub::new(authorities, &pki.hub_name));
        let (tls, small_hello) = both(&provider, hub, certified)?;
        Ok(Self { hub: pki.hub_site.clone(), tls, small_hello, listed_as, expiries, fingerprint })
    }
}

/// How a hub lists an edge with this certificate.
pub fn listed_by_name(leaf: &CertificateDer<'_>) -> String {
    format!("cert_name {}", dns_names(leaf).join(" or "))
}

fn both(
    provider: &CryptoProvider,
    hub: KnownHub,
    own: Arc<CertifiedKey>,
) -> Result<(connection::EdgeTls, connection::EdgeTls), rustls::Error> {
    let verifier = Arc::new(HubVerifier::new(hub, provider.signature_verification_algorithms));
    let small_hello = connection::edge_tls_of_small_hello(verifier.clone(), own.clone())?;
    Ok((connection::edge_tls(verifier, own)?, small_hello))
}

const TOKEN_FILE_LEN_MAX: u64 = 4096;
