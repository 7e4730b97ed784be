//! TLS as the link wants it: 1.3 only, both sides by key, no resumption, ALPN `bridge/1`; and the exchange of
//! handshake frames on it. Holds no policy of who may join.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prost::Message;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, NamedGroup, ServerConfig};
use tokio_rustls::TlsStream;

use super::carrier::Carrier;
use super::key::{hex, sha256};
use super::known_hub::HubVerifier;
use super::meter::{Meter, ReadBeyondBound};
use super::pki::Doubt;
use super::reason::{Reason, Unvouched};
use super::trust::{EdgeBook, EdgeVerifier};
use super::wire::{Frame, HANDSHAKE_LEN_MAX, WireError, read_frame, write_frame};

/// A TLS connection whose handshake is done.
pub type Tls = TlsStream<Carrier>;

/// The provider of all cryptography here.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The hub's half of TLS.
pub fn hub_tls(
    certificates: Arc<dyn ResolvesServerCert>,
    book: Arc<EdgeBook>,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = provider();
    let verifier = EdgeVerifier::new(book, provider.signature_verification_algorithms);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would skip the verifier, also after a revocation.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    Ok(Arc::new(config))
}

/// The edge's half of TLS.
#[derive(Clone)]
pub struct EdgeTls {
    /// For a handshake with the hub, and with nobody else.
    pub config: Arc<ClientConfig>,
    /// Who the hub is.
    pub verifier: Arc<HubVerifier>,
}

/// The edge's half of TLS.
pub fn edge_tls(verifier: Arc<HubVerifier>, own: Arc<CertifiedKey>) -> Result<EdgeTls, rustls::Error> {
    edge_tls_by(provider(), verifier, own)
}

/// The same without the post-quantum groups, whose ClientHello of 1.6 KB some firewalls refuse: for finding such a
/// firewall, never for a link.
pub fn edge_tls_of_small_hello(
    verifier: Arc<HubVerifier>,
    own: Arc<CertifiedKey>,
) -> Result<EdgeTls, rustls::Error> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups.retain(|group| {
        matches!(group.name(), NamedGroup::X25519 | NamedGroup::secp256r1 | NamedGroup::secp384r1)
    });
    edge_tls_by(Arc::new(provider), verifier, own)
}

fn edge_tls_by(
    provider: Arc<CryptoProvider>,
    verifier: Arc<HubVerifier>,
    own: Arc<CertifiedKey>,
) -> Result<EdgeTls, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(EdgeTls { config: Arc::new(config), verifier })
}

/// The name that the edge puts into SNI: the URL's host, whatever the hub is called.
pub fn server_name(host: &str) -> Result<ServerName<'static>, Reason> {
    ServerName::try_from(host.to_owned())
        .map_err(|_| Reason::Unreachable { error: "the host is neither a dns name nor an address".into() })
}

/// Whether both sides agreed on our protocol; without it nothing of ours is sent.
pub fn speaks_bridge(tls: &Tls) -> bool {
    let (_, session) = tls.get_ref();
    session.alpn_protocol() == Some(ALPN)
}

/// Its meter.
pub fn meter_of(tls: &Tls) -> Arc<Meter> {
    tls.get_ref().0.meter().clone()
}

/// How it goes, for status and logs.
pub fn way_of(tls: &Tls) -> String {
    tls.get_ref().0.way().to_string()
}

/// Reads a handshake frame.
pub async fn receive(tls: &mut Tls) -> Result<Frame, Reason> {
    read_frame(tls, HANDSHAKE_LEN_MAX).await.map_err(|error| match error {
        WireError::Io(error) => reason_of(&error),
        WireError::TooLong { .. } | WireError::Empty => Reason::Malformed,
    })
}

/// Writes a handshake message; returns its encoded body.
pub async fn send(tls: &mut Tls, kind: u8, message: &impl Message) -> Result<Vec<u8>, Reason> {
    let body = message.encode_to_vec();
    write_frame(tls, kind, &body).await.map_err(|error| reason_of(&error))?;
    Ok(body)
}

/// The lane's evidence id: equal on both sides when nobody sat between. Not authentication: the exporter
/// does not bind the client's certificate.
pub fn lane_id(tls: &Tls, hello: &[u8], welcome: &[u8]) -> Result<String, Reason> {
    let context = sha256(&[hello, welcome].concat());
    let output = [0_u8; 32];
    let exported = match tls {
        TlsStream::Client(tls) => {
            tls.get_ref().1.export_keying_material(output, EXPORTER_LABEL, Some(&context))
        }
        TlsStream::Server(tls) => {
            tls.get_ref().1.export_keying_material(output, EXPORTER_LABEL, Some(&context))
        }
    };
    let id = exported.map_err(|_| Reason::Malformed)?;
    Ok(hex(&id[..LANE_ID_SHOWN]))
}

/// The reason behind an error of a socket or of TLS on it.
pub fn reason_of(error: &io::Error) -> Reason {
    let Some(inner) = error.get_ref() else {
        return Reason::PeerClosed;
    };
    if inner.is::<ReadBeyondBound>() {
        return Reason::Malformed;
    }
    match inner.downcast_ref::<rustls::Error>() {
        Some(tls) => reason_of_tls(tls),
        None => Reason::PeerClosed,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "rustls' errors are open-ended")]
pub(super) fn reason_of_tls(error: &rustls::Error) -> Reason {
    use rustls::{AlertDescription, CertificateError, Error};
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref::<Reason>().cloned().unwrap_or(Reason::NotABridge)
        }
        Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
        | Error::AlertReceived(AlertDescription::AccessDenied) => Reason::RefusedUnknownKey,
        Error::InvalidCertificate(error) => Doubt::of_edge(error).unwrap_or(Reason::NotABridge),
        // What a hub says to a certificate that its organisation's authorities no longer vouch for.
        Error::AlertReceived(AlertDescription::CertificateRevoked) => Reason::Unvouched(Unvouched::Revoked),
        Error::AlertReceived(AlertDescription::CertificateExpired) => Reason::Unvouched(Unvouched::Expired),
        // What an edge says to a chain that it does not believe.
        Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::UnknownCA,
        ) => Reason::CertificateRefused,
        // A hub's CertificateVerify or Finished that does not fit its certificate: somebody else has it.
        _ => Reason::NotABridge,
    }
}

/// Unix time in milliseconds, for the peer to measure our clock by.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// The one protocol.
pub const ALPN: &[u8] = b"bridge/1";
/// From the first byte to Welcome, absolute.
pub const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// What an unauthenticated peer may send at most.
pub const UNAUTHENTICATED_READ_MAX: u64 = 64 * 1024;
const EXPORTER_LABEL: &[u8] = b"EXPERIMENTAL bridge lane v1";
/// Bytes of the exporter that are shown: 16 hex digits.
const LANE_ID_SHOWN: usize = 8;
