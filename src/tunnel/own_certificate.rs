//! A certificate of an organisation's own PKI with its key, from files. Signs nothing but handshakes.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::TunnelError;
use super::key::sha256;
use super::pki::{PkiError, bytes_of, certificates};
use super::trust::validity;
use crate::config::CertificateFiles;
use crate::config::secret_file;

/// Certificate, what signed it, and its key.
#[derive(Debug)]
pub struct OwnCertificate {
    key: Arc<CertifiedKey>,
    expires: u64,
    fingerprint: [u8; 32],
}

impl OwnCertificate {
    /// Reads both files.
    pub fn load(files: &CertificateFiles, provider: &CryptoProvider) -> Result<Self, TunnelError> {
        let chain = certificates("cert_file", &files.cert)?;
        let text = secret_file::read(&files.key, KEY_LEN_MAX).map_err(TunnelError::CertificateKey)?;
        let refused = |key, file: &Path, wrong: &str| {
            TunnelError::Pki(PkiError { key, file: file.to_owned(), wrong: wrong.to_owned() })
        };
        let no_key = |wrong| refused("key_file", &files.key, wrong);
        let private = PrivateKeyDer::from_pem_slice(text.expose().as_bytes())
            .map_err(|_| no_key("it holds no private key in PEM"))?;
        let signing = provider.key_provider.load_private_key(private);
        let signing = signing.map_err(|_| no_key("its private key is of no kind that TLS 1.3 signs with"))?;
        let expires = chain.first().and_then(validity).map(|(_, end)| end);
        let expires = expires.ok_or_else(|| refused("cert_file", &files.cert, "it is not readable"))?;
        let fingerprint = sha256(&[&bytes_of(&chain), text.expose().as_bytes()].concat());
        let key = CertifiedKey::new(chain, signing);
        key.keys_match().map_err(|_| no_key("it is not the key of the certificate in cert_file"))?;
        Ok(Self { key: Arc::new(key), expires, fingerprint })
    }

    /// For TLS.
    pub fn certified(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }

    /// When it expires, Unix seconds.
    pub fn expires(&self) -> u64 {
        self.expires
    }

    /// Of what was read, so that another loading is known for the same.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key.clone())
    }
}

/// An RSA key of 8192 bits is some 6 KiB.
const KEY_LEN_MAX: u64 = 16 * 1024;
