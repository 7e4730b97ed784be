//! Sockets to a broker: TCP or TLS, by address. Speaks no Pulsar.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where a broker (or its admin API) listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// TLS from the first byte.
    pub tls: bool,
}

impl Address {
    /// Parses `pulsar://host[:port]`, `pulsar+ssl://…`, `http://…` or `https://…`.
    pub fn parse(url: &str) -> Result<Self, TransportError> {
        let bad = || TransportError::Url { url: url.chars().take(256).collect() };
        let (scheme, rest) = url.split_once("://").ok_or_else(bad)?;
        let (tls, default_port) = match scheme {
            "pulsar" => (false, 6650),
            "pulsar+ssl" => (true, 6651),
            "http" => (false, 80),
            "https" => (true, 443),
            _ => return Err(bad()),
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| bad())?),
            Some(_) | None => (authority, default_port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains(['@', ' ']) {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port, tls })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}{}", self.host, self.port, if self.tls { " (TLS)" } else { "" })
    }
}

/// Why a broker could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No address in the text.
    #[error("`{url}` is no address: write pulsar://host:6650 or pulsar+ssl://host:6651")]
    Url {
        /// The text.
        url: String,
    },
    /// TCP or TLS failed.
    #[error("{address}: {source}")]
    Dial {
        /// Where to.
        address: Address,
        /// What happened.
        source: io::Error,
    },
    /// Nothing answered in time.
    #[error("{address}: no connection within {} s", DIAL_DEADLINE.as_secs())]
    Silent {
        /// Where to.
        address: Address,
    },
    /// A certificate or key file cannot be used.
    #[error("{file}: {problem}", file = file.display())]
    File {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// What a TLS connection to the own cluster is made with.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Certificates of the authorities that may sign a broker's certificate, PEM.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate chain, PEM (mTLS).
    pub cert_file: Option<PathBuf>,
    /// Its private key, PEM.
    pub key_file: Option<PathBuf>,
}

/// Dials brokers. Cheap to clone.
#[derive(Clone, Default)]
pub struct Dialer {
    tls: Option<Arc<ClientConfig>>,
}

impl Dialer {
    /// A dialer that can do TLS when `files` name an authority; the files are read now.
    pub fn new(files: &TlsFiles) -> Result<Self, TransportError> {
        let Some(ca_file) = &files.ca_file else {
            return Ok(Self { tls: None });
        };
        let refuse = |file: &PathBuf, problem: String| TransportError::File { file: file.clone(), problem };
        let mut roots = RootCertStore::empty();
        for cert in certificates(ca_file)? {
            roots.add(cert).map_err(|e| refuse(ca_file, e.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| refuse(ca_file, e.to_string()))?
            .with_root_certificates(roots);
        let config = match (&files.cert_file, &files.key_file) {
            (Some(cert_file), Some(key_file)) => {
                let key =
                    PrivateKeyDer::from_pem_file(key_file).map_err(|e| refuse(key_file, e.to_string()))?;
                builder
                    .with_client_auth_cert(certificates(cert_file)?, key)
                    .map_err(|e| refuse(cert_file, e.to_string()))?
            }
            (_, _) => builder.with_no_client_auth(),
        };
        Ok(Self { tls: Some(Arc::new(config)) })
    }

    /// Whether whoever listens at `address` sees a certificate of ours.
    pub fn shows_certificate(&self, address: &Address) -> bool {
        address.tls && self.tls.as_ref().is_some_and(|tls| tls.client_auth_cert_resolver.has_certs())
    }

    /// Connects, with TLS where the address says so.
    pub async fn dial(&self, address: &Address) -> Result<Box<dyn Stream>, TransportError> {
        let failed = |source| TransportError::Dial { address: address.clone(), source };
        let attempt = async {
            let tcp = TcpStream::connect((address.host.as_str(), address.port)).await?;
            tcp.set_nodelay(true)?;
            if !address.tls {
                return Ok(Box::new(tcp) as Box<dyn Stream>);
            }
            let tls = self.tls.clone().ok_or_else(|| io::Error::other(NO_CA))?;
            let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other)?;
            let stream = TlsConnector::from(tls).connect(name, tcp).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        };
        match tokio::time::timeout(DIAL_DEADLINE, attempt).await {
            Ok(outcome) => outcome.map_err(failed),
            Err(_) => Err(TransportError::Silent { address: address.clone() }),
        }
    }
}

/// A byte stream to a broker.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

fn certificates(file: &PathBuf) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let refuse = |problem: String| TransportError::File { file: file.clone(), problem };
    let certs: Vec<_> =
        CertificateDer::pem_file_iter(file).and_then(Iterator::collect).map_err(|e| refuse(e.to_string()))?;
    if certs.is_empty() {
        return Err(refuse("holds no certificate".into()));
    }
    Ok(certs)
}

/// Longer than any healthy handshake on a loaded broker.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);
const NO_CA: &str = "TLS wanted, but no authority is configured: set pulsar.tls.ca_file";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_their_default_ports() {
        let cases = [
            ("pulsar://a", ("a", 6650, false)),
            ("pulsar://a:1/", ("a", 1, false)),
            ("pulsar+ssl://b.c", ("b.c", 6651, true)),
            ("http://[::1]:8080", ("::1", 8080, false)),
            ("pulsar://[::1]", ("::1", 6650, false)),
        ];
        for (url, (host, port, tls)) in cases {
            let address = Address::parse(url).unwrap();
            assert_eq!((address.host.as_str(), address.port, address.tls), (host, port, tls), "{url}");
        }
        for url in ["a:6650", "ftp://a", "pulsar://", "pulsar://a:x", "pulsar://u@a"] {
            assert!(Address::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_certificate_is_shown_only_over_tls() {
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["bridge".to_owned()]).unwrap();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let without = TlsFiles { ca_file: Some(cert.clone()), ..TlsFiles::default() };
        let with = TlsFiles { cert_file: Some(cert), key_file: Some(key), ..without.clone() };
        let shown = |files: &TlsFiles, url| {
            Dialer::new(files).unwrap().shows_certificate(&Address::parse(url).unwrap())
        };
        assert!(shown(&with, "pulsar+ssl://a"));
        assert!(!shown(&with, "pulsar://a"));
        assert!(!shown(&without, "pulsar+ssl://a"));
    }
}
