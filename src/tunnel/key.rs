//! The edge's key: a seed becomes an Ed25519 key in a self-signed wrapper; keys are known by the SHA-256 of
//! their SPKI. Keeps no seed and shows none.

use aws_lc_rs::{digest, hkdf};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ED25519, PublicKeyData, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use webpki::EndEntityCert;

use crate::config::credential::{EdgeKey, JoinToken};

/// SHA-256 of a subject public key info: how both sides know each other.
pub type SpkiHash = [u8; 32];

/// An edge's certificate and private key, for TLS.
pub struct EdgeCertificate {
    /// The self-signed wrapper.
    pub certificate: CertificateDer<'static>,
    /// The private half.
    pub private_key: PrivateKeyDer<'static>,
    /// The public half, as the hub lists it.
    pub edge_key: EdgeKey,
}

impl EdgeCertificate {
    /// The key and wrapper that a join token carries.
    pub fn of_token(token: &JoinToken) -> Result<Self, rcgen::Error> {
        Self::of_seed(&token.edge, token.seed())
    }

    /// The key and wrapper that a seed makes.
    pub fn of_seed(edge: &str, seed: &[u8; 32]) -> Result<Self, rcgen::Error> {
        let pkcs8 = PrivatePkcs8KeyDer::from(pkcs8_of_seed(seed));
        let key_pair = KeyPair::from_pkcs8_der_and_sign_algo(&pkcs8, &PKCS_ED25519)?;
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name.push(DnType::CommonName, edge);
        // The hub knows the key itself; dates would only add a way to fail.
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(9999, 12, 31);
        let certificate = params.self_signed(&key_pair)?;
        Ok(Self {
            certificate: certificate.der().clone(),
            private_key: PrivateKeyDer::Pkcs8(pkcs8),
            edge_key: EdgeKey {
                edge: edge.to_owned(),
                spki_sha256: sha256(&key_pair.subject_public_key_info()),
            },
        })
    }
}

/// The hash of a certificate's public key; `None` for what is no certificate.
pub fn spki_sha256(certificate: &CertificateDer<'_>) -> Option<SpkiHash> {
    let parsed = EndEntityCert::try_from(certificate).ok()?;
    Some(sha256(&parsed.subject_public_key_info()))
}

/// A root's pin as `bridge init` prints it.
pub fn pin_text(pin: &SpkiHash) -> String {
    URL_SAFE_NO_PAD.encode(pin)
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Random bytes from the system's generator.
pub fn random<const N: usize>() -> Result<[u8; N], rustls::Error> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| rustls::Error::FailedToGetRandomBytes)?;
    Ok(bytes)
}

/// RFC 8410: `OneAsymmetricKey` of Ed25519 without its public key is this head and the 32 bytes.
fn pkcs8_of_seed(seed: &[u8; 32]) -> Vec<u8> {
    let mut pkcs8 = PKCS8_ED25519_HEAD.to_vec();
    let key_start = pkcs8.len();
    pkcs8.resize(key_start + 32, 0);
    let filled = hkdf::Salt::new(hkdf::HKDF_SHA256, &[])
        .extract(seed)
        .expand(&[EDGE_KEY_INFO], hkdf::HKDF_SHA256)
        .and_then(|key| key.fill(&mut pkcs8[key_start..]));
    assert!(filled.is_ok(), "hkdf refuses only more than 255 blocks, this is one");
    pkcs8
}

const EDGE_KEY_INFO: &[u8] = b"bridge/edge-key/v1";
const PKCS8_ED25519_HEAD: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_makes_the_same_key_and_another_seed_another() {
        let one = EdgeCertificate::of_seed("bank", &[1; 32]).unwrap();
        let again = EdgeCertificate::of_seed("bank", &[1; 32]).unwrap();
        let other = EdgeCertificate::of_seed("bank", &[2; 32]).unwrap();
        assert_eq!(one.edge_key, again.edge_key);
        assert_ne!(one.edge_key, other.edge_key);
        assert_eq!(spki_sha256(&one.certificate), Some(one.edge_key.spki_sha256));
    }

    #[test]
    fn the_derivation_is_hkdf_sha256_so_that_every_release_makes_the_same_key() {
        // HKDF-SHA256 by hand (RFC 5869): PRK = HMAC(zeros, seed), OKM = HMAC(PRK, info ‖ 1).
        use aws_lc_rs::hmac;
        let prk = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[0; 32]), &[1; 32]);
        let info = [EDGE_KEY_INFO, &[1]].concat();
        let okm = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, prk.as_ref()), &info);
        assert_eq!(&pkcs8_of_seed(&[1; 32])[16..], okm.as_ref());
    }

    #[test]
    fn what_is_no_certificate_has_no_key() {
        assert_eq!(spki_sha256(&CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])), None);
    }
}
