//! The edge's verifier of the hub in TLS, whichever way the edge knows it. Decides nothing by itself.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};

use super::key::{SpkiHash, pin_text};
use super::named::NamedHub;
use super::pinned::PinnedHub;
use super::reason::Reason;
use super::trust::refuse_tls12;

/// How an edge knows its hub.
#[derive(Debug)]
pub enum KnownHub {
    /// By the pin in its token.
    ByPin(PinnedHub),
    /// By a name under authorities.
    ByName(NamedHub),
}

/// The verifier of that hub.
#[derive(Debug)]
pub struct HubVerifier {
    hub: KnownHub,
    algorithms: WebPkiSupportedAlgorithms,
}

impl HubVerifier {
    /// A verifier of this hub.
    pub fn new(hub: KnownHub, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { hub, algorithms }
    }

    /// By what the hub of a chain that was believed is known, for showing it.
    pub fn known_by(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        at: UnixTime,
    ) -> Option<String> {
        match &self.hub {
            KnownHub::ByPin(hub) => {
                Some(texts(&hub.pins_of(leaf, others, at)).join(",")).filter(|it| !it.is_empty())
            }
            KnownHub::ByName(hub) => Some(hub.name().to_owned()),
        }
    }

    /// The pins that it goes by; none of an own PKI.
    pub fn pins(&self) -> Vec<String> {
        match &self.hub {
            KnownHub::ByPin(hub) => texts(hub.pins()),
            KnownHub::ByName(_) => Vec::new(),
        }
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Reason> {
        match &self.hub {
            KnownHub::ByPin(hub) => hub.judge(leaf, others, now),
            KnownHub::ByName(hub) => hub.judge(leaf, others, now),
        }
    }
}

fn texts(pins: &[SpkiHash]) -> Vec<String> {
    pins.iter().map(pin_text).collect()
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
        self.algorithms.supported_schemes()
    }
}
