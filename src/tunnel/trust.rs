//! The edges by their keys and certificates: the hub's book of them and its verifier; and what is read of certificates on both sides.
//! Accepts nothing for its name only.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::key::{SpkiHash, spki_sha256};
use super::pki::{Authorities, Doubt, Moment, Purpose, dns_names};
use super::{TunnelError, connection};
use crate::config::{EdgeEntry, HubTunnel};

/// The hub's book of edges: public key, or name that its authorities vouch for → edge.
#[derive(Debug, Default)]
pub struct EdgeBook {
    edges: HashMap<SpkiHash, KnownKey>,
    /// Those that come with a certificate of their organisation's PKI, by the DNS name in it.
    named: HashMap<String, KnownKey>,
    authorities: Option<Authorities>,
}

/// An edge as its key tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    /// The edge's name.
    pub edge: String,
    /// Which of its keys, from 0; `None` by a certificate's name.
    pub key_index: Option<usize>,
    /// How many processes may use it at once.
    pub max_instances: u32,
    /// What a link may send, each way, Mbit/s; 0: no bound.
    pub budget_mbit_s: u32,
}

impl EdgeBook {
    /// The book of the configured edges, with the authorities of those that come with certificates.
    pub fn load(cfg: &HubTunnel) -> Result<Self, TunnelError> {
        let algorithms = connection::provider().signature_verification_algorithms;
        let authorities = cfg.client_authorities.as_ref().map(|files| {
            Authorities::load(("client_ca_file", &files.ca_file), files.crl_file.as_deref(), algorithms)
        });
        Self::new(&cfg.edges, authorities.transpose()?)
    }

    /// The files that it is loaded from.
    pub fn files(cfg: &HubTunnel) -> Vec<PathBuf> {
        let files = cfg.client_authorities.iter();
        files.flat_map(|files| [Some(files.ca_file.clone()), files.crl_file.clone()]).flatten().collect()
    }

    /// The book of the configured edges.
    pub fn new(edges: &[EdgeEntry], authorities: Option<Authorities>) -> Result<Self, TunnelError> {
        let mut book = Self { authorities, ..Self::default() };
        for entry in edges {
            let known = |key_index| KnownKey {
                edge: entry.name.clone(),
                key_index,
                max_instances: entry.max_instances,
                budget_mbit_s: entry.budget_mbit_s,
            };
            if let Some(name) = &entry.cert_name {
                book.named.insert(name.clone(), known(None));
            }
            for (key_index, key) in entry.keys.iter().enumerate() {
                let before = book.edges.insert(key.spki_sha256, known(Some(key_index)));
                if let Some(before) = before.filter(|before| before.edge != entry.name) {
                    return Err(TunnelError::SharedKey { first: before.edge, second: entry.name.clone() });
                }
            }
        }
        Ok(book)
    }

    /// The edge that presents this chain, its own certificate first; otherwise why nobody vouches for it, where that
    /// is the question.
    pub fn edge_of(
        &self,
        presented: &[CertificateDer<'_>],
        moment: Moment,
        now: UnixTime,
    ) -> Result<&KnownKey, Option<Doubt>> {
        let (leaf, others) = presented.split_first().ok_or(None)?;
        if let Some(known) = spki_sha256(leaf).and_then(|hash| self.edges.get(&hash)) {
            return Ok(known);
        }
        // What vouches for itself is a key that is not listed.
        let authorities = self.authorities.as_ref().filter(|_| !is_root(leaf)).ok_or(None)?;
        authorities.judge(leaf, others, Purpose::ClientAuth, moment, now).map_err(Some)?;
        let names = dns_names(leaf);
        let mut found = names.iter().filter_map(|name| self.named.get(name));
        let known = found.next().ok_or(None)?;
        // A certificate for two edges is for none: which it is would be the peer's choice.
        if found.any(|other| other.edge != known.edge) { Err(None) } else { Ok(known) }
    }

    /// The authorities, if there are some.
    pub fn authorities(&self) -> Option<&Authorities> {
        self.authorities.as_ref()
    }
}

/// The hub's view of edges: a listed key, of which nothing else in the certificate counts, or a certificate by its
/// authorities; proven by CertificateVerify.
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
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let presented = [std::slice::from_ref(end_entity), intermediates].concat();
        match self.book.edge_of(&presented, Moment::Joining, now) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(Some(doubt)) => Err(Error::InvalidCertificate(doubt.error())),
            // Becomes the alert access_denied, which the edge reads as `refused_unknown_key`.
            Err(None) => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
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
        match self.book.authorities {
            Some(_) => self.algorithms.supported_schemes(),
            None => vec![SignatureScheme::ED25519],
        }
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::organisation::{CLIENT, Made, Organisation};
    use super::super::pki::certificates;
    use super::*;
    use crate::policy::Policy;
    use crate::tunnel::key::EdgeCertificate;

    fn entry(name: &str, cert_name: Option<&str>) -> EdgeEntry {
        EdgeEntry {
            name: name.into(),
            keys: Vec::new(),
            cert_name: cert_name.map(str::to_owned),
            policy: Policy::default(),
            max_instances: 1,
            budget_mbit_s: 0,
        }
    }

    fn book(ca_file: &Path, mut edges: Vec<EdgeEntry>) -> (EdgeBook, CertificateDer<'static>) {
        let own = EdgeCertificate::of_seed("fund", &[1; 32]).unwrap();
        edges.push(EdgeEntry { keys: vec![own.edge_key], ..entry("fund", None) });
        let algorithms = connection::provider().signature_verification_algorithms;
        let authorities = Authorities::load(("client_ca_file", ca_file), None, algorithms).unwrap();
        (EdgeBook::new(&edges, Some(authorities)).unwrap(), own.certificate)
    }

    #[test]
    fn keys_and_names_stand_side_by_side_and_a_name_counts_exactly() {
        let by = Organisation::new();
        let edges = vec![entry("bank", Some("bank.example.com")), entry("mint", Some("mint.example.com"))];
        let (book, of_key) = book(&by.ca_file(), edges);
        let whose = |presented: &[CertificateDer<'_>]| {
            let known = book.edge_of(presented, Moment::Joining, UnixTime::now());
            known.map(|known| known.edge.clone())
        };
        let with = |names: &[&str]| {
            whose(&certificates("cert_file", &by.certify(Made { names, ..CLIENT }).0).unwrap())
        };
        assert_eq!(whose(&[of_key]), Ok("fund".into()));
        assert_eq!(with(&["bank.example.com"]), Ok("bank".into()));
        assert_eq!(with(&["other.example.com", "BANK.example.com"]), Ok("bank".into()));
        for names in [
            &["*.example.com"][..],
            &["x.bank.example.com"],
            &["fund"],
            &[],
            &["bank.example.com", "mint.example.com"],
        ] {
            assert_eq!(with(names), Err(None), "{names:?}");
        }
        // Somebody's own wrapper of a key that is not listed, not somebody's false certificate.
        let other = EdgeCertificate::of_seed("bank.example.com", &[2; 32]).unwrap();
        assert_eq!(whose(&[other.certificate]), Err(None));
        assert_eq!(whose(&[]), Err(None));
    }
}
