//! The edges by their keys: the hub's book of them and its verifier; and what is read of certificates on both sides.
//! Accepts nothing for its name only.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TunnelError;
use super::key::{SpkiHash, spki_sha256};
use crate::config::EdgeEntry;

/// The hub's book of edges: public key → edge.
#[derive(Clone, Debug, Default)]
pub struct EdgeBook {
    edges: HashMap<SpkiHash, KnownKey>,
}

/// An edge as its key tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// The edge's name.
    pub edge: String,
    /// Which of its keys, from 0.
    pub key_index: usize,
    /// How many processes may use it at once.
    pub max_instances: u32,
    /// What a link may send, each way, Mbit/s; 0: no bound.
    pub budget_mbit_s: u32,
}

impl EdgeBook {
    /// The book of the configured edges.
    pub fn new(edges: &[EdgeEntry]) -> Result<Self, TunnelError> {
        let mut book = Self::default();
        for entry in edges {
            for (key_index, key) in entry.keys.iter().enumerate() {
                let known = KnownKey {
                    edge: entry.name.clone(),
                    key_index,
                    max_instances: entry.max_instances,
                    budget_mbit_s: entry.budget_mbit_s,
                };
                let before = book.edges.insert(key.spki_sha256, known);
                if let Some(before) = before.filter(|before| before.edge != entry.name) {
                    return Err(TunnelError::SharedKey { first: before.edge, second: entry.name.clone() });
                }
            }
        }
        Ok(book)
    }

    /// The edge that holds a certificate's key.
    pub fn edge_of(&self, certificate: &CertificateDer<'_>) -> Option<&KnownKey> {
        self.edges.get(&spki_sha256(certificate)?)
    }
}

/// The hub's view of edges: a listed Ed25519 key, proven by CertificateVerify; nothing else in the
/// certificate counts.
#[derive(Debug)]
pub struct EdgeVerifier {
    book: Arc<EdgeBook>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl EdgeVerifier {
    /// A verifier by this book.
    pub fn new(book: Arc<EdgeBook>, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { book, algorithms }
    }
}

impl ClientCertVerifier for EdgeVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.book.edge_of(end_entity) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            // Becomes the alert access_denied, which the edge reads as `refused_unknown_key`.
            None => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        refuse_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// The DNS name in the hub's leaf; the same whatever URL leads there.
pub fn hub_dns_name(hub: &str) -> String {
    format!("{hub}.hub.bridge.internal")
}

/// What both verifiers say to a signature that only an older TLS would ask for. Their configurations have no
/// such version, so nobody gets here.
pub(super) fn refuse_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("the bridge speaks TLS 1.3 only".into()))
}

/// Start and end of a certificate's validity, Unix seconds.
pub fn validity(certificate: &CertificateDer<'_>) -> Option<(u64, u64)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).ok();
    let validity = parsed.validity();
    Some((seconds(validity.not_before)?, seconds(validity.not_after)?))
}

/// Whether a certificate says that it is its own issuer.
pub fn is_root(certificate: &CertificateDer<'_>) -> bool {
    let parsed = X509Certificate::from_der(certificate);
    parsed.is_ok_and(|(_, parsed)| parsed.subject() == parsed.issuer())
}
