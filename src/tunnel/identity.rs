//! The hub's identity: the issuer's key and chain from files, and the leaf that it mints in memory.
//! Never makes trust: missing files are an error, and the root's key is not wanted here.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::key::{pin_text, sha256, spki_sha256};
use super::reason::shown;
use super::trust::{hub_dns_name, is_root, validity};
use crate::config::secret_file::{self, SecretFileError};

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The issuer's key is missing or open to others.
    #[error(transparent)]
    Key(#[from] SecretFileError),
    /// A file does not hold what it should.
    #[error("{file}: {wrong}")]
    Unusable {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        wrong: String,
    },
    /// The issuer is another hub's.
    #[error("{file}: its issuer signs only for `{signs_for}`, and this site is `{site}`")]
    OfAnother {
        /// The chain's file.
        file: PathBuf,
        /// The name that it may sign for, as it says (capped, escaped).
        signs_for: String,
        /// This site.
        site: String,
    },
    /// A leaf could not be made.
    #[error("cannot mint the hub's certificate: {0}")]
    Mint(String),
}

impl IdentityError {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::Key(SecretFileError::Unreadable { .. }) => {
                "copy here what `bridge init` wrote for this hub, do not make a new one".into()
            }
            Self::Key(error) => error.remedy(),
            Self::Unusable { .. } => "copy the file that `bridge init` wrote again".into(),
            Self::OfAnother { .. } => {
                "make `site` the name that the keys were made for, or give this hub keys of its own (`bridge init`)"
                    .into()
            }
            Self::Mint(_) => {
                "copy the files that `bridge init` wrote again; if that does not help, report it".into()
            }
        }
    }
}

/// Issuer and chain of a hub, and the leaf in use.
#[derive(Debug)]
pub struct HubIdentity {
    hub: String,
    issuer: Issuer<'static, KeyPair>,
    /// The issuer and its root; while roots rotate, the issuer again by the next one, and that.
    chain: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
    leaf: Mutex<Option<Leaf>>,
}

#[derive(Clone, Debug)]
struct Leaf {
    key: Arc<CertifiedKey>,
    not_before: SystemTime,
    renew_at: SystemTime,
}

impl HubIdentity {
    /// Reads `issuer.key` and `chain.pem` from the identity's directory.
    pub fn load(dir: &Path, hub: &str, provider: Arc<CryptoProvider>) -> Result<Self, IdentityError> {
        let key_file = dir.join(ISSUER_KEY_FILE);
        let key_text = secret_file::read(&key_file, IDENTITY_FILE_LEN_MAX)?;
        let key = KeyPair::from_pem(key_text.expose())
            .map_err(|_| IdentityError::Unusable { file: key_file, wrong: "no private key in PEM".into() })?;
        let chain_file = dir.join(CHAIN_FILE);
        let unusable = |wrong: String| IdentityError::Unusable { file: chain_file.clone(), wrong };
        let chain = read_chain(&chain_file).map_err(&unusable)?;
        let [issuer, _root, ..] = &chain[..] else {
            return Err(unusable("it must hold the issuer and its root".into()));
        };
        if spki_sha256(issuer) != Some(sha256(&key_spki(&key))) {
            return Err(unusable(format!("its first certificate is not of {ISSUER_KEY_FILE}")));
        }
        if let Some(signs_for) = signs_only_for(issuer).filter(|name| *name != hub_dns_name(hub)) {
            let (signs_for, site) = (shown(&signs_for), hub.to_owned());
            return Err(IdentityError::OfAnother { file: chain_file, signs_for, site });
        }
        let issuer = Issuer::from_ca_cert_der(issuer, key).map_err(|error| unusable(error.to_string()))?;
        let identity = Self { hub: hub.to_owned(), issuer, chain, provider, leaf: Mutex::new(None) };
        identity.leaf_at(SystemTime::now())?;
        Ok(identity)
    }

    /// When the first of the issuer's certificates expires, Unix seconds.
    pub fn issuer_expires(&self) -> u64 {
        self.expires(|certificate| !is_root(certificate))
    }

    /// When the first of its roots expires, Unix seconds.
    pub fn root_expires(&self) -> u64 {
        self.expires(is_root)
    }

    /// The pins of its roots, the newest first.
    pub fn pins(&self) -> Vec<String> {
        let roots = self.chain.iter().rev().filter(|certificate| is_root(certificate));
        roots.filter_map(spki_sha256).map(|pin| pin_text(&pin)).collect()
    }

    fn expires(&self, is_meant: impl Fn(&CertificateDer<'_>) -> bool) -> u64 {
        let meant = self.chain.iter().filter(|certificate| is_meant(certificate));
        meant.filter_map(validity).map(|(_, end)| end).min().unwrap_or(0)
    }

    /// The leaf to present at a time; minted anew when half of its life is over or the clock jumped.
    fn leaf_at(&self, now: SystemTime) -> Result<Arc<CertifiedKey>, IdentityError> {
        let mut leaf = self.leaf.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = leaf.as_ref().filter(|leaf| (leaf.not_before..leaf.renew_at).contains(&now)) {
            return Ok(leaf.key.clone());
        }
        let minted = self.mint(now)?;
        let key = minted.key.clone();
        *leaf = Some(minted);
        Ok(key)
    }

    fn mint(&self, now: SystemTime) -> Result<Leaf, IdentityError> {
        let failed = |error: &dyn std::fmt::Display| IdentityError::Mint(error.to_string());
        let key = KeyPair::generate().map_err(|e| failed(&e))?;
        let not_before = now - BACKDATED;
        let mut params = CertificateParams::new([hub_dns_name(&self.hub)]).map_err(|e| failed(&e))?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, self.hub.as_str());
        params.not_before = not_before.into();
        params.not_after = (now + LEAF_LIFE).into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).map_err(|e| failed(&e))?;
        let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| failed(&e))?;
        let signing = self.provider.key_provider.load_private_key(private).map_err(|e| failed(&e))?;
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.chain.iter().cloned());
        Ok(Leaf {
            key: Arc::new(CertifiedKey::new(chain, signing)),
            not_before,
            renew_at: now + LEAF_LIFE / 2,
        })
    }
}

impl ResolvesServerCert for HubIdentity {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match self.leaf_at(SystemTime::now()) {
            Ok(key) => Some(key),
            Err(error) => {
                tracing::error!(%error, "no certificate to present");
                None
            }
        }
    }
}

/// The one DNS name that an issuer is constrained to, where it is.
fn signs_only_for(issuer: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(issuer).ok()?;
    let constraints = parsed.name_constraints().ok()??;
    let permitted = constraints.value.permitted_subtrees.as_ref()?;
    let [only] = &permitted[..] else {
        return None;
    };
    if let GeneralName::DNSName(name) = only.base { Some(name.to_owned()) } else { None }
}

fn key_spki(key: &KeyPair) -> Vec<u8> {
    use rcgen::PublicKeyData;
    key.subject_public_key_info()
}

/// The certificates of a PEM file, in order.
pub fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = std::fs::read(file).map_err(|error| error.to_string())?;
    if text.len() as u64 > IDENTITY_FILE_LEN_MAX {
        return Err(format!("longer than {IDENTITY_FILE_LEN_MAX} bytes"));
    }
    CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>().map_err(|error| error.to_string())
}

/// The issuer's private key, in the identity's directory.
pub const ISSUER_KEY_FILE: &str = "issuer.key";
/// Issuer and root certificates, in the identity's directory.
pub const CHAIN_FILE: &str = "chain.pem";
/// Identity files are a few KiB.
const IDENTITY_FILE_LEN_MAX: u64 = 64 * 1024;
/// A leaf's life; renewed at half of it.
const LEAF_LIFE: Duration = Duration::from_secs(7 * 86_400);
/// Edges whose clocks are a little behind still accept a fresh leaf.
const BACKDATED: Duration = Duration::from_secs(3600);
