//! The TLS of a `wss://` URL, which may be the hub's own or an ingress's. The edge's certificate is shown to nobody but
//! the pinned hub, and authorities of the system vouch for an ingress only, never for the hub.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore,
    SignatureAlgorithm, SignatureScheme,
};

use super::connection::{ALPN, EdgeTls, provider, reason_of};
use super::reason::Reason;

/// What an outer handshake may be done with.
#[derive(Clone)]
pub struct OuterTls {
    hub: EdgeTls,
    /// None where neither system nor configuration has an authority.
    authorities: Option<Arc<WebPkiServerVerifier>>,
}

/// Why the authorities' file is not used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct AuthoritiesError {
    file: String,
    problem: String,
}

impl OuterTls {
    /// With the system's authorities and those of a file.
    pub fn new(hub: EdgeTls, ca_file: Option<&Path>) -> Result<Self, AuthoritiesError> {
        let mut roots = RootCertStore::empty();
        let system = rustls_native_certs::load_native_certs();
        let (_, unusable) = roots.add_parsable_certificates(system.certs);
        if unusable > 0 || !system.errors.is_empty() {
            tracing::debug!(
                unusable,
                errors = system.errors.len(),
                "some of the system's authorities are no use"
            );
        }
        if let Some(file) = ca_file {
            let refused = |problem: String| AuthoritiesError { file: file.display().to_string(), problem };
            let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let certificates = read.map_err(|error| refused(error.to_string()))?;
            if certificates.is_empty() {
                return Err(refused("holds no certificate".into()));
            }
            for certificate in certificates {
                roots.add(certificate).map_err(|error| refused(error.to_string()))?;
            }
        }
        let authorities = match roots.is_empty() {
            true => None,
            false => WebPkiServerVerifier::builder_with_provider(roots.into(), provider()).build().ok(),
        };
        Ok(Self { hub, authorities })
    }

    /// The same for another half of TLS.
    pub(super) fn with(&self, hub: EdgeTls) -> Self {
        Self { hub, authorities: self.authorities.clone() }
    }

    /// One handshake's configuration, and where it will be written who was met.
    pub(super) fn handshake(&self, shows_certificate: bool) -> (Arc<ClientConfig>, Arc<Met>) {
        let met = Arc::new(Met::default());
        let mut config = (*self.hub.config).clone();
        config.alpn_protocols = vec![ALPN.to_vec(), HTTP.to_vec()];
        let verifier = Verifier {
            hub: self.hub.verifier.clone(),
            authorities: self.authorities.clone(),
            met: met.clone(),
        };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        let inner = config.client_auth_cert_resolver.clone();
        config.client_auth_cert_resolver =
            Arc::new(Guarded { inner: shows_certificate.then_some(inner), met: met.clone() });
        (Arc::new(config), met)
    }
}

/// Who ended the outer TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// The pinned hub.
    Hub,
    /// Somebody whom an authority vouches for; why it is not the hub.
    Other(Reason),
}

/// Who was met in one handshake.
#[derive(Debug, Default)]
pub(super) struct Met(Mutex<Option<Server>>);

impl Met {
    /// Who, once the certificate was judged.
    pub(super) fn server(&self) -> Option<Server> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, server: Server) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
    }
}

/// The pinned hub, or whoever an authority vouches for; which of them is written down.
#[derive(Debug)]
struct Verifier {
    hub: Arc<dyn ServerCertVerifier>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
    met: Arc<Met>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let not_the_hub =
            match self.hub.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
                Ok(verified) => {
                    self.met.note(Server::Hub);
                    return Ok(verified);
                }
                Err(error) => error,
            };
        // The hub itself, by a wrong clock, is nobody else.
        let Some(reason @ Reason::Intercepted { .. }) = reason_in(&not_the_hub) else {
            return Err(not_the_hub);
        };
        let Some(authorities) = &self.authorities else {
            return Err(not_the_hub);
        };
        match authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Ok(verified) => {
                self.met.note(Server::Other(reason));
                Ok(verified)
            }
            Err(_) => Err(not_the_hub),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.hub.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.hub.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.hub.supported_verify_schemes()
    }
}

fn reason_in(error: &Error) -> Option<Reason> {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else {
        return None;
    };
    other.0.downcast_ref().cloned()
}

/// The edge's certificate, behind a guard: rustls chooses it as soon as a server asks, and writes it together with the
/// signature after the server was judged; a signature that is refused keeps back both.
#[derive(Debug)]
struct Guarded {
    inner: Option<Arc<dyn ResolvesClientCert>>,
    met: Arc<Met>,
}

impl ResolvesClientCert for Guarded {
    fn resolve(
        &self,
        root_hint_subjects: &[&[u8]],
        sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let chosen = self.inner.as_ref()?.resolve(root_hint_subjects, sigschemes)?;
        let key = GuardedKey { inner: chosen.key.clone(), met: self.met.clone() };
        Some(Arc::new(CertifiedKey::new(chosen.cert.clone(), Arc::new(key))))
    }

    fn has_certs(&self) -> bool {
        self.inner.is_some()
    }
}

#[derive(Debug)]
struct GuardedKey {
    inner: Arc<dyn SigningKey>,
    met: Arc<Met>,
}

impl SigningKey for GuardedKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let inner = self.inner.choose_scheme(offered)?;
        Some(Box::new(GuardedSigner { inner, met: self.met.clone() }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.inner.algorithm()
    }
}

#[derive(Debug)]
struct GuardedSigner {
    inner: Box<dyn Signer>,
    met: Arc<Met>,
}

impl Signer for GuardedSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        match self.met.server() {
            Some(Server::Hub) => self.inner.sign(message),
            Some(Server::Other(_)) | None => Err(Error::General(NOT_THE_HUB.into())),
        }
    }

    fn scheme(&self) -> SignatureScheme {
        self.inner.scheme()
    }
}

/// Whether a handshake ended because somebody else than the hub asked for the edge's certificate.
pub(super) fn asked_for_certificate(error: &std::io::Error) -> bool {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    matches!(tls, Some(Error::General(text)) if text == NOT_THE_HUB)
}

/// Why an outer handshake failed.
pub(super) fn reason_of_outer(error: &std::io::Error) -> Reason {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        Some(Error::AlertReceived(AlertDescription::ProtocolVersion) | Error::PeerIncompatible(_)) => {
            Reason::IngressTls
        }
        Some(_) | None => reason_of(error),
    }
}

/// What an ingress speaks that passes WebSockets on.
pub(super) const HTTP: &[u8] = b"http/1.1";
const NOT_THE_HUB: &str = "the edge's certificate is for the pinned hub only";
