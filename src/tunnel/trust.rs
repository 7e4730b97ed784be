//! Who is on the other end, by keys alone: the hub's verifier of edges, the edge's verifier of the hub.
//! Never asks the system's roots, and accepts nothing for its name only.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::TunnelError;
use super::key::{SpkiHash, hex, sha256, spki_sha256};
use super::reason::{Reason, shown};
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
                };
                let before = book.edges.insert(key.spki_sha256, known);
                if let Some(before) = before.filter(|before| before.edge != entry.name) {
                    return Err(TunnelError::SharedKey {
                        first: before.edge,
                        second: entry.name.clone(),
                    });
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
            None => Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("the bridge speaks TLS 1.3 only".into()))
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

/// The edge's view of the hub: a presented root with a pinned key is the only anchor; under it path, EKU
/// serverAuth and the name `<hub>.hub.bridge.internal`.
#[derive(Debug)]
pub struct HubVerifier {
    pins: Vec<SpkiHash>,
    name: ServerName<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// The DNS name in the hub's leaf; the same whatever URL leads there.
pub fn hub_dns_name(hub: &str) -> String {
    format!("{hub}.hub.bridge.internal")
}

impl HubVerifier {
    /// A verifier of the hub of this name under one of these pins.
    pub fn new(hub: &str, pins: Vec<SpkiHash>, algorithms: WebPkiSupportedAlgorithms) -> Result<Self, Error> {
        let name = ServerName::try_from(hub_dns_name(hub))
            .map_err(|_| Error::General(format!("`{hub}` does not make a dns name")))?;
        Ok(Self {
            pins,
            name,
            algorithms,
        })
    }

    /// The judgement on a presented chain at a time.
    pub fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Reason> {
        let anchors = others
            .iter()
            .filter(|other| spki_sha256(other).is_some_and(|hash| self.pins.contains(&hash)));
        for anchor in anchors {
            if self.path_is_valid(leaf, others, anchor, now) {
                return out_of_validity(anchor, now).map_or(Ok(()), Err);
            }
            // The chain that would be right at its own time says that a clock is wrong, nothing worse.
            let Some(its_time) = not_before(leaf) else {
                continue;
            };
            if self.path_is_valid(leaf, others, anchor, its_time) {
                let clock = [leaf]
                    .into_iter()
                    .chain(others)
                    .find_map(|one| out_of_validity(one, now));
                return Err(clock.unwrap_or_else(|| intercepted(leaf)));
            }
        }
        Err(intercepted(leaf))
    }

    fn path_is_valid(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        anchor: &CertificateDer<'_>,
        at: UnixTime,
    ) -> bool {
        let (Ok(end_entity), Ok(trusted)) = (EndEntityCert::try_from(leaf), anchor_from_trusted_cert(anchor))
        else {
            return false;
        };
        let anchors = [trusted];
        let usage = KeyUsage::required(EKU_SERVER_AUTH);
        let path = end_entity.verify_for_usage(self.algorithms.all, &anchors, others, at, usage, None, None);
        path.is_ok()
            && end_entity.verify_is_valid_for_subject_name(&self.name).is_ok()
            && self.signed_itself(anchor)
    }

    /// Whether the root's dates and constraints were written by the pinned key, not only name it.
    fn signed_itself(&self, anchor: &CertificateDer<'_>) -> bool {
        let (Ok((_, parsed)), Ok(key)) = (X509Certificate::from_der(anchor), EndEntityCert::try_from(anchor))
        else {
            return false;
        };
        let (signed, signature) = (parsed.tbs_certificate.as_ref(), &parsed.signature_value.data);
        self.algorithms
            .all
            .iter()
            .any(|algorithm| key.verify_signature(*algorithm, signed, signature).is_ok())
    }
}

impl ServerCertVerifier for HubVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.judge(end_entity, intermediates, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(reason) => {
                let carried = OtherError(Arc::new(reason));
                Err(Error::InvalidCertificate(CertificateError::Other(carried)))
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("the bridge speaks TLS 1.3 only".into()))
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
        self.algorithms.supported_schemes()
    }
}

fn intercepted(leaf: &CertificateDer<'_>) -> Reason {
    let issuer = match X509Certificate::from_der(leaf) {
        Ok((_, parsed)) => shown(&parsed.issuer().to_string()),
        Err(_) => "(unreadable)".to_owned(),
    };
    Reason::Intercepted {
        issuer,
        leaf_sha256: hex(&sha256(leaf)),
    }
}

/// How far `now` lies outside a certificate's validity; webpki does not look at an anchor's.
fn out_of_validity(certificate: &CertificateDer<'_>, now: UnixTime) -> Option<Reason> {
    let (start, end) = validity(certificate)?;
    let now = now.as_secs();
    let (skew, ahead) = match (start.checked_sub(now), now.checked_sub(end)) {
        (Some(early), _) if early > 0 => (early, false),
        (_, Some(late)) if late > 0 => (late, true),
        _ => return None,
    };
    Some(Reason::Clock {
        skew: Duration::from_secs(skew),
        ahead,
    })
}

fn not_before(certificate: &CertificateDer<'_>) -> Option<UnixTime> {
    let (start, _) = validity(certificate)?;
    Some(UnixTime::since_unix_epoch(Duration::from_secs(start)))
}

/// Start and end of a certificate's validity, Unix seconds.
pub fn validity(certificate: &CertificateDer<'_>) -> Option<(u64, u64)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).ok();
    let validity = parsed.validity();
    Some((seconds(validity.not_before)?, seconds(validity.not_after)?))
}

/// id-kp-serverAuth, RFC 5280 §4.2.1.12.
const EKU_SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
